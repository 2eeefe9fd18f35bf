"""vLLM itself, its CPU build, in an environment of its own: ``make test-vllm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from opid_agents.lora import LoraSettings
from opid_agents.policy import ModelSize, Policy
from opid_agents.sampling.admissible import admissible_constraint
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.sampling.vllm import HandOverError, VLLMSampler
from opid_agents.tokenizer import train_tokenizer

from opid_gym.actions import TAGGED, parse_action

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

OPTIONS: dict[str, Any] = {
    "enforce_eager": True,
    "distributed_executor_backend": "uni",
    "max_num_batched_tokens": 32768,  # chunks of prompts and seeds of requests do not go together on a CPU
    "kv_cache_memory_bytes": 2**28,  # whatever else this machine's memory holds
}
TEXT = ["You are in a room with a fridge, a table and shelf 10. go to the fridge, open the drawer, look at a mug"] * 9


def make_policy() -> Policy:
    """Two layers with a head tied to the embedding; vLLM's CPU kernels want heads of at least 32 dimensions."""
    return Policy.create(train_tokenizer(TEXT, 300), ModelSize(64, 2, 2, 64, 512), seed=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    policy = make_policy()
    sampler = VLLMSampler(policy, tmp_path_factory.mktemp("vllm") / "weights", OPTIONS, constrain=True)
    yield policy, sampler
    sampler.close()


def prompts(policy: Policy) -> list[list[int]]:
    return [[(5 * place + 3) % len(policy.tokenizer) for place in range(size)] for size in (9, 70, 200)]


def change(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in policy.trained():
            weights.add_(torch.randn(weights.shape, generator=generator), alpha=0.05)


def gap(policy: Policy, sampler: VLLMSampler) -> tuple[float, list[list[int]]]:
    found = sampler.sample(prompts(policy), SamplingParams(12, 0.6), seeds=[1, 2, 3])
    scored = policy.score(prompts(policy), found.reply_ids, temperature=0.6)
    rows = zip(found.log_probs, scored, strict=True)
    return max(abs(a - b) for row, other in rows for a, b in zip(row, other, strict=True)), found.reply_ids


def test_log_probabilities_are_ours_over_three_hand_overs_that_change_the_samples(pair: Any) -> None:
    policy, sampler = pair
    apart, said = gap(policy, sampler)
    assert apart < 1e-3
    for seed in range(3):
        change(policy, seed)
        assert gap(policy, sampler)[0] > 1e-2
        sampler.sync()
        apart, now = gap(policy, sampler)
        assert apart < 1e-3
        assert now != said
        said = now


def test_a_hand_over_that_fails_stops_the_run(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sampler = pair
    change(policy, 9)
    with monkeypatch.context() as patch:
        patch.setattr(sampler._llm, "collective_rpc", lambda method: None)
        with pytest.raises(HandOverError, match="nats a token from those of the policy"):
            sampler.sync()
    sampler.sync()


def test_the_likeliest_tokens_and_the_ends_are_ours(pair: Any) -> None:
    policy, sampler = pair
    params = SamplingParams(30, 0.0, (" the",))
    found, ours = (one.sample(prompts(policy), params) for one in (sampler, HFSampler(policy)))
    assert (found.reply_ids, found.ended) == (ours.reply_ids, ours.ended)


def test_constrained_replies_are_admissible_with_our_log_probabilities(pair: Any) -> None:
    policy, sampler = pair
    actions, reply = ("look", "go to the fridge", "open the drawer"), "<think>hm</think><action>{action}</action>"
    constraint = admissible_constraint(actions, TAGGED, reply, stop=(), end=policy.end_token)
    found = sampler.sample(prompts(policy), SamplingParams(60), seeds=[1, 2, 3], constraints=[constraint] * 3)
    masks = [constraint.masks(policy.vocabulary, ids, 60) for ids in found.reply_ids]
    scored = policy.score(prompts(policy), found.reply_ids, masks=masks)
    for ids, values, again in zip(found.reply_ids, found.log_probs, scored, strict=True):
        assert parse_action(policy.decode(ids), TAGGED, actions).action in actions
        assert again == pytest.approx(values, abs=1e-3)


def test_adapters_are_swapped_without_their_base(tmp_path: Path) -> None:
    policy = make_policy()
    policy.add_lora(LoraSettings(rank=4), tmp_path / "base")
    sampler = VLLMSampler(policy, tmp_path / "weights", OPTIONS)
    said = []
    for seed in range(3):
        apart, ids = gap(policy, sampler)
        assert apart < 1e-3
        said.append(ids)
        change(policy, seed)
        assert gap(policy, sampler)[0] > 1e-2
        sampler.sync()
    assert gap(policy, sampler)[0] < 1e-3
    assert said[0] != said[1] != said[2]
    sampler.close()


def test_another_engine_starts_after_the_first_was_closed(tmp_path: Path) -> None:
    policy = make_policy()
    for _ in range(2):
        sampler = VLLMSampler(policy, tmp_path / "weights", OPTIONS)
        assert gap(policy, sampler)[0] < 1e-3
        sampler.close()
        assert not (tmp_path / "weights").exists()
