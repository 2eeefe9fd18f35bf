"""What an update computes, and what it does not compute twice or at all."""

import torch
from opid_agents.learning.advantages import Advantage
from opid_agents.learning.learner import get_learner
from opid_agents.learning.losses import LossInputs, LossSettings, policy_loss
from opid_agents.learning.samples import StepSample, pad, response_mask
from opid_agents.learning.stages import update
from opid_agents.learning.train import train
from opid_agents.learning.warm import make_start
from opid_agents.policy import Policy

from tests.agents.models import random_prompts, tiny_llama, tiny_recipe


def sample(prompt, reply, policy):
    (log_probs,) = policy.score([prompt], [reply])
    # As if it had been sampled by a slightly different policy, so that ratios are not all 1.
    log_probs = [value - 0.05 * (n + 1) for n, value in enumerate(log_probs)]
    return StepSample(0, 0, 0, prompt, reply, log_probs, 0.0, False)


def outcome(advantages):
    nothing = torch.zeros_like(advantages)
    return Advantage(advantages, advantages, nothing, nothing, 0.0, 0.0, {})


def batch(policy):
    """Nested, branching, equal and separate samples; two of them without any advantage."""
    a, b, c, d = random_prompts(policy, [30, 9, 25, 60])
    pairs = [(a, [5, 6]), (a, [5, 6]), (a, [7]), ([*a, *b], [8, 9, 10]), (c, [11]), (d, [12, 13]), ([*a, *c], [3, 4])]
    samples = [sample(prompt, reply, policy) for prompt, reply in pairs]
    values = torch.tensor([1.0, -0.5, 0.7, 0.3, 0.0, 0.0, -2.0])
    advantages = values[:, None] * response_mask(samples)
    return samples, outcome(advantages)


def plain_gradients(policy, samples, advantages, settings):
    """The whole batch as it stands, one sample a row."""
    mask = response_mask(samples)
    policy.model.zero_grad()
    rows = []
    for one in samples:
        logits = policy.model(torch.tensor([[*one.prompt_ids, *one.reply_ids]])).logits[0, len(one.prompt_ids) - 1 : -1]
        picked = logits.log_softmax(-1)[torch.arange(len(one.reply_ids)), torch.tensor(one.reply_ids)]
        rows.append(torch.nn.functional.pad(picked, (0, mask.shape[1] - len(picked))))
    old = pad([one.log_probs for one in samples])
    policy_loss(LossInputs(torch.stack(rows), old, advantages, mask, settings=settings)).loss.backward()
    gradients = [p.grad.clone() for p in policy.model.parameters()]
    policy.model.zero_grad()
    return gradients


def one_update(policy, samples, advantage, **options):
    """An update with plain gradient descent and rate 1: what the weights lose is the gradient."""
    before = [p.detach().clone() for p in policy.model.parameters()]
    settings = {"temperature": 1.0, "epochs": 1, "minibatches": 1, "clip_norm": 1e9, "seed": 0} | options
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=1.0)
    result = update(policy, optimizer, get_learner("grpo"), samples, advantage, LossSettings(), **settings)
    return [a - b.detach() for a, b in zip(before, policy.model.parameters(), strict=True)], result


def test_the_gradient_is_that_of_the_whole_batch_though_less_is_computed():
    policy = tiny_llama()
    samples, advantage = batch(policy)
    wanted = plain_gradients(policy, samples, advantage.advantages, LossSettings())
    gradients, result = one_update(policy, samples, advantage)
    assert max(float(g.abs().max()) for g in wanted) > 0.01
    for found, right in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)
    # Two samples teach nothing and are left out; the others share their tokens.
    assert result.metrics["trained_samples"] == 5
    assert result.metrics["trained_tokens"] < sum(len(s.prompt_ids) + len(s.reply_ids) for s in samples[:4])


def test_the_budget_of_a_pass_does_not_change_the_gradient():
    results = []
    for budget in (4096, 70, 1):
        policy = tiny_llama()
        policy.train_tokens = budget
        results.append(one_update(policy, *batch(policy))[0])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_an_update_without_any_advantage_leaves_the_weights_alone():
    policy = tiny_llama()
    samples, advantage = batch(policy)
    gradients, result = one_update(policy, samples, outcome(torch.zeros_like(advantage.advantages)))
    assert not any(bool(g.any()) for g in gradients)
    assert result.updates == 0
    assert result.metrics["trained_tokens"] == 0


def test_one_nan_in_a_gradient_skips_the_update_and_touches_nothing():
    policy = tiny_llama()
    samples, advantage = batch(policy)
    before = [p.detach().clone() for p in policy.model.parameters()]
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.1)
    settings = {"temperature": 1.0, "epochs": 1, "minibatches": 1, "clip_norm": 1.0, "seed": 0}
    # The loss is finite; one number deep in the backward pass is not.
    weight = policy.model.model.layers[0].mlp.down_proj.weight
    handle = weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), float("nan")))
    result = update(policy, optimizer, get_learner("grpo"), samples, advantage, LossSettings(), **settings)
    assert (result.updates, result.skipped, result.skipped_in_a_row) == (0, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    assert not optimizer.state
    handle.remove()
    result = update(
        policy, optimizer, get_learner("grpo"), samples, advantage, LossSettings(), skipped_in_a_row=1, **settings
    )
    assert (result.updates, result.skipped, result.skipped_in_a_row) == (1, 0, 0)
    assert all(bool(torch.isfinite(p).all()) for p in policy.model.parameters())


def test_log_probs_of_the_rollout_are_the_old_ones_and_nothing_is_scored_again(tmp_path, monkeypatch):
    def never(self, prompts, replies, **options):
        assert not prompts, "GRPO scored tokens whose log-probabilities it had"
        return []

    monkeypatch.setattr(Policy, "score", never)
    recipe = tiny_recipe("learner=grpo", "iterations=1", "train_uniform_groups=true", "warm_start.steps=2")
    train(recipe, tmp_path / "run", policy=make_start(recipe).policy)
