"""What samples replies to prompts: one interface for our own engine and for others.

Log-probabilities are those of the distribution that is sampled from: logits divided by the temperature, then softmax.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from opid_agents.sampling.constraints import Constraint


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How replies are sampled.

    Attributes:
        max_tokens: maximum tokens per reply, the stop token included.
        temperature: 0 takes the likeliest token; the log-probabilities are then those at temperature 1.
        stop: texts that end a reply as soon as it contains one.
        stop_token_ids: tokens that end a reply; None: the model's own end tokens.

    Raises:
        ValueError: a number is out of range.
    """

    max_tokens: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {self.max_tokens}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if "" in self.stop:
            raise ValueError("stop must not hold an empty text: every reply contains it")


@dataclass(frozen=True, slots=True)
class Samples:
    """Sampled replies in the order of their prompts.

    Attributes:
        reply_ids: token ids, the stop token included.
        log_probs: log-probability of each of these tokens.
        ended: whether the reply came to its end; False: it was cut at the maximum of tokens.
    """

    reply_ids: list[list[int]]
    log_probs: list[list[float]]
    ended: list[bool]


class Sampler(Protocol):
    """Samples replies from a policy's weights."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seeds: Sequence[int] | None = None,
        keys: Sequence[Hashable] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Samples:
        """One reply to each prompt.

        Args:
            prompts: token ids, at least one each.
            params: length, temperature and what ends a reply.
            seeds: one for each prompt, at least 0 and below 2**63: a reply depends on its prompt and its seed and, but
                for rounding, not on what else is sampled with it. None: drawn from torch's global generator.
            keys: one for each prompt, e.g. the number of its game: what was computed for a prompt is remembered under
                its key until the next call with keys. None: nothing is remembered. Replies do not depend on it.
            constraints: what each reply may be; its constraint alone then says where a reply ends. Log-probabilities
                are those of the tokens that it leaves. None: anything.

        Raises:
            ValueError: an empty prompt, one that leaves no room for the reply, not one seed for each prompt, or a
                constraint whose shortest reply is longer than the maximum.
        """
        ...

    def sync(self) -> None:
        """Sample from the policy's present weights from now on; to be called after they were changed."""
        ...

    def close(self) -> None:
        """Give back memory and files; the sampler is not used any more."""
        ...


def seeds_for(prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None) -> Sequence[int]:
    """The seeds that were given for some prompts, or new ones from torch's global generator.

    Raises:
        ValueError: another number of seeds than of prompts.
    """
    if seeds is None:
        drawn: list[int] = torch.randint(2**62, (len(prompts),)).tolist()
        return drawn
    if len(seeds) != len(prompts):
        raise ValueError(f"one seed for each prompt is needed, got {len(seeds)} for {len(prompts)}")
    return seeds


def check_room(prompts: Sequence[Sequence[int]], params: SamplingParams, context: int) -> None:
    """Check that prompts have tokens and leave room for their replies.

    Raises:
        ValueError: one does not; the message has its position.
    """
    room = context - params.max_tokens
    for i, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= room:
            raise ValueError(
                f"prompt {i} has {len(prompt)} tokens; allowed: 1 to {room} "
                f"(context {context} less max_tokens {params.max_tokens})"
            )
