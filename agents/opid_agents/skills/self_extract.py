"""The policy itself as the writer of skills: no other model, the same JSON and the same checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from opid_agents.policy import Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.skills.analyze import Conversation, Reply
from opid_agents.streams import stream


@dataclass(frozen=True, slots=True)
class PolicyWriter:
    """Samples replies from a policy.

    A conversation is given to it as one prompt, as in play. A reply depends on this prompt and on torch's global seed,
    which a training run sets anew in every iteration, and not on what else is asked.

    Attributes:
        policy: who writes.
        max_tokens: maximum tokens per reply.
        temperature: of the sampling.
        batch: conversations answered at once.
    """

    policy: Policy
    max_tokens: int = 512
    temperature: float = 0.7
    batch: int = 16

    def fits(self, conversation: Conversation) -> bool:
        """Whether prompt and reply fit the model's context."""
        return len(self._prompt(conversation)) + self.max_tokens <= self.policy.context

    def write(
        self, conversations: Sequence[Conversation], schema: Mapping[str, Any]
    ) -> tuple[list[Reply], dict[str, float]]:
        """A reply to each conversation that fits, held to no schema, and figures.

        The figures are ``prompt_tokens`` and ``completion_tokens``.
        """
        prompts = [self._prompt(conversation) for conversation in conversations]
        fitting = [i for i, prompt in enumerate(prompts) if len(prompt) + self.max_tokens <= self.policy.context]
        replies = [Reply(None, "too_long") for _ in conversations]
        sampler, params = HFSampler(self.policy), SamplingParams(self.max_tokens, self.temperature)
        tokens = 0
        # Prompts of like length together: a batch is as slow as its longest.
        fitting.sort(key=lambda i: len(prompts[i]))
        for start in range(0, len(fitting), self.batch):
            chosen = fitting[start : start + self.batch]
            seeds = [stream(torch.initial_seed(), *prompts[i]) for i in chosen]
            samples = sampler.sample([prompts[i] for i in chosen], params, seeds=seeds)
            for i, ids in zip(chosen, samples.reply_ids, strict=True):
                replies[i] = Reply(self.policy.decode(ids))
                tokens += len(ids)
        read = sum(len(prompts[i]) for i in fitting)
        return replies, {"prompt_tokens": float(read), "completion_tokens": float(tokens)}

    def keep(self, conversation: Conversation, reply: str) -> None:
        """Nothing: the policy changes, and with it what it would write."""

    def _prompt(self, conversation: Conversation) -> list[int]:
        return self.policy.encode("\n\n".join(message["content"] for message in conversation) + "\n")
