"""Sampling by vLLM, with the weights of the policy that is trained.

Scores and gradients stay with `Policy`; only the replies come from vLLM's engine, in this process. The weights go over
as a folder in Hugging Face format, written anew after each update and read again in place by vLLM's workers. Of a model
with LoRA adapters only these go over, under a new name each time, on top of a base that vLLM has read once. After each
hand-over a few replies are scored by both: an engine that still has other weights stops the run.

``make test-vllm`` runs vLLM 0.32's CPU build on it. A GPU was not to be had: there the hand-over is held by that check
alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from opid_agents.lora import lora_rank
from opid_agents.policy import Policy
from opid_agents.sampling.constraints import Constraint
from opid_agents.sampling.sampler import Samples, SamplingParams, check_room, seeds_for
from opid_gym.named import missing_extra

# What the log-probabilities and the reply's room rest on.
_OURS = ("model", "logprobs_mode", "logits_processors")
_PROCESSOR = "opid_agents.sampling.vllm_constraint:ConstraintProcessor"
# The check of a hand-over: replies of 8 tokens to prompts long enough to lie in vLLM's prefix cache.
_PROBE_PROMPTS = (17, 130, 260)
_PROBE_PARAMS = SamplingParams(8)
# The same of half precision, before it is measured.
_HALF_PRECISION = 0.25
# Nats a token that float32 kernels are apart, with room: 5e-6 was measured; other weights are apart by 1e-2 and more.
_SAME_WEIGHTS = 1e-3


class HandOverError(RuntimeError):
    """vLLM does not have the weights that it was given."""


class VLLMSampler:
    """A `opid_agents.sampling.sampler.Sampler` with vLLM behind it.

    Its log-probabilities are those of the distribution sampled from (``processed_logprobs``: after the temperature),
    but by vLLM's kernels, whose rounding is not that of `Policy.score`.

    Args:
        policy: whose weights are sampled from.
        folder: where they are handed over; written and, by `close`, removed.
        options: further arguments of ``vllm.LLM``, e.g. ``gpu_memory_utilization`` or ``tensor_parallel_size``.
            ``max_model_len`` also limits the policy's context, so that prompts are made to fit. ``enable_lora`` False:
            adapters are merged into whole weights, for a model whose adapters vLLM does not take.
        constrain: replies can be constrained. vLLM then calls our masks for each token of each request, in Python,
            which takes time; speculative decoding is not possible with it.

    Raises:
        ValueError: vLLM is not installed, or `options` has an argument that is set here.
        HandOverError: its log-probabilities are far from the policy's.
    """

    def __init__(
        self,
        policy: Policy,
        folder: str | Path,
        options: Mapping[str, Any] | None = None,
        *,
        constrain: bool = False,
    ) -> None:
        options = dict(options or {})
        if taken := sorted(set(options) & set(_OURS)):
            raise ValueError(f"sampler.options must not have {', '.join(taken)}: they follow from the policy")
        self._vllm = _vllm()
        self._policy = policy
        self._folder = Path(folder)
        self._adapters: _Adapters | None = None
        shutil.rmtree(self._folder, ignore_errors=True)
        if options.setdefault("enable_lora", policy.has_lora) and policy.has_lora:
            self._adapters = _Adapters(policy, self._folder)
            options.setdefault("max_lora_rank", self._adapters.max_rank)
        else:
            policy.save(self._folder, merge=True)
        # vLLM's own choice of a dtype makes float32 weights half as precise.
        options.setdefault("dtype", str(policy.model.dtype).removeprefix("torch."))
        if "max_model_len" in options:
            policy.context_limit = int(options.pop("max_model_len"))
        self._constrain = constrain
        if constrain:
            options["logits_processors"] = [_PROCESSOR]
        model = self._folder if self._adapters is None else policy.model.name_or_path
        self._llm = self._vllm.LLM(
            model=str(model), logprobs_mode="processed_logprobs", max_model_len=policy.context, **options
        )
        if self._adapters is not None:
            self._adapters.hand_over(self._llm)
        self._gap = 0.0
        self._gap = self._measure_gap()  # what the kernels' rounding makes: more of it than that is other weights

    def sync(self) -> None:
        """Sample from the policy's present weights from now on.

        Raises:
            HandOverError: vLLM still samples from others.
        """
        if self._adapters is not None:
            self._adapters.hand_over(self._llm)
        else:
            self._policy.save(self._folder, merge=True)
            self._llm.collective_rpc("reload_weights")
            if self._vllm.platforms.current_platform.is_cpu():
                self._llm.apply_model(_pack_head)
            self._llm.reset_prefix_cache()  # it holds what the former weights computed
        self._measure_gap()

    def close(self) -> None:
        """End the engine, and remove the folder."""
        self._llm.llm_engine.engine_core.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _measure_gap(self) -> float:
        """Mean distance between vLLM's log-probabilities and the policy's, in nats a token.

        Raises:
            HandOverError: it is more than rounding explains.
        """
        room, words = self._policy.context - _PROBE_PARAMS.max_tokens, len(self._policy.tokenizer)
        prompts = [[(7 * place + 11) % words for place in range(min(size, room))] for size in _PROBE_PROMPTS]
        found = self.sample(prompts, _PROBE_PARAMS, seeds=range(len(prompts)))
        scored = self._policy.score(prompts, found.reply_ids)
        pairs = zip(chain.from_iterable(found.log_probs), chain.from_iterable(scored), strict=True)
        gap, half = fmean(abs(a - b) for a, b in pairs), torch.finfo(self._policy.model.dtype).bits < 32
        limit = _SAME_WEIGHTS + (3 * self._gap or half * _HALF_PRECISION)
        if not gap <= limit:
            raise HandOverError(
                f"vLLM's log-probabilities are {gap:.2g} nats a token from those of the policy whose weights it was "
                f"given; allowed: {limit:.2g}. It samples from other weights (or computes this model in another way)"
            )
        return gap

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seeds: Sequence[int] | None = None,
        keys: Sequence[Hashable] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Samples:
        """As `opid_agents.sampling.sampler.Sampler.sample`; `keys` are not used: vLLM has a prefix cache of its own."""
        check_room(prompts, params, self._policy.context)
        if not prompts:
            return Samples([], [], [])
        given = [None] * len(prompts) if constraints is None else constraints
        asked = [
            self._vllm.SamplingParams(
                temperature=params.temperature,
                seed=seed,
                logprobs=0,  # of the sampled token alone
                ignore_eos=True,  # only what is in the parameters ends a reply
                **(self._ends(params) if constraint is None else self._constrained(params, constraint)),
            )
            for seed, constraint in zip(seeds_for(prompts, seeds), given, strict=True)
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        adapters = {} if self._adapters is None else {"lora_request": self._adapters.request}
        answers = self._llm.generate(requests, asked, use_tqdm=False, **adapters)
        outputs = [request.outputs[0] for request in answers]
        replies = [list(output.token_ids) for output in outputs]
        log_probs = [
            [place[token].logprob for token, place in zip(reply, output.logprobs, strict=True)]
            for reply, output in zip(replies, outputs, strict=True)
        ]
        for reply, values, constraint in zip(replies, log_probs, given, strict=True):
            if constraint is not None and constraint.end is None and reply[-1] == self._policy.filler:
                del reply[-1], values[-1]  # said when the reply was at its end already
        return Samples(replies, log_probs, [output.finish_reason != "length" for output in outputs])

    def _ends(self, params: SamplingParams) -> dict[str, Any]:
        """What ends a reply, as vLLM's parameters."""
        own = self._policy.end_ids if params.stop_token_ids is None else params.stop_token_ids
        return {
            "max_tokens": params.max_tokens,
            "stop": list(params.stop),
            "stop_token_ids": sorted(own | self._policy.tokens_containing(params.stop)),
            "detokenize": bool(params.stop),  # vLLM looks for stop texts in the text
        }

    def _constrained(self, params: SamplingParams, constraint: Constraint) -> dict[str, Any]:
        """The same of a constrained reply, whose end the constraint alone knows."""
        if not self._constrain:
            raise ValueError("this sampler was made without constrain=True")
        halt = self._policy.filler if constraint.end is None else constraint.end
        limit = {"max_tokens": params.max_tokens, "halt": halt}
        return {
            "max_tokens": params.max_tokens + (constraint.end is None),
            "stop": [],
            "stop_token_ids": [halt],
            "detokenize": False,
            "extra_args": {"constraint": constraint.to_json() | limit},
        }


