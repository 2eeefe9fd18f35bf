"""Losses against numbers worked out by hand, numerical gradients, and what must not matter."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents.algorithms.distributions import entropy
from opid_agents.algorithms.losses import (
    LossInputs,
    LossSettings,
    aggregate,
    distillation_loss,
    kl_divergence,
    policy_loss,
    ppo_clip,
    token_weights,
)

NAN = math.nan


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_sample(log_probs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, **more) -> LossInputs:
    """The tokens of one reply."""
    mask = torch.ones(1, len(log_probs))
    values = {"log_probs": log_probs, "old_log_probs": old, "advantages": advantages, **more}
    rows = {k: v[None] if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    return LossInputs.from_padded(mask, **rows)


def log(*ratios: float) -> torch.Tensor:
    return row(*(math.log(ratio) for ratio in ratios))


class TestPpoClip:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "expected", "clipped", "dual"),
        [
            (1.0, 2.0, -2.0, 0, 0),  # on-policy: just -A
            (1.1, 2.0, -2.2, 0, 0),
            (1.5, 2.0, -2.4, 1, 0),  # no more than 1.2 A to gain
            (0.5, 2.0, -1.0, 0, 0),  # what got less likely is still pushed up
            (0.5, -2.0, 1.6, 1, 0),  # no more than 0.8 |A| to gain
            (1.5, -2.0, 3.0, 0, 0),
            (5.0, -2.0, 6.0, 0, 1),  # dual clip: at most 3 |A|
            (5.0, 0.0, 0.0, 0, 0),
        ],
    )
    def test_hand_computed(self, ratio, advantage, expected, clipped, dual):
        surrogate = ppo_clip(log(ratio), row(0.0), row(advantage))
        assert surrogate.loss.item() == pytest.approx(expected)
        assert (surrogate.clipped.item(), surrogate.dual_clipped.item()) == (clipped, dual)

    def test_without_dual_clip_the_loss_grows(self):
        off = LossSettings(dual_clip=None)
        assert ppo_clip(log(50.0), row(0.0), row(-2.0), off).loss.item() == pytest.approx(100)

    def test_uneven_range(self):
        wide = LossSettings(clip_low=0.1, clip_high=0.4)
        loss = ppo_clip(log(1.3, 2.0, 0.5), torch.zeros(3), row(1.0, 1.0, -1.0), wide).loss
        torch.testing.assert_close(loss, row(-1.3, -1.4, 0.9))

    def test_the_log_ratio_is_limited(self):
        surrogate = ppo_clip(row(0.0, 0.0), row(-500.0, 500.0), row(1.0, -1.0))
        assert surrogate.log_ratio.tolist() == [20.0, -20.0]
        assert surrogate.loss.isfinite().all()

    def test_on_policy_the_gradient_is_the_policy_gradient(self):
        log_probs = row(-1.0, -2.0, -3.0).requires_grad_()
        advantages = row(2.0, -1.0, 0.5)
        policy_loss(one_sample(log_probs, log_probs.detach(), advantages)).loss.backward()
        torch.testing.assert_close(log_probs.grad, -advantages / 3)


class TestKl:
    def test_hand_computed(self):
        pi, ref = row(math.log(0.5)), row(math.log(0.25))
        assert kl_divergence(pi, ref, "k1").item() == pytest.approx(math.log(2))
        assert kl_divergence(pi, ref, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
        assert kl_divergence(pi, ref, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))

    @pytest.mark.parametrize(("estimator", "tolerance"), [("k1", 0), ("k3", 0)])
    def test_unbiased(self, estimator, tolerance):
        """Weighted by pi, the estimates of all tokens sum to the divergence."""
        pi, ref = torch.tensor([[0.7, 0.2, 0.1]]).double(), torch.tensor([[0.3, 0.3, 0.4]]).double()
        exact = (pi * (pi / ref).log()).sum()
        estimates = kl_divergence(pi.log(), ref.log(), estimator)
        torch.testing.assert_close((pi * estimates).sum(), exact)

    def test_k3_is_never_negative_and_limited(self):
        pi = torch.linspace(-100, 0, 41, dtype=torch.float64)[None]
        k3 = kl_divergence(pi, torch.full_like(pi, -50.0))
        assert k3.min() == 0
        assert k3.max() == 10

    def test_unknown_estimator(self):
        with pytest.raises(ValueError, match=r"unknown KL estimator 'k4'; allowed: \['k1', 'k2', 'k3'\]"):
            kl_divergence(row(0.0), row(0.0), "k4")


def test_entropy():
    logits = torch.log(torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]])).requires_grad_()
    values = entropy(logits.log_softmax(-1))
    torch.testing.assert_close(values, torch.tensor([[math.log(2), 0.0, math.log(3)]]))
    values.sum().backward()
    assert logits.grad.isfinite().all()


class TestPolicyLoss:
    def test_hand_computed_sum_of_terms(self):
        inputs = one_sample(
            log(0.5, 0.5),
            log(0.5, 0.25),
            row(1.0, 1.0),
            ref_log_probs=log(0.25, 0.5),
            entropies=row(0.6, 0.2),
            settings=LossSettings(kl_coef=0.1, entropy_coef=0.5),
        )
        out = policy_loss(inputs)
        policy, kl, h = -(1 + 1.2) / 2, (math.log(2) - 0.5) / 2, 0.4
        assert out.metrics == pytest.approx(
            {
                "loss": policy + 0.1 * kl - 0.5 * h,
                "policy_loss": policy,
                "clip_fraction": 0.5,
                "dual_clip_fraction": 0.0,
                "old_kl": -math.log(2) / 2,
                "ref_kl": kl,
                "entropy": h,
            }
        )
        assert out.loss.item() == pytest.approx(out.metrics["loss"])

    @pytest.mark.parametrize("coefficient", [0.0, 0.25, 1.0])
    def test_terms_count_by_their_coefficients(self, coefficient):
        z = torch.zeros(2)
        given = {"ref_log_probs": log(0.5, 0.5), "entropies": row(0.75, 0.25)}
        for name, metric, sign in (("kl_coef", "ref_kl", 1), ("entropy_coef", "entropy", -1)):
            out = policy_loss(one_sample(z, z, z, **given, settings=LossSettings(**{name: coefficient})))
            assert out.metrics[metric] > 0
            assert out.loss.item() == pytest.approx(sign * coefficient * out.metrics[metric])

    def test_no_tokens(self):
        log_probs = torch.zeros(2, 3, requires_grad=True)
        zeros = torch.zeros(2, 3)
        loss = policy_loss(
            LossInputs.from_padded(zeros, log_probs=log_probs, old_log_probs=zeros, advantages=zeros + 1)
        ).loss
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(log_probs.grad, torch.zeros(2, 3))

    def test_missing_inputs(self):
        z = torch.zeros(2)
        for weight, name in (("kl_coef", "ref_log_probs"), ("entropy_coef", "entropies")):
            with pytest.raises(ValueError, match=f"{name} is None, but {weight} is 0.1"):
                policy_loss(one_sample(z, z, z, settings=LossSettings(**{weight: 0.1})))

    def test_shapes_are_named(self):
        z, wrong = torch.zeros(3), torch.zeros(4)
        good = one_sample(z, z, z, ref_log_probs=z, entropies=z)
        for name in ("old_log_probs", "advantages", "sample", "position", "ref_log_probs", "entropies"):
            with pytest.raises(ValueError, match=rf"{name} must have shape \[3\], got \[4\]"):
                policy_loss(replace(good, **{name: wrong}))
        with pytest.raises(ValueError, match=r"sample_weights must have shape \[batch\] = \[1\], got \[3\]"):
            policy_loss(replace(good, sample_weights=torch.ones(3)))
        with pytest.raises(ValueError, match="sample_weights must be >= 0"):
            policy_loss(replace(good, sample_weights=torch.tensor([-1.0])))
        with pytest.raises(ValueError, match=r"importance must have shape \[3\], got \[1\]"):
            policy_loss(replace(good, importance=torch.ones(1)))
        for name in ("total_tokens", "total_samples"):
            with pytest.raises(ValueError, match=f"{name} must be > 0, got 0"):
                policy_loss(replace(good, **{name: 0}))
        with pytest.raises(ValueError, match="max_tokens is None, but aggregation is 'constant'"):
            policy_loss(replace(good, settings=LossSettings(aggregation="constant")))

    @pytest.mark.parametrize(
        ("name", "value"),
        [("clip_low", 1.0), ("clip_high", -0.1), ("dual_clip", 1.0), ("kl_coef", NAN), ("kl_estimator", "k9")],
    )
    def test_settings_are_checked(self, name, value):
        with pytest.raises(ValueError, match=name):
            LossSettings(**{name: value})


def test_padded_rows_become_the_tokens_one_after_the_other():
    """What is given by token, vectors over a vocabulary included; what is given by sample stays."""
    mask = torch.tensor([[0, 1], [1, 1]])
    numbers = torch.arange(4.0).reshape(2, 2)
    inputs = LossInputs.from_padded(
        mask, log_probs=numbers, old_log_probs=numbers, advantages=numbers, steps=torch.tensor([5, 6]),
        distribution=torch.stack([numbers, -numbers, numbers + 10], -1),
    )  # fmt: skip
    assert inputs.log_probs.tolist() == [1.0, 2.0, 3.0]
    assert inputs.distribution.tolist() == [[1.0, -1.0, 11.0], [2.0, -2.0, 12.0], [3.0, -3.0, 13.0]]
    assert inputs.steps.tolist() == [5, 6]
    assert (inputs.sample.tolist(), inputs.position.tolist(), inputs.lengths.tolist()) == ([0, 1, 1], [0, 0, 1], [1, 2])


class TestDistillation:
    def test_the_term_counts_where_there_is_a_teacher_and_is_divided_by_all_tokens(self):
        """Hand computed, with nothing that can be read on the token without a teacher."""
        log_probs = log(0.5, 0.5, 0.25).requires_grad_()
        inputs = one_sample(
            log_probs, log_probs.detach(), torch.zeros(3),
            teacher_log_probs=row(math.log(0.25), NAN, math.log(0.5)), teacher_mask=torch.tensor([1, 0, 1]),
        )  # fmt: skip
        out = distillation_loss(inputs, lambda given: (given.log_probs - given.teacher_log_probs).square(), weight=0.5)
        mean = 2 * math.log(2) ** 2 / 3
        assert out.metrics["distillation"] == pytest.approx(mean)
        assert out.metrics["loss"] == out.loss.item() == pytest.approx(0.5 * mean)
        assert out.metrics["policy_loss"] == 0
        out.loss.backward()
        slope = 0.5 * 2 * math.log(2) / 3
        torch.testing.assert_close(log_probs.grad, row(slope, 0.0, -slope))

    def test_without_a_teacher_the_base_is_left(self):
        inputs = one_sample(log(0.5), log(0.25), row(1.0))
        base = policy_loss(inputs)
        for start in (None, base):
            out = distillation_loss(inputs, lambda _: pytest.fail("there is no teacher"), weight=1.0, base=start)
            assert out.metrics == base.metrics | {"distillation": 0.0}
            assert out.loss.item() == base.loss.item()

    def test_it_is_added_to_the_base_that_is_given(self):
        inputs = replace(one_sample(log(0.5), log(0.25), row(1.0)), teacher_mask=torch.tensor([True]))
        base = policy_loss(inputs)
        base = replace(base, loss=base.loss + 7)
        out = distillation_loss(inputs, lambda given: given.log_probs * 0 + 2, weight=0.25, base=base)
        assert out.loss.item() == pytest.approx(base.loss.item() + 0.5)

    @pytest.mark.parametrize("name", ["teacher_mask", "teacher_log_probs"])
    def test_shapes_are_named(self, name):
        z = torch.zeros(3)
        good = one_sample(z, z, z, teacher_mask=z, teacher_log_probs=z)
        with pytest.raises(ValueError, match=rf"{name} must have shape \[3\], got \[4\]"):
            distillation_loss(replace(good, **{name: torch.zeros(4)}), lambda given: given.log_probs, weight=1.0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("dual_clip", [3.0, None])
def test_gradients_are_those_of_the_loss(estimator, dual_clip):
    """Numerically, on points away from the kinks of clipping; some of them clipped, some dual-clipped."""
    generator = torch.Generator().manual_seed(3)
    log_ratio = torch.tensor([[-0.9, -0.1, 0.1, 0.9, 1.7], [-0.9, -0.1, 0.1, 0.9, 1.7]], dtype=torch.float64)
    old = -3 * torch.rand(2, 5, generator=generator, dtype=torch.float64)
    ref = -3 * torch.rand(2, 5, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([[1.0] * 5, [-2.0] * 5], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    constants = LossSettings(kl_coef=0.3, kl_estimator=estimator, dual_clip=dual_clip, entropy_coef=0.2)

    def loss(log_probs, entropies):
        return policy_loss(
            LossInputs.from_padded(
                mask,
                log_probs=log_probs,
                old_log_probs=old,
                advantages=advantages,
                ref_log_probs=ref,
                entropies=entropies,
                sample_weights=torch.tensor([1.0, 2.0]),
                settings=constants,
            )
        ).loss

    log_probs = (old + log_ratio).requires_grad_()
    entropies = torch.rand(2, 5, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(loss, (log_probs, entropies))


def random_inputs(seed: int, lengths: list[int], aggregation: str = "token_mean") -> LossInputs:
    """Replies of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]

    def draw():
        return -2 * torch.rand(mask.shape, generator=generator, dtype=torch.float64)

    return LossInputs.from_padded(
        mask,
        log_probs=draw(),
        old_log_probs=draw(),
        advantages=3 + 3 * draw(),
        ref_log_probs=draw(),
        entropies=draw(),
        max_tokens=7,
        settings=LossSettings(kl_coef=0.2, entropy_coef=0.1, aggregation=aggregation),
    )


