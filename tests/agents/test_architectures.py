"""Each of today's architectures is scored, sampled and trained as Hugging Face's own plain forward pass has it."""

import random

import pytest
import torch
from opid_agents.lora import LoraSettings
from opid_agents.packing import pack, share
from opid_agents.policy import Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams

from tests.agents.architectures import ARCHITECTURES, make_model, make_policy, tokenizer
from tests.agents.models import plain_log_probs, random_prompts

# What they cannot do but alone; whatever is not named here does everything.
ALONE = {
    "mpt": {"branches"},
    **{
        name: {"branches", "cache"}
        for name in (
            *("bamba", "bloom", "falcon/alibi", "gpt_neo", "jamba", "lfm2"),
            *("llama4_text", "mamba", "mamba2", "minimax", "qwen3_next", "recurrent_gemma"),
        )
    },
}
# Where adapters do not work in all linear layers, or cannot be merged.
NO_ADAPTERS = {"llama4_text", "mamba", "mamba2"}
NOT_MERGED = {"jamba"}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def policy(name):
    return make_policy(name)


def samples(policy):
    """Prompts with a common beginning, one within another, of unlike length, and past every window; and replies."""
    stem, other = random_prompts(policy, [21, 33], seed=4)
    prompts = [stem, [*stem, 7, 8, 9], [*stem, 50, 60], other, other[:3], [*stem, 7, 8]]
    return prompts, [[5, 6, 7], [9], [11, 12, 13, 14], [3, 4], [8, 8, 8, 8, 8], [9, 10]]


def assert_as_plain(policy, prompts, replies, found):
    for prompt, reply, values in zip(prompts, replies, found, strict=True):
        torch.testing.assert_close(torch.tensor(values), plain_log_probs(policy, prompt, reply), atol=1e-4, rtol=0)


def test_scores(policy):
    prompts, replies = samples(policy)
    assert_as_plain(policy, prompts, replies, policy.score(prompts, replies))


def test_rows_that_share_a_beginning(policy):
    prompts, replies = samples(policy)
    if not policy.shortcuts.branches:
        assert not any(row.branches for row in policy.rows(prompts, replies))
        return
    rows = share(pack(prompts, replies), even=1e9, longest=1000)
    assert any(row.branches for row in rows)
    with torch.no_grad():
        for row in rows:
            out = policy.log_probs([row])
            for sample, position, value in zip(out.sample, out.position, out.log_probs, strict=True):
                expected = plain_log_probs(policy, prompts[sample], replies[sample])[position]
                torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)


def test_three_turns_of_sampling(policy):
    sampler = HFSampler(policy)
    prompts, rng = samples(policy)[0], random.Random(0)
    params = SamplingParams(5, temperature=0.8, stop_token_ids=frozenset(range(2, 60)))
    for turn in range(3):
        seeds = [1000 * turn + i for i in range(len(prompts))]
        out = sampler.sample(prompts, params, seeds=seeds, keys=range(len(prompts)))
        for prompt, reply, values in zip(prompts, out.reply_ids, out.log_probs, strict=True):
            expected = plain_log_probs(policy, prompt, reply, 0.8)
            torch.testing.assert_close(torch.tensor(values), expected, atol=1e-4, rtol=0)
        prompts = [
            [*prompt, *reply, *(rng.randrange(2, 300) for _ in range(rng.randrange(1, 4)))]
            for prompt, reply in zip(prompts, out.reply_ids, strict=True)
        ]


def gradients(policy, loss):
    policy.model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return found


def test_gradients(policy):
    prompts, replies = samples(policy)
    ours = sum(policy.log_probs(batch).log_probs.sum() for batch in policy.batches(policy.rows(prompts, replies)))
    plain = 0
    for prompt, reply in zip(prompts, replies, strict=True):
        logits = policy.model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
        plain = plain + logits.log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)].sum()
    ours, plain = gradients(policy, ours), gradients(policy, plain)
    assert ours
    for key, gradient in ours.items():
        scale = float(plain[key].abs().max())
        torch.testing.assert_close(gradient, plain[key], atol=1e-4 * max(1.0, scale), rtol=1e-3)


def test_checkpointing_changes_no_gradient(name, policy):
    prompts, replies = samples(policy)
    rows = policy.rows(prompts, replies)
    plain = gradients(policy, policy.log_probs(rows[:1]).log_probs.sum())
    words = tokenizer()
    if not policy.model.supports_gradient_checkpointing:
        with pytest.raises(ValueError, match="gradient checkpointing is not possible"):
            Policy(make_model(name, len(words)), words, gradient_checkpointing=True)
        return
    kept = Policy(make_model(name, len(words)), words, gradient_checkpointing=True)
    found = gradients(kept, kept.log_probs(rows[:1]).log_probs.sum())
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, plain[key], atol=1e-5, rtol=1e-4)


def test_adapters_and_saving(name, policy, tmp_path):
    prompts, replies = samples(policy)
    before = policy.score(prompts, replies)
    policy.save(tmp_path / "whole")
    again = Policy.load(tmp_path / "whole")
    assert_as_plain(policy, prompts, replies, again.score(prompts, replies))
    if name in NO_ADAPTERS:
        with pytest.raises(ValueError, match=f"adapters do not work in '{name}' with targets 'all-linear'"):
            again.add_lora(LoraSettings(rank=2), tmp_path / "whole")
        return
    again.add_lora(LoraSettings(rank=2), tmp_path / "whole")
    with torch.no_grad():
        for parameter in again.trained():
            parameter.add_(0.02)
    changed = again.score(prompts, replies)
    assert changed[0] != pytest.approx(before[0], abs=1e-3)
    assert_as_plain(again, prompts, replies, changed)
    for base, expected in zip(again.base_scores(prompts, replies), before, strict=True):
        assert base == pytest.approx(expected, abs=1e-4)
    again.save(tmp_path / "adapters")
    folders = ["adapters"]
    if name in NOT_MERGED:
        with pytest.raises(ValueError, match=f"adapters of '{name}' cannot be merged exactly"):
            again.save(tmp_path / "merged", merge=True)
    else:
        again.save(tmp_path / "merged", merge=True)
        folders.append("merged")
    for folder in folders:
        for found, expected in zip(Policy.load(tmp_path / folder).score(prompts, replies), changed, strict=True):
            assert found == pytest.approx(expected, abs=1e-4)


def test_what_they_cannot_do_but_alone(name, policy):
    missing = {what for what in ("padding", "branches", "cache") if not getattr(policy.shortcuts, what)}
    assert missing == ALONE.get(name, set())
