"""Every algorithm of the table against its formulas, written down a second time: token by token, in plain float64.

The twins know nothing of tensors of samples, of masks or of divisors: they loop over the tokens of a small batch. What
they share with the code is torch's autograd, by which the gradient of the restated loss is taken.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from opid_agents.algorithms import ALGORITHMS, AdvantageInputs, AdvantageSettings, Algorithm, LossInputs, LossSettings
from opid_agents.algorithms.algorithm import teacher_scores
from opid_agents.algorithms.distributions import Distribution
from opid_agents.algorithms.gigpo import anchor_groups, state_gap

VOCABULARY, LONGEST, MAX_TOKENS = 7, 4, 9
SETTINGS = AdvantageSettings(mode="mean_std_norm", episode_weight=0.3, step_weight=0.7, clip=1.5)
LOSS = LossSettings(kl_coef=0.05, entropy_coef=0.02)


@dataclass(frozen=True)
class Case:
    """Two tasks; three episodes of two steps each. A sample of it: a reply of up to four tokens out of seven."""

    logits: torch.Tensor  # [B, L, V] of the policy being trained; a leaf
    old: torch.Tensor  # [B, L, V], log-probabilities of the policy that sampled
    ref: torch.Tensor
    episode: torch.Tensor  # of the teacher with the episode skill, with the step skill
    step: torch.Tensor
    wrong_episode: torch.Tensor  # ... with those of another task
    wrong_step: torch.Tensor
    tokens: torch.Tensor  # [B, L]
    lengths = (2, 4, 1, 3, 4, 2)
    task = (0, 0, 0, 0, 1, 1)
    trajectory = (0, 0, 1, 1, 2, 2)
    score = (1.0, 0.9, -0.1, 0.0, 1.0, 0.9)
    returns = (0.95, 1.0, 0.0, -0.1, 0.95, 1.0)
    anchor = ("hall", "cellar", "hall", "attic", "hall", "cellar")
    success = (True, True, False, False, True, True)
    has_episode = (True, False, True, False, True, False)
    has_step = (False, True, False, True, False, False)
    disagrees = (False, True, True, True, False, False)
    action_from = (0, 2, 0, 1, 1, 0)  # the action's first token

    @property
    def places(self) -> list[tuple[int, int]]:
        return [(i, t) for i, length in enumerate(self.lengths) for t in range(length)]

    def of(self, distribution: torch.Tensor, i: int, t: int) -> Any:
        """Log-probability of the sampled token."""
        return distribution[i, t, self.tokens[i, t]]

    def routed(self, i: int) -> bool:
        return self.has_episode[i] or self.has_step[i]

    def teacher(self, i: int) -> torch.Tensor:
        return self.step if self.has_step[i] else self.episode

    def wrong(self, i: int) -> torch.Tensor:
        return self.wrong_step if self.has_step[i] else self.wrong_episode

    def delta(self, i: int, t: int) -> float:
        return float(self.of(self.teacher(i), i, t) - self.of(self.old, i, t)) if self.routed(i) else 0.0


@pytest.fixture(params=[0, 1, 2])
def case(request) -> Case:
    generator = torch.Generator().manual_seed(request.param)

    def draw(near: torch.Tensor | None = None, far: float = 1.0) -> torch.Tensor:
        noise = far * torch.randn(6, LONGEST, VOCABULARY, generator=generator, dtype=torch.float64)
        return noise if near is None else near + noise

    logits = draw()
    others = [draw(logits, far).log_softmax(-1) for far in (0.3, 0.3, 1.0, 1.0, 0.7, 0.7)]
    tokens = torch.randint(VOCABULARY, (6, LONGEST), generator=generator)
    return Case(logits.requires_grad_(), *others, tokens)


# -- The algorithms, from the table --
def rows(values: Any) -> torch.Tensor:
    return torch.tensor(values)


def advantage_inputs(case: Case, algorithm: Algorithm, iteration: int) -> AdvantageInputs:
    mask = torch.arange(LONGEST)[None, :] < rows(case.lengths)[:, None]
    rewards = torch.zeros(6, LONGEST, dtype=torch.float64)
    for i, score in enumerate(case.score):
        rewards[i, case.lengths[i] - 1] = score

    def sampled(distribution: torch.Tensor) -> torch.Tensor:
        return distribution.gather(-1, case.tokens[..., None])[..., 0].where(mask, math.nan)

    return AdvantageInputs(
        rewards,
        mask,
        case.task,
        old_log_probs=sampled(case.old),
        episode_log_probs=sampled(case.episode),
        step_log_probs=sampled(case.step),
        episode_mask=rows(case.has_episode),
        step_mask=rows(case.has_step),
        trajectory_ids=case.trajectory,
        step_returns=torch.tensor(case.returns, dtype=torch.float64),
        anchors=case.anchor,
        success=rows(case.success),
        other_episode_log_probs=sampled(case.wrong_episode),
        other_step_log_probs=sampled(case.wrong_step),
        disagrees=rows(case.disagrees),
        action_mask=torch.arange(LONGEST)[None, :] >= rows(case.action_from)[:, None],
        settings=SETTINGS,
        constants=algorithm.constants,
        iteration=iteration,
    )


def computed(case: Case, algorithm: Algorithm, iteration: int, split: bool = False) -> tuple[float, torch.Tensor]:
    """Loss and gradient as training computes them; `split`: in two micro-batches, samples in another order."""
    given = advantage_inputs(case, algorithm, iteration)
    advantages = algorithm.advantage(given).advantages
    policy = case.logits.log_softmax(-1)
    teacher_log_probs, teacher_mask = teacher_scores(given)
    teacher = torch.where(given.step_mask[:, None, None], case.step, case.episode)
    teacher = teacher.where(teacher_mask[..., None], math.nan)
    top_k = algorithm.constants.get("top_k") or None
    parts = [[3, 0, 5], [1, 4, 2]] if split else [list(range(6))]
    total = 0.0
    for part in parts:
        mask = given.response_mask & torch.zeros(6, 1, dtype=torch.bool).index_fill(0, rows(part), True)
        inputs = LossInputs.from_padded(
            mask,
            log_probs=policy.gather(-1, case.tokens[..., None])[..., 0],
            old_log_probs=given.old_log_probs,
            advantages=advantages,
            ref_log_probs=case.ref.gather(-1, case.tokens[..., None])[..., 0],
            entropies=-(policy.exp() * policy).sum(-1),
            teacher_log_probs=teacher_log_probs.where(teacher_mask, math.nan),
            teacher_mask=teacher_mask,
            distribution=policy,
            teacher_distribution=Distribution.of(teacher[mask], top_k and min(top_k, 3)),
            success=rows(case.success),
            state_gap=state_gap(case.returns, anchor_groups(case.anchor, case.task)),
            total_tokens=float(sum(case.lengths)),
            total_samples=6.0,
            max_tokens=MAX_TOKENS,
            iteration=iteration,
            settings=LOSS,
            constants=algorithm.constants,
        )
        total = total + algorithm.loss(inputs).loss
    (gradient,) = torch.autograd.grad(total, case.logits)
    return float(total.detach()), gradient


# -- The twins: advantages, a number for each token --
def scores_of_group(case: Case, i: int) -> list[float]:
    return [case.score[j] for j in range(6) if case.task[j] == case.task[i]]


def outcome(case: Case, i: int, divide: bool = True) -> float:
    group = scores_of_group(case, i)
    value = case.score[i] - statistics.mean(group)
    return value / (statistics.stdev(group) + 1e-6) if divide else value


def weighted(case: Case, i: int, delta: float, episode: float = 0.3, step: float = 0.7) -> float:
    return (episode * case.has_episode[i] + step * case.has_step[i]) * delta


def clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def sign(value: float) -> float:
    return math.copysign(1.0, value) if value else 0.0


def grpo(case, i, t, now):
    return outcome(case, i)


def rloo(case, i, t, now):
    firsts = {case.trajectory[j]: case.score[j] for j in reversed(range(6)) if case.task[j] == case.task[i]}
    others = [score for trajectory, score in firsts.items() if trajectory != case.trajectory[i]]
    if not others:
        return case.score[i]
    # The leave-one-out mean of the trajectories; a later step differs from its trajectory's first by its penalty.
    n, mean = len(firsts), statistics.mean(firsts.values())
    return (case.score[i] - mean) * n / (n - 1)


def gigpo(case, i, t, now):
    same = [case.returns[j] for j in range(6) if (case.task[j], case.anchor[j]) == (case.task[i], case.anchor[i])]
    state = (case.returns[i] - statistics.mean(same)) / (statistics.stdev(same) + 1e-6) if len(same) > 1 else 0.0
    return outcome(case, i) + state


def opid(case, i, t, now):
    return outcome(case, i) + weighted(case, i, clipped(case.delta(i, t), -1.5, 1.5))


def bounded(case, i, delta, mix, low, high):
    a = outcome(case, i)
    return a * ((1 - mix) + mix * (clipped(math.exp(sign(a) * delta), low, high) if case.routed(i) else 1.0))


def contrast(case, i, t):
    return float(case.of(case.teacher(i), i, t) - case.of(case.wrong(i), i, t)) if case.routed(i) else 0.0


def stepopsd(case, i, t, now):
    action = range(case.action_from[i], case.lengths[i])
    a = outcome(case, i)
    if not case.routed(i) or t not in action:
        return a
    weights = {s: clipped(2 / (1 + math.exp(-sign(a) * case.delta(i, s))), 0.8, 1.2) for s in action}
    return a * (0.5 + 0.5 * weights[t] / statistics.mean(weights.values()))


def gated(case, i, t, now):
    deltas: dict[bool, list[float]] = {True: [], False: []}
    for j, s in case.places:
        if case.task[j] == case.task[i] and case.routed(j):
            deltas[case.success[j]].append(case.delta(j, s))
    trusted = all(deltas.values()) and statistics.mean(deltas[True]) > statistics.mean(deltas[False])
    return opid(case, i, t, now) if trusted else outcome(case, i)


Twin = Callable[[Case, int, int, int], float]
ADVANTAGES: dict[str, Twin] = {
    "rloo": rloo,
    "gigpo": gigpo,
    "dr_grpo": lambda c, i, t, now: outcome(c, i, divide=False),
    "opid": opid,
    "opid_as_released": lambda c, i, t, now: outcome(c, i) + 0.001 * c.delta(i, t),
    "opsd": lambda c, i, t, now: clipped(c.delta(i, t), -1.5, 1.5),
    "rlsd": lambda c, i, t, now: bounded(c, i, c.delta(i, t), 0.5 * max(0.0, 1 - (now - 1) / 50), 0.8, 1.2),
    "rlsd_as_released": lambda c, i, t, now: bounded(
        c, i, c.delta(i, t), 0.5 * max(0.0, 1 - (now - 1) / 100), 0.8, 1.2
    ),
    "stepopsd": stepopsd,
    "rlcsd": lambda c, i, t, now: bounded(c, i, contrast(c, i, t), 0.5, 0.8, 1.2),
    "adrs": lambda c, i, t, now: outcome(c, i) + (0.02 * c.delta(i, t) if 20 < now <= 70 else 0.0),
    "opid_contrast": lambda c, i, t, now: outcome(c, i) + weighted(c, i, clipped(contrast(c, i, t), -1.5, 1.5)),
    "opid_bounded": lambda c, i, t, now: bounded(c, i, c.delta(i, t), 1.0, 0.5, 2.0),
    "opid_disagree": lambda c, i, t, now: opid(c, i, t, now) if c.disagrees[i] else outcome(c, i),
    "opid_gated": gated,
    "opid_reply": opid,  # what is imitated besides is no advantage: see test_rescoring
    "opid_window": lambda c, i, t, now: opid(c, i, t, now) if 20 < now <= 70 else outcome(c, i),
    "opid_constant": lambda c, i, t, now: outcome(c, i) + weighted(c, i, -2.0),
    "opid_bounded_constant": lambda c, i, t, now: bounded(c, i, -2.0, 1.0, 0.5, 2.0),
    "opid_disagree_constant": lambda c, i, t, now: outcome(c, i) + (weighted(c, i, -2.0) if c.disagrees[i] else 0.0),
    "opid_window_constant": lambda c, i, t, now: outcome(c, i) + (weighted(c, i, -2.0) if 20 < now <= 70 else 0.0),
    "srpo_advice": lambda c, i, t, now: 0.0 if c.routed(i) and not c.success[i] else outcome(c, i),
}
ALONE = {"opsd_as_released", "opsd_full", "sdpo", "sdft", "sdft_reverse"}  # no outcome


# -- The twins: losses --
def ppo(case: Case, i: int, t: int, a: float) -> torch.Tensor:
    policy = case.logits[i, t].log_softmax(-1)
    ratio = (policy[case.tokens[i, t]] - case.of(case.old, i, t)).exp()
    loss = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2))
    return torch.minimum(loss, torch.tensor(-3.0 * a)) if a < 0 else loss


def regular(case: Case, i: int, t: int) -> torch.Tensor:
    """What the settings add at each token: KL to the reference, less the entropy."""
    policy = case.logits[i, t].log_softmax(-1)
    l = policy[case.tokens[i, t]] - case.of(case.ref, i, t)  # noqa: E741
    return 0.05 * ((-l).exp() - 1 + l) + 0.02 * (policy.exp() * policy).sum()


def outcomes(case: Case, i: int, t: int, top_k: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of policy and teacher over the teacher's likeliest tokens and the rest."""
    policy, teacher = case.logits[i, t].softmax(-1), case.teacher(i)[i, t].exp()
    if top_k is None:
        return policy, teacher
    likely = sorted(range(VOCABULARY), key=lambda v: -float(teacher[v]))[:top_k]
    rest = [v for v in range(VOCABULARY) if v not in likely]
    return tuple(torch.cat([p[likely], p[rest].sum()[None]]) for p in (policy, teacher))


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