BY_TOKEN = ("log_probs", "old_log_probs", "advantages", "sample", "position", "ref_log_probs", "entropies")


def part_of(inputs: LossInputs, chosen: torch.Tensor) -> LossInputs:
    """Some of the tokens."""
    return replace(inputs, **{name: getattr(inputs, name)[chosen] for name in BY_TOKEN})


LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=6)
AGGREGATIONS = st.sampled_from(["token_mean", "sequence_mean", "constant"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), LENGTHS, AGGREGATIONS)
def test_a_weighted_sample_equals_the_sample_repeated(seed, lengths, aggregation):
    inputs = random_inputs(seed, lengths, aggregation)
    weights = [1 + (i + seed) % 3 for i in range(len(lengths))]
    copies = [(i, n) for i, weight in enumerate(weights) for n in range(weight)]
    where = [(inputs.sample == i).nonzero()[:, 0] for i, _ in copies]
    repeated = replace(
        part_of(inputs, torch.cat(where)),
        sample=torch.cat([torch.full((len(tokens),), new) for new, tokens in enumerate(where)]),
        lengths=torch.tensor([lengths[i] for i, _ in copies]),
    )
    weighted = policy_loss(replace(inputs, sample_weights=torch.tensor(weights)))
    assert weighted.metrics == pytest.approx(policy_loss(repeated).metrics, abs=1e-12)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_a_sample_of_weight_0_counts_as_if_it_were_not_there(aggregation):
    inputs = random_inputs(5, [2, 3, 1], aggregation)
    without = part_of(inputs, inputs.sample < 2)
    weighted = policy_loss(replace(inputs, sample_weights=torch.tensor([0.5, 0.5, 0.0])))
    assert weighted.metrics == pytest.approx(policy_loss(without).metrics, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), LENGTHS, AGGREGATIONS)
