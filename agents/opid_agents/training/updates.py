"""The updates of an iteration: minibatches, passes with gradients, steps of the optimizer."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from opid_agents.algorithms.advantages import Advantage
from opid_agents.algorithms.algorithm import Algorithm, trained_samples
from opid_agents.algorithms.distributions import Distribution
from opid_agents.algorithms.gigpo import anchor_groups, state_gap
from opid_agents.algorithms.losses import LossInputs, LossSettings
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.distributed import ALONE, Processes, balanced
from opid_agents.packing import Row, Span
from opid_agents.policy import Policy
from opid_agents.training.batch import StepSample, pad
from opid_agents.training.scoring import Scorer, score_together


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What the updates of an iteration did.

    Attributes:
        metrics: means over the updates.
        updates, skipped: how many were made, and left out because the loss or the gradient was not finite.
        skipped_in_a_row: updates left out since the last one that was made, earlier iterations included.
        advantage: what the samples were trained with; None: nothing was trained.
    """

    metrics: dict[str, float]
    updates: int
    skipped: int
    skipped_in_a_row: int
    advantage: Advantage | None = None


@dataclass(frozen=True, slots=True)
class LossData:
    """What a loss is computed from, of all samples of an iteration; row i belongs to sample i.

    Attributes:
        samples: the step samples.
        advantages: ``[B, L]``.
        teacher_log_probs, teacher_mask: ``[B, L]``, for losses that distil; None: there is no teacher.
        teacher_distributions: of each sample, None where it has no teacher; empty: not asked for.
        imitated: prompts and the replies to imitate after them, besides.
        importance: ``[B, L]``, weights of tokens that older weights sampled; None: 1 each.
    """

    samples: Sequence[StepSample]
    advantages: Advantage
    teacher_log_probs: Tensor | None = None
    teacher_mask: Tensor | None = None
    teacher_distributions: Sequence[Distribution | None] = ()
    imitated: Sequence[tuple[Sequence[int], Sequence[int]]] = ()
    importance: Tensor | None = None


