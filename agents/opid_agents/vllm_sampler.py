"""Sampling by vLLM on a GPU, with the weights of the policy that is trained.

Scores and gradients stay with `Policy`; only the replies come from vLLM's engine, in this process. The weights go over
as a folder in Hugging Face format, written anew after each update and read again in place by vLLM's workers.

Written against the sources and documentation of vLLM 0.11.0. It has not been run on a GPU here: the tests check what is
asked of vLLM and what is made of its answers, by a stand-in.
"""

from __future__ import annotations

import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from opid_agents.kv_cache import PrefixCache
from opid_agents.policy import Policy, Samples

# What the log-probabilities and the reply's room rest on.
_OURS = ("model", "logprobs_mode", "max_model_len")


class VLLMSampler:
    """A `opid_agents.policy.Sampler` with vLLM behind it.

    Its log-probabilities are those of the distribution sampled from (``processed_logprobs``: after the temperature),
    but by vLLM's kernels, whose rounding is not that of `Policy.score`.

    Args:
        policy: whose weights are sampled from.
        folder: where they are handed over; written and, by `close`, removed.
        options: further arguments of ``vllm.LLM``, e.g. ``gpu_memory_utilization`` or ``tensor_parallel_size``.

    Raises:
        ValueError: vLLM is not installed, or `options` has an argument that is set here.
    """

    def __init__(self, policy: Policy, folder: str | Path, options: Mapping[str, Any] | None = None) -> None:
        options = dict(options or {})
        if taken := sorted(set(options) & set(_OURS)):
            raise ValueError(f"sampler.options must not have {', '.join(taken)}: they follow from the policy")
        self._vllm = _vllm()
        self._policy = policy
        self._folder = Path(folder)
        policy.save(self._folder, merge=True)
        # vLLM's own choice of a dtype makes float32 weights half as precise.
        options.setdefault("dtype", str(policy.model.dtype).removeprefix("torch."))
        self._llm = self._vllm.LLM(
            model=str(self._folder), logprobs_mode="processed_logprobs", max_model_len=policy.context, **options
        )

    def sync(self) -> None:
        """Sample from the policy's present weights from now on."""
        self._policy.save(self._folder, merge=True)
        self._llm.collective_rpc("reload_weights")
        self._llm.reset_prefix_cache()  # it holds what the former weights computed

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: frozenset[int] | None = None,
        cache: PrefixCache | None = None,
        keys: Sequence[Hashable] | None = None,
    ) -> Samples:
        """As `Policy.sample`; `cache` and `keys` are not used, for vLLM has a prefix cache of its own."""
        if not prompts:
            return Samples([], [])
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**31, (len(prompts),), generator=generator, device=device).tolist()
        stop_ids = sorted(self._policy.stop_ids() if stop is None else stop)
        params = [
            self._vllm.SamplingParams(
                max_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                logprobs=0,  # of the sampled token alone
                stop_token_ids=stop_ids,
                ignore_eos=True,  # only what is in `stop` ends a reply
                detokenize=False,
            )
            for seed in seeds
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = [request.outputs[0] for request in self._llm.generate(requests, params, use_tqdm=False)]
        replies = [list(output.token_ids) for output in outputs]
        return Samples(
            replies,
            [
                [place[token].logprob for token, place in zip(reply, output.logprobs, strict=True)]
                for reply, output in zip(replies, outputs, strict=True)
            ],
        )


def _vllm() -> Any:
    try:
        import vllm
    except ImportError:
        raise ValueError("sampler.kind=vllm needs the package vllm: pip install 'opid-gym[vllm]'") from None
    return vllm
