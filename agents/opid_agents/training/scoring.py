"""Log-probabilities of sampled replies, each computed by one of the processes and known to all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

from opid_agents.distributed import Processes
from opid_agents.sampling.constraints import Masks
from opid_agents.training.batch import StepSample


class Scorer(Protocol):
    """Log-probabilities of replies, as `opid_agents.policy.Policy.score` gives them."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
        masks: Masks | None = None,
    ) -> list[list[float]]:
        """The log-probability, in nats, of each token of each reply after its prompt."""


def owned(samples: Sequence[StepSample], processes: Processes) -> list[int]:
    """Positions of the samples of this process's groups; steps that have tokens in common stay together."""
    return [i for i, sample in enumerate(samples) if processes.owns(sample.group)]


def score_together(
    score: Scorer, samples: Sequence[StepSample], processes: Processes, *, temperature: float
) -> list[list[float]]:
    """Scores of the replies of all samples; each process computes those of its own groups."""
    own = owned(samples, processes)
    scored = score(
        [samples[i].prompt_ids for i in own],
        [samples[i].reply_ids for i in own],
        temperature=temperature,
        masks=[samples[i].masks for i in own],
    )
    found = dict(chain(*processes.gather(list(zip(own, scored, strict=True)))))
    return [found[i] for i in range(len(samples))]
