"""Teachers other than OPID's, against numbers worked out by hand and against their gradients."""

import math

import pytest
import torch
from opid_agents.learning.distillation import gated_pull, reverse_kl, rlsd_advantage, weighted_k3

NAN = math.nan
ALL = torch.ones(1, 3)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


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

    @pytest.mark.parametrize(("options", "said"), [({"mix": 1.5}, "mix must be in"), ({"clip": 1.0}, "clip must be")])
    def test_numbers_out_of_range(self, options, said):
        with pytest.raises(ValueError, match=said):
            rlsd_advantage(row(1.0), row(0.0), row(0.0), torch.ones(1, 1), **options)


class TestTerms:
    def test_reverse_kl_is_the_difference_with_the_gradient_of_the_divergence(self):
        policy = row(-1.0, -2.0, -3.0).requires_grad_()
        term = reverse_kl(policy, row(-2.0, -2.0, -1.0), ALL)
        assert term.tolist() == [[1.0, 0.0, -2.0]]
        term.sum().backward()
        assert policy.grad.tolist() == [[1.0, 0.0, -2.0]]

    def test_the_mean_gradient_of_reverse_kl_over_all_tokens_is_the_exact_one(self):
        logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
        teacher = torch.tensor([0.2, 0.5, -0.4], dtype=torch.float64).log_softmax(0)
        log_probs = logits.log_softmax(0)
        exact = torch.autograd.grad((log_probs.exp() * (log_probs - teacher)).sum(), logits, retain_graph=True)[0]
        term = reverse_kl(log_probs[None], teacher[None], ALL)[0]
        sampled = torch.autograd.grad((log_probs.exp().detach() * term).sum(), logits)[0]
        torch.testing.assert_close(sampled, exact)

    def test_weighted_k3_hand_computed(self):
        # rho 0.5 / 0.25 = 2; teacher / policy 0.5: k3 = 0.5 - 1 + log 2.
        term = weighted_k3(row(math.log(0.5)), row(math.log(0.25)), row(math.log(0.25)), torch.ones(1, 1))
        assert term.item() == pytest.approx(2 * (math.log(2) - 0.5))

    def test_weighted_k3_on_policy_has_the_gradient_of_forward_and_ratio(self):
        policy = row(math.log(0.5)).requires_grad_()
        weighted_k3(policy, policy.detach(), row(math.log(0.25)), torch.ones(1, 1)).sum().backward()
        # d(rho k3) = rho k3 + rho (1 - exp(-l)) at rho = 1.
        assert policy.grad.item() == pytest.approx((math.log(2) - 0.5) + 0.5)

    def test_gated_pull_hand_computed(self):
        policy = row(-1.0, -1.0, -1.0).requires_grad_()
        term = gated_pull(policy, row(-0.8, -1.0, -1.2), ALL)
        gates = [1 / (1 + math.exp(-1)), 0.5, 1 / (1 + math.exp(1))]
        torch.testing.assert_close(term, row(0.2 * gates[0], 0.0, -0.2 * gates[2]))
        term.sum().backward()
        torch.testing.assert_close(policy.grad, row(*(-gate for gate in gates)))

    @pytest.mark.parametrize(
        "term",
        [
            reverse_kl,
            lambda policy, teacher, mask: weighted_k3(policy, torch.zeros_like(policy), teacher, mask),
            gated_pull,
        ],
    )
    def test_tokens_without_a_teacher_are_nothing_whatever_stands_there(self, term):
        policy = row(-1.0, -1.0, -2.0).requires_grad_()
        out = term(policy, row(-0.5, NAN, math.inf), torch.tensor([[1, 0, 0]]))
        assert out[0, 1:].tolist() == [0.0, 0.0]
        out.sum().backward()
        assert policy.grad.isfinite().all()
        assert policy.grad[0, 1:].tolist() == [0.0, 0.0]
        assert policy.grad[0, 0] != 0

    def test_far_away_teachers_do_not_overflow(self):
        out = weighted_k3(row(0.0), row(-500.0), row(-500.0), torch.ones(1, 1))
        assert out.isfinite().all()