class _Adapters:
    """A policy's LoRA adapters as vLLM knows them: each version has a number, which its prefix cache heeds too.

    Attributes:
        request: the newest version; None before the first was handed over.
        max_rank: the least one of those that vLLM makes room for.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        self.request: Any = None
        self._policy = policy
        self._folder = folder
        rank = lora_rank(policy.model)
        self.max_rank = next(size for size in (8, 16, 32, 64, 128, 256, 320, 512, rank) if size >= rank)

    def hand_over(self, llm: Any) -> None:
        """Let vLLM read the adapters as they are now; the version before is forgotten."""
        from vllm.lora.request import LoRARequest

        version = 1 if self.request is None else self.request.lora_int_id + 1
        shutil.rmtree(self._folder, ignore_errors=True)
        self._policy.save(self._folder / str(version))
        request = LoRARequest(f"adapters-{version}", version, str(self._folder / str(version)))
        llm.llm_engine.add_lora(request)
        if self.request is not None:
            llm.llm_engine.remove_lora(self.request.lora_int_id)
        self.request = request


def _pack_head(model: Any) -> None:
    """Let vLLM's CPU kernels see new weights of a head that is tied to the embedding: they keep a packed copy."""
    head = getattr(model, "lm_head", None)
    if head is not None:
        head.quant_method.process_weights_after_loading(head)


def _vllm() -> Any:
    try:
        import vllm
    except ImportError:
        raise missing_extra("sampler.kind=vllm", "vllm", "vllm") from None
    return vllm
