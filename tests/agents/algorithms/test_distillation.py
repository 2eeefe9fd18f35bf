"""Teachers other than OPID's, against numbers worked out by hand and against their gradients."""

import math

import pytest
import torch
from opid_agents.algorithms.distillation import (
    confidence_weights,
    credit_weights,
    gated_pull,
    importance,
    reverse_kl,
    rlsd_advantage,
    step_weights,
    weighted_k3,
)

NAN = math.nan
ALL = torch.ones(1, 3)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestRlsd:
    def test_hand_computed(self):
        """Ratios 1.1, 2 and 0.5 count as 1.1, 1.2 and 0.8; mixed half and half."""
        teacher = row(math.log(1.1), math.log(2), math.log(0.5))
        a = rlsd_advantage(row(2.0, 2.0, 2.0), teacher, row(0, 0, 0), ALL)
        torch.testing.assert_close(a, row(2.1, 2.2, 1.8))

    def test_for_failures_the_teacher_counts_the_other_way(self):
        teacher = row(math.log(1.1), math.log(2), math.log(0.5))
        a = rlsd_advantage(row(-2.0, -2.0, -2.0), teacher, row(0, 0, 0), ALL)
        torch.testing.assert_close(a, row(-1 - 1 / 1.1, -1.8, -2.2))

    def test_without_teacher_or_mix_it_is_the_outcome(self):
        outcome = row(2.0, -2.0, 0.0)
        assert torch.equal(rlsd_advantage(outcome, row(NAN, NAN, NAN), row(0, 0, 0), ALL * 0), outcome)
        assert torch.equal(rlsd_advantage(outcome, row(3, 3, 3), row(0, 0, 0), ALL, mix=0.0), outcome)

    @pytest.mark.parametrize(("options", "said"), [({"mix": 1.5}, "mix must be in"), ({"low": 1.1}, "low must be in")])
    def test_numbers_out_of_range(self, options, said):
        with pytest.raises(ValueError, match=said):
            rlsd_advantage(row(1.0), row(0.0), row(0.0), torch.ones(1, 1), **options)


def test_a_step_shares_its_credit_and_keeps_it():
    """Weights 2 sigmoid(+-log 3) = 1.5 and 0.5 on the two tokens of the action, 1 on the other."""
    shift, where = row(math.log(3), -math.log(3), 9.0), torch.tensor([[True, True, False]])
    torch.testing.assert_close(step_weights(row(2.0, 2.0, 2.0), shift, where), row(1.5, 0.5, 1.0))
    torch.testing.assert_close(step_weights(row(-2.0, -2.0, -2.0), shift, where), row(0.5, 1.5, 1.0))
    torch.testing.assert_close(step_weights(row(2.0, 2.0, 2.0), shift, where, clip=0.2), row(1.2, 0.8, 1.0))


class TestTerms:
    def test_reverse_kl_is_the_difference_with_the_gradient_of_the_divergence(self):
        policy = flat(-1.0, -2.0, -3.0).requires_grad_()
        term = reverse_kl(policy, flat(-2.0, -2.0, -1.0))
        assert term.tolist() == [1.0, 0.0, -2.0]
        term.sum().backward()
        assert policy.grad.tolist() == [1.0, 0.0, -2.0]

    def test_the_mean_gradient_of_reverse_kl_over_all_tokens_is_the_exact_one(self):
        logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
        teacher = torch.tensor([0.2, 0.5, -0.4], dtype=torch.float64).log_softmax(0)
        log_probs = logits.log_softmax(0)
        exact = torch.autograd.grad((log_probs.exp() * (log_probs - teacher)).sum(), logits, retain_graph=True)[0]
        term = reverse_kl(log_probs, teacher)
        sampled = torch.autograd.grad((log_probs.exp().detach() * term).sum(), logits)[0]
        torch.testing.assert_close(sampled, exact)

    def test_weighted_k3_hand_computed(self):
        # rho 0.5 / 0.25 = 2; teacher / policy 0.5: k3 = 0.5 - 1 + log 2.
        term = weighted_k3(flat(math.log(0.5)), flat(math.log(0.25)), flat(math.log(0.25)))
        assert term.item() == pytest.approx(2 * (math.log(2) - 0.5))

    def test_weighted_k3_on_policy_has_the_gradient_of_forward_and_ratio(self):
        policy = flat(math.log(0.5)).requires_grad_()
        weighted_k3(policy, policy.detach(), flat(math.log(0.25))).sum().backward()
        # d(rho k3) = rho k3 + rho (1 - exp(-l)) at rho = 1.
        assert policy.grad.item() == pytest.approx((math.log(2) - 0.5) + 0.5)

    def test_gated_pull_hand_computed(self):
        policy = flat(-1.0, -1.0, -1.0).requires_grad_()
        term = gated_pull(policy, flat(-0.8, -1.0, -1.2))
        gates = [1 / (1 + math.exp(-1)), 0.5, 1 / (1 + math.exp(1))]
        torch.testing.assert_close(term, flat(0.2 * gates[0], 0.0, -0.2 * gates[2]))
        term.sum().backward()
        torch.testing.assert_close(policy.grad, flat(*(-gate for gate in gates)))

    def test_the_importance_of_a_token_is_limited_and_has_no_gradient(self):
        policy = flat(math.log(0.5), math.log(0.5)).requires_grad_()
        weight = importance(policy, flat(math.log(0.4), math.log(0.1)), limit=2.0)
        torch.testing.assert_close(weight, flat(1.25, 2.0))
        assert not weight.requires_grad

    def test_a_sure_teacher_weighs_more_and_a_reply_keeps_its_weight(self):
        sample, used = torch.tensor([0, 0, 1, 1]), torch.tensor([True, True, True, False])
        weight = confidence_weights(flat(0.0, math.log(3), 5.0, NAN), sample, used)
        torch.testing.assert_close(weight, flat(1.5, 0.5, 1.0, 0.0))

    def test_a_step_that_stayed_behind_is_taught(self):
        assert credit_weights(flat(0.0, 0.05, 0.1, 9.0)).tolist() == pytest.approx([0.0, 0.0, 0.5, 2.0])

    def test_far_away_teachers_do_not_overflow(self):
        out = weighted_k3(flat(0.0), flat(-500.0), flat(-500.0))
        assert out.isfinite().all()