def test_the_loss_does_not_depend_on_how_tokens_are_split_and_ordered(seed, lengths, aggregation):
    """Any parts of a batch, their tokens in any order, sum to the whole."""
    inputs = random_inputs(seed, lengths, aggregation)
    whole = policy_loss(inputs).metrics
    total = replace(inputs, total_tokens=float(sum(lengths)), total_samples=float(len(lengths)))
    order = torch.randperm(sum(lengths), generator=torch.Generator().manual_seed(seed))
    parts = [policy_loss(part_of(total, chosen)).metrics for chosen in order.tensor_split(3) if len(chosen)]
    assert {name: sum(part[name] for part in parts) for name in whole} == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("token_mean", (4 + 0 + 0 + 8) / 4), ("sequence_mean", (4 + 8 / 3) / 2), ("constant", (4 + 8) / 10 / 2)],
)
def test_means_hand_computed(aggregation, expected):
    """Two replies, of one and of three tokens, ten at most."""
    z = torch.zeros(2, 3)
    inputs = LossInputs.from_padded(
        torch.tensor([[1, 0, 0], [1, 1, 1]]), log_probs=z, old_log_probs=z, advantages=z, max_tokens=10,
        settings=LossSettings(aggregation=aggregation),
    )  # fmt: skip
    assert aggregate(torch.tensor([4.0, 0.0, 0.0, 8.0]), inputs).item() == pytest.approx(expected)
    assert token_weights(inputs).shape == (4,)


def slow_loss(inputs: LossInputs) -> float:
    """The formulas in plain Python, one token at a time."""
    s, total, count = inputs.settings, 0.0, 0
    for t in range(len(inputs.log_probs)):
        pi, old, ref = (float(x[t]) for x in (inputs.log_probs, inputs.old_log_probs, inputs.ref_log_probs))
        a, r = float(inputs.advantages[t]), math.exp(pi - old)
        loss = max(-a * r, -a * min(max(r, 1 - s.clip_low), 1 + s.clip_high))
        if a < 0:
            loss = min(loss, -a * s.dual_clip)
        k3 = math.exp(ref - pi) - 1 + (pi - ref)
        total += loss + s.kl_coef * k3 - s.entropy_coef * float(inputs.entropies[t])
        count += 1
    return total / count


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), LENGTHS)
def test_equals_the_slow_implementation(seed, lengths):
    inputs = random_inputs(seed, lengths)
    assert policy_loss(inputs).loss.item() == pytest.approx(slow_loss(inputs), abs=1e-9)
