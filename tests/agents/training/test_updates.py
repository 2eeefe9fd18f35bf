"""What an update computes, and what it does not compute twice or at all."""

from dataclasses import replace

import pytest
import torch
from opid_agents.algorithms import get_algorithm
from opid_agents.algorithms.advantages import Advantage
from opid_agents.algorithms.distributions import divergence
from opid_agents.algorithms.losses import LossInputs, LossSettings, policy_loss
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.training.batch import StepSample, pad, response_mask
from opid_agents.training.updates import LossData, update_policy

from tests.agents.models import random_prompts, tiny_llama


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
    inputs = LossInputs.from_padded(
        mask, log_probs=torch.stack(rows), old_log_probs=old, advantages=advantages, settings=settings, max_tokens=9
    )
    policy_loss(inputs).loss.backward()
    gradients = [p.grad.clone() for p in policy.model.parameters()]
    policy.model.zero_grad()
    return gradients


def one_update(policy, samples, advantage, loss=LossSettings(), algorithm="grpo", **options):  # noqa: B008
    """An update with plain gradient descent and rate 1: what the weights lose is the gradient."""
    before = [p.detach().clone() for p in policy.model.parameters()]
    settings = OptimizerSettings(max_grad_norm=1e9, **options)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=1.0)
    result = update_policy(
        policy, optimizer, get_algorithm(algorithm), LossData(samples, advantage), loss, settings,
        temperature=1.0, seed=0, max_tokens=9,
    )  # fmt: skip
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


def whole_in_double(**sizes):
    """A policy and its batch in float64, where rounding cannot hide a difference."""
    policy = tiny_llama()
    samples, advantage = batch(policy)
    policy.model.double()
    for name, value in sizes.items():
        setattr(policy, name, value)
    return policy, samples, advantage


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("algorithm", ["grpo", "gspo", "dr_grpo"])
def test_how_tokens_are_packed_does_not_change_the_gradient(algorithm, aggregation):
    """Neither the budget of a pass nor shared rows: a sequence mean, too, is that of the plain, padded batch."""
    loss = LossSettings(aggregation=aggregation, entropy_coef=0.1)
    policy, samples, advantage = whole_in_double(train_tokens=4096)
    results = [one_update(policy, samples, advantage, loss, algorithm)[0]]
    for budget in (70, 1):
        results.append(one_update(*whole_in_double(train_tokens=budget), loss, algorithm)[0])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)
    if algorithm == "grpo":
        policy, samples, advantage = whole_in_double()
        plain = plain_gradients(policy, samples, advantage.advantages, loss.model_copy(update={"entropy_coef": 0.0}))
        found, _ = one_update(*whole_in_double(), loss.model_copy(update={"entropy_coef": 0.0}))
        assert max(float(g.abs().max()) for g in plain) > 0.01
        for a, b in zip(plain, found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_entropy_bonus_raises_the_entropy():
    """Without any advantage the bonus alone moves the weights, towards more entropy."""
    policy = tiny_llama()
    samples, advantage = batch(policy)
    silent = outcome(torch.zeros_like(advantage.advantages))

    def entropy():
        with torch.no_grad():
            rows = policy.rows([s.prompt_ids for s in samples], [s.reply_ids for s in samples])
            return sum(float(policy.log_probs(b).entropies.sum()) for b in policy.batches(rows))

    before = entropy()
    _, result = one_update(policy, samples, silent, LossSettings(entropy_coef=0.05))
    assert result.updates == 1
    assert entropy() > before + 0.01


def test_advice_is_imitated_beside_the_loss():
    policy = tiny_llama()
    samples, advantage = batch(policy)
    lesson = (samples[0].prompt_ids, [9, 9])
    before = policy.score([lesson[0]], [lesson[1]])[0]
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.5)
    data = LossData(samples, outcome(torch.zeros_like(advantage.advantages)), imitated=[lesson])
    result = update_policy(
        policy, optimizer, get_algorithm("imitate_advice"), data, LossSettings(), OptimizerSettings(max_grad_norm=1e9),
        temperature=1.0, seed=0, constants={"imitation_weight": 1.0},
    )  # fmt: skip
    assert result.metrics["imitation"] == pytest.approx(-sum(before) / 13, rel=1e-4)  # by token of the batch
    assert sum(policy.score([lesson[0]], [lesson[1]])[0]) > sum(before)


