"""vLLM needs CUDA, which is not there, so `StandIn` takes its place.

It has the names and signatures of vLLM 0.11.0 that we call, and refuses others. What it samples comes from the model
in the folder it was given: weights that were not handed over show as a difference in log-probabilities.
"""

import json
import sys
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType, SimpleNamespace

import pytest
import torch
from opid_agents.learning.samples import StepSample
from opid_agents.learning.stages import rescore_old
from opid_agents.learning.train import evaluate_policy, train
from opid_agents.learning.warm import make_start
from opid_agents.lora import LoraSettings
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import RecipeError, change
from opid_agents.vllm_sampler import VLLMSampler

from tests.agents.models import random_prompts, tiny_llama, tiny_recipe


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    seed: int
    logprobs: int
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool


class StandIn:
    """In place of ``vllm.LLM``; see above."""

    made: list["StandIn"] = []  # noqa: RUF012

    def __init__(self, model, **options):
        self.model, self.options = model, options
        self.policy = Policy.load(model)
        self.generated = []
        self.calls = []
        StandIn.made.append(self)

    def generate(self, prompts, sampling_params, *, use_tqdm):
        self.generated.append((prompts, sampling_params))
        self.calls.append("generate")
        return [self.answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def answer(self, prompt, params):
        samples = self.policy.sample(
            [prompt],
            max_new_tokens=params.max_tokens,
            temperature=params.temperature,
            generator=torch.Generator().manual_seed(params.seed),
            stop=frozenset(params.stop_token_ids),
        )
        reply, values = samples.reply_ids[0], samples.log_probs[0]
        pairs = zip(reply, values, strict=True)
        # vLLM may give further tokens beside the sampled one, in any order.
        places = [{-1: SimpleNamespace(logprob=9.0), i: SimpleNamespace(logprob=v)} for i, v in pairs]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(reply), logprobs=places)])

    def collective_rpc(self, method):
        assert method == "reload_weights"
        self.calls.append(method)
        self.policy = Policy.load(self.model)

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return True


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(StandIn, "made", [])
    return module


def test_prompts_go_as_tokens_and_replies_come_back_in_order_with_their_log_probabilities(tmp_path):
    policy = tiny_llama()
    sample = VLLMSampler(policy, tmp_path / "weights")
    prompts = random_prompts(policy, [5, 40, 12])
    stop = policy.stop_ids(("\n",))
    found = sample(prompts, max_new_tokens=9, temperature=0.7, generator=torch.Generator().manual_seed(1), stop=stop)
    asked, params = StandIn.made[0].generated[0]
    assert [request["prompt_token_ids"] for request in asked] == prompts
    assert all(p.stop_token_ids == sorted(stop) and p.ignore_eos and p.max_tokens == 9 for p in params)
    assert len({p.seed for p in params}) == 3
    for reply, values, scored in zip(
        found.reply_ids, found.log_probs, policy.score(prompts, found.reply_ids, temperature=0.7), strict=True
    ):
        assert 1 <= len(reply) <= 9
        assert not stop & set(reply[:-1])
        assert values == pytest.approx(scored, abs=1e-4)


def test_the_same_generator_gives_the_same_replies(tmp_path):
    policy = tiny_llama()
    sample = VLLMSampler(policy, tmp_path)
    prompts = random_prompts(policy, [5, 8])
    a, b, c = (
        sample(prompts, max_new_tokens=12, generator=torch.Generator().manual_seed(seed)).reply_ids
        for seed in (1, 1, 2)
    )
    assert a == b != c
    assert sample([], max_new_tokens=3).reply_ids == []


def test_the_engine_has_the_policys_precision_and_context_and_logs_what_it_samples_from(tmp_path):
    policy = tiny_llama(context=128)
    VLLMSampler(policy, tmp_path, {"tensor_parallel_size": 2})
    assert StandIn.made[0].options == {
        "logprobs_mode": "processed_logprobs",
        "max_model_len": 128,
        "dtype": "float32",
        "tensor_parallel_size": 2,
    }
    with pytest.raises(ValueError, match=r"sampler\.options must not have logprobs_mode"):
        VLLMSampler(policy, tmp_path, {"logprobs_mode": "raw_logprobs"})


def test_after_sync_it_samples_from_the_new_weights_adapters_included(tmp_path):
    policy = tiny_llama()
    policy.add_lora(LoraSettings(rank=2), tmp_path / "base")
    sample = VLLMSampler(policy, tmp_path / "weights")
    with torch.no_grad():
        for parameter in policy.trained():
            parameter.add_(0.3)
    prompts = random_prompts(policy, [6, 20])

    def gap():
        found = sample(prompts, max_new_tokens=8, generator=torch.Generator().manual_seed(0))
        samples = [
            StepSample(i, 0, 0, p, r, v, 0.0, False)
            for i, (p, r, v) in enumerate(zip(prompts, found.reply_ids, found.log_probs, strict=True))
        ]
        rescored, difference = rescore_old(policy, samples, temperature=1.0)
        assert [s.log_probs for s in rescored] == policy.score(prompts, found.reply_ids)
        return difference

    assert gap() > 0.01
    sample.sync()
    assert gap() < 1e-4
    assert StandIn.made[0].calls == ["generate", "reload_weights", "reset_prefix_cache", "generate"]
    sample.close()
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("rescore", [True, False])
def test_a_run_hands_its_weights_over_once_an_iteration(tmp_path, rescore):
    recipe = tiny_recipe(
        "sampler.kind=vllm",
        f"sampler.rescore_old={str(rescore).lower()}",
        "iterations=2",
        "eval_every=1",
        "train_uniform_groups=true",
        "learning_rate=1e-2",
    )
    train(recipe, tmp_path, policy=make_start(recipe).policy)
    (engine,) = StandIn.made
    assert engine.options["gpu_memory_utilization"] == 0.4
    # The first rollout; then, each time on fresh weights, an evaluation and what follows it.
    fresh = ["reload_weights", "reset_prefix_cache", "generate"]
    assert [name for name, _ in groupby(engine.calls)] == ["generate", *fresh, *fresh]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    gaps = [line.get("opid/sampler_gap") for line in lines]
    assert all(gap < 1e-4 for gap in gaps) if rescore else gaps == [None, None]
    # The first pass starts where the samples come from: no ratio is away from 1.
    assert [line["train/clip_fraction"] for line in lines] == [0.0, 0.0]
    assert not (tmp_path / "sampler").exists()


def test_by_default_the_policy_samples_and_vllm_is_not_asked(tmp_path):
    recipe = tiny_recipe("iterations=1")
    policy = make_start(recipe).policy
    train(recipe, tmp_path, policy=policy)
    evaluate_policy(recipe, policy)
    assert StandIn.made == []


def test_without_vllm_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"pip install 'opid-gym\[vllm\]'"):
        VLLMSampler(tiny_llama(), tmp_path)


def test_an_unknown_sampler_is_named_with_what_is_allowed():
    with pytest.raises(RecipeError, match=r"sampler\.kind.*'hf' or 'vllm'"):
        change(tiny_recipe(), ["sampler.kind=sglang"])
