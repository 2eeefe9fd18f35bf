"""Losses against numbers worked out by hand, numerical gradients, and what must not matter."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents.learning.losses import (
    LossInputs,
    LossSettings,
    entropy,
    kl_divergence,
    policy_loss,
    ppo_clip,
    weighted_mean,
)

NAN = math.nan


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


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
        surrogate = ppo_clip(log(ratio), row(0.0), row(advantage), torch.ones(1, 1))
        assert surrogate.loss.item() == pytest.approx(expected)
        assert (surrogate.clipped.item(), surrogate.dual_clipped.item()) == (clipped, dual)

    def test_without_dual_clip_the_loss_grows(self):
        off = LossSettings(dual_clip=None)
        assert ppo_clip(log(50.0), row(0.0), row(-2.0), torch.ones(1, 1), off).loss.item() == pytest.approx(100)

    def test_uneven_range(self):
        wide = LossSettings(clip_low=0.1, clip_high=0.4)
        loss = ppo_clip(log(1.3, 2.0, 0.5), torch.zeros(1, 3), row(1.0, 1.0, -1.0), torch.ones(1, 3), wide).loss
        torch.testing.assert_close(loss, row(-1.3, -1.4, 0.9))

    def test_the_log_ratio_is_limited(self):
        surrogate = ppo_clip(row(0.0, 0.0), row(-500.0, 500.0), row(1.0, -1.0), torch.ones(1, 2))
        assert surrogate.log_ratio.tolist() == [[20.0, -20.0]]
        assert surrogate.loss.isfinite().all()

    def test_on_policy_the_gradient_is_the_policy_gradient(self):
        log_probs = row(-1.0, -2.0, -3.0).requires_grad_()
        advantages = row(2.0, -1.0, 0.5)
        policy_loss(LossInputs(log_probs, log_probs.detach(), advantages, torch.ones(1, 3))).loss.backward()
        torch.testing.assert_close(log_probs.grad, -advantages / 3)


class TestKl:
    def test_hand_computed(self):
        pi, ref = row(math.log(0.5)), row(math.log(0.25))
        mask = torch.ones(1, 1)
        assert kl_divergence(pi, ref, mask, "k1").item() == pytest.approx(math.log(2))
        assert kl_divergence(pi, ref, mask, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
        assert kl_divergence(pi, ref, mask, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))

    @pytest.mark.parametrize(("estimator", "tolerance"), [("k1", 0), ("k3", 0)])
    def test_unbiased(self, estimator, tolerance):
        """Weighted by pi, the estimates of all tokens sum to the divergence."""
        pi, ref = torch.tensor([[0.7, 0.2, 0.1]]).double(), torch.tensor([[0.3, 0.3, 0.4]]).double()
        exact = (pi * (pi / ref).log()).sum()
        estimates = kl_divergence(pi.log(), ref.log(), torch.ones(1, 3), estimator)
        torch.testing.assert_close((pi * estimates).sum(), exact)

    def test_k3_is_never_negative_and_limited(self):
        pi = torch.linspace(-100, 0, 41, dtype=torch.float64)[None]
        k3 = kl_divergence(pi, torch.full_like(pi, -50.0), torch.ones_like(pi))
        assert k3.min() == 0
        assert k3.max() == 10

    def test_unknown_estimator(self):
        with pytest.raises(ValueError, match=r"unknown KL estimator 'k4'; allowed: \['k1', 'k2', 'k3'\]"):
            kl_divergence(row(0.0), row(0.0), torch.ones(1, 1), "k4")


def test_entropy():
    logits = torch.log(torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]])).requires_grad_()
    values = entropy(logits)
    torch.testing.assert_close(values, torch.tensor([[math.log(2), 0.0, math.log(3)]]))
    values.sum().backward()
    assert logits.grad.isfinite().all()


class TestPolicyLoss:
    def test_hand_computed_sum_of_terms(self):
        inputs = LossInputs(
            log_probs=log(0.5, 0.5),
            old_log_probs=log(0.5, 0.25),
            advantages=row(1.0, 1.0),
            response_mask=torch.ones(1, 2),
            ref_log_probs=log(0.25, 0.5),
            entropies=row(0.6, 0.2),
            settings=LossSettings(kl_weight=0.1, entropy_weight=0.5),
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

    def test_token_mean_not_mean_of_rows(self):
        mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
        inputs = LossInputs(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[4.0] * 3, [0.0] * 3]), mask)
        assert policy_loss(inputs).loss.item() == pytest.approx(-1.0)

    def test_no_tokens(self):
        log_probs = torch.zeros(2, 3, requires_grad=True)
        loss = policy_loss(LossInputs(log_probs, torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3))).loss
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(log_probs.grad, torch.zeros(2, 3))

    def test_padding_is_never_read_nor_does_it_get_a_gradient(self):
        pad = torch.tensor([[NAN, math.inf]])
        log_probs = torch.cat([torch.tensor([[-1.0]]), pad], 1).requires_grad_()
        other = torch.cat([torch.tensor([[-2.0]]), -pad], 1)
        inputs = LossInputs(
            log_probs, other, torch.cat([torch.ones(1, 1), pad], 1), torch.tensor([[1, 0, 0]]),
            ref_log_probs=other, entropies=pad.new_tensor([[1.0, NAN, NAN]]),
            settings=LossSettings(kl_weight=0.1, entropy_weight=0.1),
        )  # fmt: skip
        out = policy_loss(inputs)
        out.loss.backward()
        assert all(math.isfinite(value) for value in out.metrics.values())
        assert log_probs.grad[0, 0].isfinite()
        assert log_probs.grad[0, 1:].tolist() == [0, 0]

    def test_missing_inputs(self):
        z = torch.zeros(1, 2)
        for weight, name in (("kl_weight", "ref_log_probs"), ("entropy_weight", "entropies")):
            with pytest.raises(ValueError, match=f"{name} is None, but {weight} is 0.1"):
                policy_loss(LossInputs(z, z, z, z, settings=LossSettings(**{weight: 0.1})))

    def test_shapes_are_named(self):
        z, wrong = torch.zeros(2, 3), torch.zeros(2, 4)
        good = LossInputs(z, z, z, z, ref_log_probs=z, entropies=z)
        for name in ("old_log_probs", "advantages", "response_mask", "ref_log_probs", "entropies"):
            with pytest.raises(ValueError, match=rf"{name} must have shape \[batch, tokens\] = \[2, 3\], got \[2, 4\]"):
                policy_loss(replace(good, **{name: wrong}))
        with pytest.raises(ValueError, match=r"sample_weights must have shape \[batch\] = \[2\], got \[3\]"):
            policy_loss(replace(good, sample_weights=torch.ones(3)))
        with pytest.raises(ValueError, match="sample_weights must be >= 0"):
            policy_loss(replace(good, sample_weights=torch.tensor([1.0, -1.0])))
        with pytest.raises(ValueError, match="total_weight must be > 0, got 0"):
            policy_loss(replace(good, total_weight=0))

    @pytest.mark.parametrize(
        ("name", "value"),
        [("clip_low", 1.0), ("clip_high", -0.1), ("dual_clip", 1.0), ("kl_weight", NAN), ("kl_estimator", "k9")],
    )
    def test_settings_are_checked(self, name, value):
        with pytest.raises(ValueError, match=name):
            LossSettings(**{name: value})


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
    constants = LossSettings(kl_weight=0.3, kl_estimator=estimator, dual_clip=dual_clip, entropy_weight=0.2)

    def loss(log_probs, entropies):
        return policy_loss(
            LossInputs(log_probs, old, advantages, mask, ref, entropies, torch.tensor([1.0, 2.0]), settings=constants)
        ).loss

    log_probs = (old + log_ratio).requires_grad_()
    entropies = torch.rand(2, 5, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(loss, (log_probs, entropies))


def random_inputs(seed: int, rows: int, tokens: int) -> LossInputs:
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return -2 * torch.rand(rows, tokens, generator=generator, dtype=torch.float64)

    mask = torch.rand(rows, tokens, generator=generator) < 0.7
    mask[0, 0] = True
    return LossInputs(
        draw(), draw(), 3 + 3 * draw(), mask, draw(), draw(), settings=LossSettings(kl_weight=0.2, entropy_weight=0.1)
    )


def rows_of(inputs: LossInputs, index: list[int]) -> LossInputs:
    names = ("log_probs", "old_log_probs", "advantages", "response_mask", "ref_log_probs", "entropies")
    return replace(inputs, **{name: getattr(inputs, name)[index] for name in names})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 4))
def test_a_weighted_row_equals_the_row_repeated(seed, weights, tokens):
    inputs = random_inputs(seed, len(weights), tokens)
    repeated = rows_of(inputs, [i for i, weight in enumerate(weights) for _ in range(weight)])
    weighted = policy_loss(replace(inputs, sample_weights=torch.tensor(weights)))
    assert weighted.metrics == pytest.approx(policy_loss(repeated).metrics, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 4), st.integers(1, 5))
def test_micro_batches_add_up(seed, rows, tokens, cut):
    inputs = random_inputs(seed, rows, tokens)
    cut = min(cut, rows - 1)
    whole = policy_loss(inputs).metrics
    total = float(inputs.response_mask.sum())
    parts = [
        policy_loss(replace(rows_of(inputs, index), total_weight=total)).metrics
        for index in (list(range(cut)), list(range(cut, rows)))
    ]
    assert {name: parts[0][name] + parts[1][name] for name in whole} == pytest.approx(whole, abs=1e-12)


def slow_loss(inputs: LossInputs) -> float:
    """The formulas in plain Python, one token at a time."""
    s, total, count = inputs.settings, 0.0, 0
    for i in range(inputs.log_probs.shape[0]):
        for t in range(inputs.log_probs.shape[1]):
            if not inputs.response_mask[i, t]:
                continue
            pi, old, ref = (float(x[i, t]) for x in (inputs.log_probs, inputs.old_log_probs, inputs.ref_log_probs))
            a, r = float(inputs.advantages[i, t]), math.exp(pi - old)
            loss = max(-a * r, -a * min(max(r, 1 - s.clip_low), 1 + s.clip_high))
            if a < 0:
                loss = min(loss, -a * s.dual_clip)
            k3 = math.exp(ref - pi) - 1 + (pi - ref)
            total += loss + s.kl_weight * k3 - s.entropy_weight * float(inputs.entropies[i, t])
            count += 1
    return total / count


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
def test_equals_the_slow_implementation(seed, rows, tokens):
    inputs = random_inputs(seed, rows, tokens)
    assert policy_loss(inputs).loss.item() == pytest.approx(slow_loss(inputs), abs=1e-9)


def test_weighted_mean_ignores_what_has_no_weight():
    values, weights = torch.tensor([[1.0, NAN, 4.0]]), torch.tensor([[3.0, 0.0, 1.0]])
    assert weighted_mean(values, weights).item() == pytest.approx(7 / 4)
    assert weighted_mean(values, weights, 7).item() == pytest.approx(1)
