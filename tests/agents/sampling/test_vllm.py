"""vLLM does not go into the same environment as the rest, so `StandIn` takes its place.

`tests/vllm` runs vLLM itself. The stand-in has the names and signatures that we call, and refuses others. What it
samples comes from the model in the folder it was given: weights that were not handed over show as a difference in
log-probabilities.
"""

import json
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import groupby
from types import ModuleType, SimpleNamespace

import pytest
import torch
from opid_agents.lora import LoraSettings
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import RecipeError, change
from opid_agents.sampling.admissible import admissible_constraint
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams as Params
from opid_agents.sampling.vllm import VLLMSampler
from opid_agents.training.batch import Batch, StepSample
from opid_agents.training.evaluation import evaluate_policy
from opid_agents.training.rescoring import rescore_old
from opid_agents.training.warm_start import make_start

from opid_gym.actions import BARE, TAGGED, parse_action
from tests.agents.models import Critic, random_prompts, tiny_llama, tiny_recipe, train


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    seed: int
    logprobs: int
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool
    extra_args: dict | None = None


class StandIn:
    """In place of ``vllm.LLM``; see above."""

    made: list["StandIn"] = []  # noqa: RUF012

    def __init__(self, model, **options):
        self.model, self.options = model, options
        self.policy = Policy.load(model)
        config = SimpleNamespace(model_config=SimpleNamespace(tokenizer=model))
        self.processors = [
            getattr(import_module(module), name)(config, torch.device("cpu"), False)
            for module, name in (path.split(":") for path in options.get("logits_processors", ()))
        ]
        self.generated = []
        self.calls = []
        self.lora = None
        StandIn.made.append(self)

    def generate(self, prompts, sampling_params, *, use_tqdm, lora_request=None):
        assert lora_request == self.lora
        self.generated.append((prompts, sampling_params))
        self.calls.append("generate")
        return [self.answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def answer(self, prompt, params):
        if self.processors:
            return self.processed_answer(prompt, params)
        samples = HFSampler(self.policy).sample(
            [prompt],
            Params(params.max_tokens, params.temperature, tuple(params.stop), frozenset(params.stop_token_ids)),
            seeds=[params.seed],
        )
        reply, values = samples.reply_ids[0], samples.log_probs[0]
        pairs = zip(reply, values, strict=True)
        # vLLM may give further tokens beside the sampled one, in any order.
        places = [{-1: SimpleNamespace(logprob=9.0), i: SimpleNamespace(logprob=v)} for i, v in pairs]
        why = "stop" if samples.ended[0] else "length"
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(reply), logprobs=places, finish_reason=why)])

    def processed_answer(self, prompt, params):
        """As `answer`, token by token, and logits go through the processors of the request before the temperature."""
        made = [processor.new_req_logits_processor(params) for processor in self.processors]
        generator, reply, places = torch.Generator().manual_seed(params.seed), [], []
        while len(reply) < params.max_tokens and not set(reply) & set(params.stop_token_ids):
            with torch.no_grad():
                logits = self.policy.model(torch.tensor([[*prompt, *reply]])).logits[0, -1]
            for restrict in filter(None, made):
                logits = restrict(reply, logits)
            scores = (logits / params.temperature).log_softmax(0)
            reply.append(int(torch.multinomial(scores.exp(), 1, generator=generator)))
            places.append({reply[-1]: SimpleNamespace(logprob=float(scores[reply[-1]]))})
        why = "stop" if set(reply) & set(params.stop_token_ids) else "length"
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(reply), logprobs=places, finish_reason=why)])

    def collective_rpc(self, method):
        assert method == "reload_weights"
        self.calls.append(method)
        self.policy = Policy.load(self.model)

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return True

    def add_lora(self, request):
        assert self.options["enable_lora"]
        self.calls.append(f"add {request.lora_int_id}")
        self.lora, self.policy = request, Policy.load(request.lora_path)

    @property
    def llm_engine(self):
        return SimpleNamespace(
            engine_core=SimpleNamespace(shutdown=lambda: self.calls.append("shutdown")),
            add_lora=self.add_lora,
            remove_lora=lambda number: self.calls.append(f"remove {number}"),
        )


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class AdapterLogitsProcessor:
    def __init__(self, vllm_config, device, is_pin_memory):
        pass


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    for name in ("vllm.v1", "vllm.v1.sample", "vllm.v1.sample.logits_processor", "vllm.lora", "vllm.lora.request"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm.v1.sample.logits_processor"].AdapterLogitsProcessor = AdapterLogitsProcessor
    sys.modules["vllm.lora.request"].LoRARequest = LoRARequest
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SamplingParams
    module.platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(StandIn, "made", [])
    return module


def test_prompts_go_as_tokens_and_replies_come_back_in_order_with_their_log_probabilities(tmp_path):
    policy = tiny_llama()
    sampler = VLLMSampler(policy, tmp_path / "weights")
    prompts = random_prompts(policy, [5, 40, 12])
    stop = policy.end_ids | policy.tokens_containing(("\n",))
    found = sampler.sample(prompts, Params(9, 0.7, ("\n",)), seeds=[1, 2, 3])
    asked, params = StandIn.made[0].generated[-1]
    assert [request["prompt_token_ids"] for request in asked] == prompts
    assert all(p.stop_token_ids == sorted(stop) and p.ignore_eos and p.max_tokens == 9 for p in params)
    assert all(p.stop == ["\n"] and p.detokenize for p in params)
    assert [p.seed for p in params] == [1, 2, 3]
    for reply, values, ended, scored in zip(
        found.reply_ids,
        found.log_probs,
        found.ended,
        policy.score(prompts, found.reply_ids, temperature=0.7),
        strict=True,
    ):
        assert 1 <= len(reply) <= 9
        assert ended == bool(stop & set(reply))
        assert not stop & set(reply[:-1])
        assert values == pytest.approx(scored, abs=1e-4)


def test_the_same_seeds_give_the_same_replies(tmp_path):
    policy = tiny_llama()
    sampler = VLLMSampler(policy, tmp_path)
    prompts = random_prompts(policy, [5, 8])
    a, b, c = (sampler.sample(prompts, Params(12), seeds=[seed, 5]).reply_ids for seed in (1, 1, 2))
    assert a == b != c
    assert sampler.sample([], Params(3)).reply_ids == []


def test_the_engine_has_the_policys_precision_and_context_and_logs_what_it_samples_from(tmp_path):
    policy = tiny_llama(context=128)
    VLLMSampler(policy, tmp_path, {"tensor_parallel_size": 2})
    assert StandIn.made[0].options == {
        "logprobs_mode": "processed_logprobs",
        "max_model_len": 128,
        "dtype": "float32",
        "enable_lora": False,
        "tensor_parallel_size": 2,
    }
    VLLMSampler(policy, tmp_path, {"max_model_len": 100})
    assert StandIn.made[1].options["max_model_len"] == policy.context == 100
    with pytest.raises(ValueError, match=r"sampler\.options must not have logprobs_mode"):
        VLLMSampler(policy, tmp_path, {"logprobs_mode": "raw_logprobs"})


MERGED = ["generate", "generate", "reload_weights", "reset_prefix_cache", "generate", "generate"]
SWAPPED = ["add 1", "generate", "generate", "add 2", "remove 1", "generate", "generate"]


@pytest.mark.parametrize(("options", "calls"), [({}, SWAPPED), ({"enable_lora": False}, MERGED)])
def test_after_sync_it_samples_from_the_new_adapters_swapped_or_merged(options, calls, tmp_path):
    policy = tiny_llama()
    policy.add_lora(LoraSettings(rank=9), tmp_path / "base")
    sampler = VLLMSampler(policy, tmp_path / "weights", options)
    with torch.no_grad():
        for parameter in policy.trained():
            parameter.add_(0.3)
    prompts = random_prompts(policy, [6, 20])

    def gap():
        found = sampler.sample(prompts, Params(8), seeds=[1, 2])
        samples = [
            StepSample(i, 0, 0, p, r, v, 0.0, False)
            for i, (p, r, v) in enumerate(zip(prompts, found.reply_ids, found.log_probs, strict=True))
        ]
        rescored = rescore_old(policy, Batch.of([], samples), temperature=1.0)
        assert [s.log_probs for s in rescored.samples] == policy.score(prompts, found.reply_ids)
        return rescored.sampler_gap.mean

    assert gap() > 0.01
    sampler.sync()
    assert gap() < 1e-4
    [engine] = StandIn.made
    assert engine.model == str(tmp_path / ("weights" if options else "base"))
    # When it is made, and after each hand-over, a few replies are compared.
    assert engine.calls == calls
    assert engine.options.get("max_lora_rank") == (None if options else 16)
    sampler.close()
    assert engine.calls[-1] == "shutdown"
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("form", "reply", "stop"),
    [(BARE, " {action}\n", ("\n",)), (TAGGED, "<think>hm</think><action>{action}</action>", ())],
)
def test_constrained_replies_have_our_masks(form, reply, stop, tmp_path):
    policy, actions = tiny_llama(), ("look", "go to shelf 10", "open cabinet 1")
    constraint = admissible_constraint(actions, form, reply, stop=stop, end=policy.end_token)
    sampler = VLLMSampler(policy, tmp_path, constrain=True)
    prompts = random_prompts(policy, [5, 40, 12])
    params = Params(40, 0.7, stop)
    found = sampler.sample(prompts, params, seeds=[1, 2, 3], constraints=[constraint, constraint, None])
    assert found.ended[:2] == [True, True]
    for ids in found.reply_ids[:2]:
        parsed = parse_action(policy.decode(ids), replace(form, admissible=True), actions)
        assert parsed.valid, parsed
    masks = [constraint.masks(policy.vocabulary, ids, 40) for ids in found.reply_ids[:2]]
    scored = policy.score(prompts, found.reply_ids, temperature=0.7, masks=[*masks, None])
    for values, again in zip(found.log_probs, scored, strict=True):
        assert again == pytest.approx(values, abs=1e-4)
    with pytest.raises(ValueError, match="made without constrain=True"):
        VLLMSampler(policy, tmp_path).sample(prompts[:1], params, constraints=[constraint])