def update_policy(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    algorithm: Algorithm,
    data: LossData,
    loss: LossSettings,
    settings: OptimizerSettings,
    *,
    temperature: float,
    seed: int,
    constants: Mapping[str, Any] | None = None,
    iteration: int = 1,
    max_tokens: int | None = None,
    reference: Scorer | None = None,
    skipped_in_a_row: int = 0,
    on_row: Callable[[int], None] = lambda rows: None,
    processes: Processes = ALONE,
) -> UpdateResult:
    """Train a policy in place on the samples of an iteration.

    Samples without a gradient (`opid_agents.algorithms.algorithm.trained_samples`) are left out; the means count them.
    An update whose loss or gradient is not finite is skipped and counted.

    Args:
        policy, optimizer: what is trained, and by what.
        algorithm: its loss is used.
        data: what it is computed from.
        loss, settings: of the loss and of the updates, as in the recipe.
        temperature: that the samples were drawn at.
        seed: of the order of the samples.
        constants: the algorithm's, those of the recipe included; None: its own.
        iteration: of the run, from 1, for constants with a schedule.
        max_tokens: maximum tokens per reply, the divisor of ``aggregation="constant"``.
        reference: scores for the KL term; None: there is none.
        skipped_in_a_row: see `UpdateResult`.
        on_row: is told how many more rows have had their gradient.
        processes: each computes the gradients of a part of the rows; what they know and get is the same.
    """
    samples, constants = data.samples, algorithm.constants if constants is None else constants
    trained = trained_samples(algorithm, data.advantages, loss, data.teacher_mask)
    active: list[int] = trained.nonzero()[:, 0].tolist()
    rows = policy.rows([samples[i].prompt_ids for i in active], [samples[i].reply_ids for i in active])
    masks = [samples[i].masks for i in active]
    maker = _InputMaker.of(data, policy.device)
    if reference is not None and active:
        with policy.gathered():  # it may be the policy without its adapters
            maker.add_reference(reference, active, temperature, processes)

    def train(batch: Sequence[Row], sums: _Sums, parts: int) -> None:
        now = policy.log_probs(
            batch,
            temperature=temperature,
            entropy_gradient=loss.entropy_coef != 0,
            distribution=algorithm.distributions,
            masks=masks,
        )
        # The samples' own indices, then the token's: from [B, L] to the flat order of the rows.
        sample = torch.tensor(active, device=policy.device)[now.sample]
        out = algorithm.loss(
            LossInputs(
                log_probs=now.log_probs,
                entropies=now.entropies,
                **maker.by_token(sample, now.position, now.distribution),
                **maker.by_sample,
                total_tokens=maker.tokens / parts,
                total_samples=len(samples) / parts,
                max_tokens=max_tokens,
                iteration=iteration,
                settings=loss,
                constants=constants,
            )
        )
        sums.add(out.metrics, finite=bool(torch.isfinite(out.loss)))
        out.loss.backward()
        on_row(len(batch))

    def imitate(batch: Sequence[Row], sums: _Sums, parts: int) -> None:
        sums.add(_imitate(policy, batch, constants["imitation_weight"], maker.tokens / parts))

    rng = random.Random(seed)
    totals = _Sums()
    updates = skipped = 0
    for _ in range(settings.epochs):
        parts = _parts(rows, settings.updates(len(samples)), rng)
        lessons = [data.imitated[i :: len(parts)] for i in range(len(parts))] if parts else []
        if not parts and data.imitated:
            parts, lessons = [[]], [data.imitated]
        for part, imitated in zip(parts, lessons, strict=True):
            sums = _Sums()
            own = balanced([len(row.ids) for row in part], processes.size)[processes.rank]
            passes: list[Callable[[], None]] = [
                partial(train, batch, sums, len(parts)) for batch in policy.batches([part[i] for i in own])
            ]
            lesson_rows = policy.rows(*_columns(processes.own(imitated)))
            passes += [partial(imitate, batch, sums, len(parts)) for batch in policy.batches(lesson_rows)]
            if policy.shards is not None:  # all exchange gradients as often as the one with most passes
                passes += [partial(_idle, policy)] * (max(processes.gather(len(passes))) - len(passes))
            for left, make_pass in zip(reversed(range(len(passes))), passes, strict=True):
                policy.exchange_gradients(left == 0)
                make_pass()
            sums = _Sums.of(processes.gather(sums))
            if policy.shards is None:
                processes.sum_gradients(policy.trained())
            norm = policy.whole(torch.nn.utils.clip_grad_norm_(policy.trained(), settings.max_grad_norm))
            if sums.finite and bool(torch.isfinite(norm)):
                optimizer.step()
                updates += 1
                skipped_in_a_row = 0
                totals.add(sums.metrics)
                totals.add({"grad_norm": float(norm)})
            else:
                skipped += 1
                skipped_in_a_row += 1
            optimizer.zero_grad(set_to_none=True)
    means = {name: value / updates for name, value in totals.metrics.items()} if updates else {}
    means |= {"trained_samples": float(len(active)), "trained_tokens": float(sum(len(row.ids) for row in rows))}
    return UpdateResult(means, updates, skipped, skipped_in_a_row, data.advantages)