def difference(case: Case, i: int, t: int, alpha: float, top_k: int | None) -> torch.Tensor:
    policy, teacher = outcomes(case, i, t, top_k)
    if alpha == 0:
        return kl(teacher, policy)
    if alpha == 1:
        return kl(policy, teacher)
    middle = (1 - alpha) * policy + alpha * teacher
    return alpha * kl(teacher, middle) + (1 - alpha) * kl(policy, middle)


def gaps(case: Case, i: int, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi - log teacher of the sampled token, and log pi - log old."""
    now = case.logits[i, t].log_softmax(-1)[case.tokens[i, t]]
    return now - case.of(case.teacher(i), i, t), now - case.of(case.old, i, t)


def reverse_kl(case, i, t):
    gap, _ = gaps(case, i, t)
    return gap.detach() * gap - (gap.detach() ** 2 - gap.detach())  # gradient l dl, value l


def weighted_k3(case, i, t):
    gap, ratio = gaps(case, i, t)
    return ratio.exp() * ((-gap).exp() - 1 + gap)


def pull(sharpness):
    def term(case, i, t):
        gap, _ = gaps(case, i, t)
        return -gap / (1 + math.exp(sharpness * float(gap.detach())))

    return term


def sdpo(case, i, t):
    _, ratio = gaps(case, i, t)
    return min(math.exp(float(ratio.detach())), 2.0) * difference(case, i, t, 0.5, 3)


def srpo(case, i, t):
    if case.success[i]:
        return 0.0
    sure = []
    for s in range(case.lengths[i]):
        _, teacher = outcomes(case, i, s, 3)
        sure.append(math.exp(float((teacher * teacher.log()).sum())))
    return sure[t] / statistics.mean(sure) * difference(case, i, t, 0.5, 3)


def srpo_reply(case, i, t):
    if case.success[i]:
        return 0.0
    likeliest = [int(case.teacher(i)[i, s].argmax()) for s in range(case.lengths[i])]
    wrong = [s for s in range(case.lengths[i]) if likeliest[s] != case.tokens[i, s]]
    heard = range(min(wrong) + 1 if wrong else case.lengths[i])
    if t not in heard:
        return 0.0
    sure = [math.exp(float((p * p.log()).sum())) for _, p in (outcomes(case, i, s, 3) for s in heard)]
    return sure[t] / statistics.mean(sure) * difference(case, i, t, 0.5, 3)


def ucob(case, i, t):
    same = [case.returns[j] for j in range(6) if (case.task[j], case.anchor[j]) == (case.task[i], case.anchor[i])]
    gap = max(same) - case.returns[i]
    return (min(gap / 0.2, 2.0) if gap > 0.05 else 0.0) * difference(case, i, t, 0.0, 3)


TERMS: dict[str, tuple[float, Callable[[Case, int, int], Any]]] = {
    "grpo_opsd": (0.01, reverse_kl),
    "grpo_opsd_as_released": (0.01, pull(0.0)),
    "skill_sd": (0.1, weighted_k3),
    "skill_sd_as_released": (0.001, weighted_k3),
    "sdar": (0.01, pull(5.0)),
    "sdar_as_released": (0.01, pull(5.0)),
    "opsd_as_released": (0.01, pull(5.0)),
    "opsd_full": (1.0, lambda c, i, t: difference(c, i, t, 0.5, None)),
    "sdft": (1.0, lambda c, i, t: difference(c, i, t, 0.0, None)),
    "sdft_reverse": (1.0, lambda c, i, t: difference(c, i, t, 1.0, None)),
    "sdpo": (1.0, sdpo),
    "srpo": (1.0, srpo),
    "srpo_reply": (1.0, srpo_reply),
    "ucob": (0.1, ucob),
    "opid_forward_kl": (0.1, lambda c, i, t: difference(c, i, t, 0.0, None)),
}


def token_mean_loss(name: str, case: Case, now: int) -> torch.Tensor:
    weight, term = TERMS.get(name, (0.0, None))
    total = torch.zeros((), dtype=torch.float64)
    for i, t in case.places:
        a = 0.0 if name in ALONE else ADVANTAGES.get(name, grpo)(case, i, t, now)
        if name in ("srpo", "srpo_reply") and case.routed(i) and not case.success[i]:
            a = 0.0
        total = total + ppo(case, i, t, a) + regular(case, i, t)
        if term is not None and case.routed(i):
            total = total + weight * term(case, i, t)
    return total / len(case.places)


def gspo_loss(name: str, case: Case, now: int) -> torch.Tensor:
    """One ratio a reply, the sequence's; a mean over replies."""
    total = torch.zeros((), dtype=torch.float64)
    for i, length in enumerate(case.lengths):
        a = outcome(case, i)
        ratio = sum(gaps(case, i, t)[1] for t in range(length)).div(length).exp()
        total = total + torch.maximum(-a * ratio, -a * ratio.clamp(1 - 3e-4, 1 + 4e-4))
        total = total + sum(regular(case, i, t) for t in range(length)) / length
    return total / len(case.lengths)


def dr_grpo_loss(name: str, case: Case, now: int) -> torch.Tensor:
    """Sums over replies; the divisor is the longest reply there could be."""
    parts = [ppo(case, i, t, outcome(case, i, divide=False)) + regular(case, i, t) for i, t in case.places]
    return sum(parts) / MAX_TOKENS / len(case.lengths)


LOSSES = {"gspo": gspo_loss, "dr_grpo": dr_grpo_loss}

TRAINED = [a for a in ALGORITHMS.values() if a.advantage and not a.swap]


@pytest.mark.parametrize("iteration", [1, 30])
@pytest.mark.parametrize("algorithm", TRAINED, ids=lambda algorithm: algorithm.name)
def test_equals_its_twin(algorithm, iteration, case):
    expected = LOSSES.get(algorithm.name, token_mean_loss)(algorithm.name, case, iteration)
    (gradient,) = torch.autograd.grad(expected, case.logits)
    for split in (False, True):
        loss, found = computed(case, algorithm, iteration, split)
        assert loss == pytest.approx(float(expected.detach()), abs=1e-9)
        torch.testing.assert_close(found, gradient, atol=1e-9, rtol=1e-6)


def test_every_algorithm_has_a_twin_of_its_own():
    without = {a.name for a in TRAINED} - set(ADVANTAGES) - set(TERMS) - set(LOSSES)
    assert without == {"grpo", "skill_grpo", "imitate_advice"}  # GRPO's advantage with PPO's loss


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS.values() if a.swap], ids=lambda a: a.name)
def test_a_control_with_wrong_skills_is_its_form_but_for_the_skills(algorithm):
    form = ALGORITHMS[algorithm.name.removesuffix("_random_skill").removesuffix("_other_task_skill")]
    assert dataclasses.replace(algorithm, name=form.name, swap=None) == form