@pytest.mark.parametrize("rescore", [True, False])
def test_a_run_hands_its_weights_over_once_an_iteration(tmp_path, rescore):
    recipe = tiny_recipe(
        Critic.NAME,
        "advantage.episode_weight=0.1",
        "sampler.kind=vllm",
        f"sampler.rescore_old={str(rescore).lower()}",
        "iterations=2",
        "evaluation.every=1",
        "train_uniform_groups=true",
        "optimizer.learning_rate=1e-2",
    )
    train(recipe, tmp_path, policy=make_start(recipe).policy)
    (engine,) = StandIn.made
    assert engine.options["gpu_memory_utilization"] == 0.4
    # The first rollout; then, each time on fresh weights, an evaluation and what follows it.
    fresh = ["reload_weights", "reset_prefix_cache", "generate"]
    assert [name for name, _ in groupby(engine.calls)] == ["generate", *fresh, *fresh, "shutdown"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    gaps = [line.get("sampler/mean") for line in lines]
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
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'opid-gym\[vllm\]'"):
        VLLMSampler(tiny_llama(), tmp_path)


def test_an_unknown_sampler_is_named_with_what_is_allowed():
    with pytest.raises(RecipeError, match=r"sampler\.kind.*'hf' or 'vllm'"):
        change(tiny_recipe(), ["sampler.kind=sglang"])