@pytest.mark.parametrize(("name", "top_k"), [("opid_forward_kl", None), ("sdpo", 5), ("ucob", 5)])
def test_a_teacher_of_whole_distributions_pulls_the_policy_to_it(name, top_k):
    policy, teacher = tiny_llama(), tiny_llama(seed=5)
    samples, advantage = batch(policy)
    samples = [replace(s, anchor="here", step_return=float(i)) for i, s in enumerate(samples)]
    prompts, replies = [s.prompt_ids for s in samples], [s.reply_ids for s in samples]
    whole = teacher.distributions(prompts, replies, top_k=top_k)
    assert [len(one.log_probs) for one in whole] == [len(reply) for reply in replies]
    heard = torch.arange(len(samples)) != 2  # one sample has no teacher
    data = LossData(
        samples,
        outcome(torch.zeros_like(advantage.advantages)),
        pad(teacher.score(prompts, replies)),
        response_mask(samples) & heard[:, None],
        [one if here else None for one, here in zip(whole, heard.tolist(), strict=True)],
    )
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-3)
    given = (policy, optimizer, get_algorithm(name), data, LossSettings(), OptimizerSettings())

    def apart():
        now = policy.distributions(prompts, replies)
        pairs = list(zip(now, teacher.distributions(prompts, replies), strict=True))
        return sum(float(divergence(a.log_probs, b.log_probs, 0.0).sum()) for a, b in pairs)

    before = apart()
    for _ in range(8):
        assert update_policy(*given, temperature=1.0, seed=0).metrics["distillation"] > 0
    assert apart() < before


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
    given = (get_algorithm("grpo"), LossData(samples, advantage), LossSettings(), OptimizerSettings())
    options = {"temperature": 1.0, "seed": 0}
    # The loss is finite; one number deep in the backward pass is not.
    weight = policy.model.model.layers[0].mlp.down_proj.weight
    handle = weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), float("nan")))
    result = update_policy(policy, optimizer, *given, **options)
    assert (result.updates, result.skipped, result.skipped_in_a_row) == (0, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    assert not optimizer.state
    handle.remove()
    result = update_policy(policy, optimizer, *given, skipped_in_a_row=1, **options)
    assert (result.updates, result.skipped, result.skipped_in_a_row) == (1, 0, 0)
    assert all(bool(torch.isfinite(p).all()) for p in policy.model.parameters())


def test_more_minibatches_than_rows_do_not_make_larger_steps():
    """One row is one update, whose gradient is the whole batch's however many minibatches were asked for."""
    policy = tiny_llama()
    prompt = random_prompts(policy, [9])[0]
    samples = [sample(prompt, [5, 6], policy)]
    advantage = outcome(torch.ones(1, 2))
    one, _ = one_update(tiny_llama(), samples, advantage)
    eight, result = one_update(tiny_llama(), samples, advantage, minibatches=8)
    assert result.updates == 1
    for a, b in zip(one, eight, strict=True):
        torch.testing.assert_close(a, b)


def test_the_size_of_a_minibatch_gives_their_number():
    policy = tiny_llama()
    prompts = random_prompts(policy, [5 + n for n in range(7)])
    samples = [sample(prompt, [5], policy) for prompt in prompts]
    advantage = outcome(torch.ones(7, 1))
    assert one_update(policy, samples, advantage, minibatch_size=3)[1].updates == 3
    assert one_update(policy, samples, advantage, minibatch_size=100, epochs=2)[1].updates == 2