def test_every_algorithm_with_a_teacher_has_both_controls_with_wrong_skills():
    taught = [name for name, a in ALGORITHMS.items() if a.teacher == "scores" and not a.swap]
    assert len(taught) >= 20
    assert {f"{name}_{swap}_skill" for name in taught for swap in ("random", "other_task")} <= set(ALGORITHMS)


def test_constants_are_checked_against_the_algorithm():
    sdar = ALGORITHMS["sdar"]
    assert sdar.with_constants({"weight": 1}) == {"weight": 1, "sharpness": 5.0}
    with pytest.raises(ValueError, match=r"constants.wieght=1: sdar has no such constant; did you mean 'weight'\?"):
        sdar.with_constants({"wieght": 1})
    with pytest.raises(ValueError, match=r"constants.weight='x': sdar needs a value like 0.01"):
        sdar.with_constants({"weight": "x"})
    assert dataclasses.replace(sdar, constants={}).with_constants({"mine": [1]}) == {"mine": [1]}


class TestDistributions:
    def test_the_tail_is_one_more_outcome(self):
        p = torch.tensor([[0.5, 0.1, 0.3, 0.1]], dtype=torch.float64)
        likely = Distribution.of(p.log(), top_k=2)
        torch.testing.assert_close(likely.outcomes().exp(), p.new_tensor([[0.5, 0.3, 0.2]]))
        q = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
        torch.testing.assert_close(likely.outcomes_of(q.log()).exp(), p.new_tensor([[0.1, 0.3, 0.6]]))

    def test_as_many_as_there_are_is_all(self):
        assert Distribution.of(torch.zeros(1, 4), top_k=4).ids is None

    def test_shapes_are_named(self):
        with pytest.raises(ValueError, match=r"same shape \[tokens, vocabulary\], got \[2, 5\] and \[2, 4\]"):
            Distribution(torch.zeros(2, 4)).outcomes_of(torch.zeros(2, 5))


def test_gspo_needs_whole_replies(case):
    inputs = LossInputs.from_padded(torch.ones(1, 3), **{
        name: torch.zeros(1, 3) for name in ("log_probs", "old_log_probs", "advantages")
    })  # fmt: skip
    two = dataclasses.replace(inputs, **{
        name: getattr(inputs, name)[:2] for name in ("log_probs", "old_log_probs", "advantages", "sample", "position")
    })  # fmt: skip
    gspo = ALGORITHMS["gspo"]
    with pytest.raises(ValueError, match="sample 0 has 3 tokens, but only 2 are here"):
        gspo.loss(dataclasses.replace(two, constants=gspo.constants))