@dataclass(slots=True)
class _InputMaker:
    """From the tables of an iteration to the flat vectors that a loss takes."""

    data: LossData
    device: torch.device
    by_sample: dict[str, Any]
    tables: dict[str, Tensor]  # [B, L]
    tokens: int

    @classmethod
    def of(cls, data: LossData, device: torch.device) -> _InputMaker:
        samples = data.samples
        width = data.advantages.advantages.shape[1]
        states = anchor_groups([s.anchor for s in samples], [s.group for s in samples])
        by_sample = {
            "lengths": torch.tensor([len(s.reply_ids) for s in samples], dtype=torch.long),
            "steps": torch.tensor([s.step for s in samples], dtype=torch.long),
            "valid": torch.tensor([s.valid for s in samples], dtype=torch.bool),
            "success": torch.tensor([s.success for s in samples], dtype=torch.bool),
            "state_gap": state_gap([s.step_return for s in samples], states).float(),
        }
        tables = {
            "old_log_probs": pad([s.log_probs for s in samples], width),
            "advantages": data.advantages.advantages,
        }
        if data.teacher_log_probs is not None and data.teacher_mask is not None:
            tables |= {"teacher_log_probs": data.teacher_log_probs, "teacher_mask": data.teacher_mask}
        if data.importance is not None:
            tables["importance"] = data.importance
        return cls(
            data,
            device,
            {name: values.to(device) for name, values in by_sample.items()},
            {name: values.to(device) for name, values in tables.items()},
            int(by_sample["lengths"].sum()),
        )

    def add_reference(self, reference: Scorer, active: Sequence[int], temperature: float, processes: Processes) -> None:
        samples = [self.data.samples[i] for i in active]
        scored = score_together(reference, samples, processes, temperature=temperature)
        old = self.tables["old_log_probs"]
        self.tables["ref_log_probs"] = torch.zeros_like(old)
        self.tables["ref_log_probs"][torch.tensor(active)] = pad(scored, old.shape[1]).to(old)

    def by_token(self, sample: Tensor, position: Tensor, distribution: Tensor | None) -> dict[str, Any]:
        values: dict[str, Any] = {name: table[sample, position] for name, table in self.tables.items()}
        if distribution is not None:
            values["distribution"] = distribution
            values["teacher_distribution"] = self._teacher(sample, position, distribution)
        return values | {"sample": sample, "position": position}

    def _teacher(self, sample: Tensor, position: Tensor, like: Tensor) -> Distribution | None:
        """The teacher's distributions at these tokens; zeros where there is none."""
        known = self.data.teacher_distributions
        found = next((one for one in known if one is not None and len(one.log_probs)), None)
        if found is None:
            return None
        width = found.log_probs.shape[1]
        log_probs = torch.zeros(len(sample), width, dtype=like.dtype, device=like.device)
        ids = None if found.ids is None else torch.zeros(len(sample), width, dtype=torch.long, device=like.device)
        for i in sample.unique().tolist():
            if (one := known[i]) is None:
                continue
            where = (sample == i).nonzero()[:, 0]
            rows = one.rows(position[where].to(one.log_probs.device)).to(like.device)
            log_probs[where] = rows.log_probs.to(like.dtype)
            if ids is not None and rows.ids is not None:
                ids[where] = rows.ids
        return Distribution(log_probs, ids)


@dataclass(slots=True)
class _Sums:
    """What the passes of an update add up to."""

    metrics: dict[str, float] = field(default_factory=dict)
    finite: bool = True

    @classmethod
    def of(cls, parts: Sequence[_Sums]) -> _Sums:
        """The sums of several processes' sums."""
        if len(parts) == 1:
            return parts[0]
        whole = cls()
        for part in parts:
            whole.add(part.metrics, finite=part.finite)
        return whole

    def add(self, metrics: Mapping[str, float], *, finite: bool = True) -> None:
        self.finite = self.finite and finite
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value


def _idle(policy: Policy) -> None:
    """A pass without effect: all processes of a divided model have to make equally many."""
    row = Row([policy.filler] * 2, (Span(0, 1, 2),))
    (policy.log_probs([row]).log_probs.sum() * 0.0).backward()


def _columns(lessons: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Prompts and replies."""
    return [prompt for prompt, _ in lessons], [reply for _, reply in lessons]


def _imitate(policy: Policy, rows: Sequence[Row], weight: float, divisor: float) -> dict[str, float]:
    """Add the gradient of `weight` times the negative log-likelihood of replies; returns it by token of the batch."""
    loss = -policy.log_probs(rows).log_probs.sum() / divisor
    (weight * loss).backward()
    return {"imitation": float(loss.detach())}


def _parts(rows: Sequence[Row], count: int, rng: random.Random) -> list[list[Row]]:
    """Rows in random order, in `count` parts whose sizes differ by one at most; fewer parts if there are fewer rows."""
    shuffled = rng.sample(list(rows), len(rows))
    count = min(count, len(rows))
    ends = [math.ceil(len(rows) * i / count) for i in range(count + 1)] if count else []
    return [shuffled[start:end] for start, end in pairwise(ends)]
