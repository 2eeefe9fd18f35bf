import math

import pytest
import torch
from opid_agents.trace import TokenTrace
from opid_agents.training.batch import Batch, SamplerGap, pad, response_mask, step_samples, token_rewards, view_at

from opid_gym.trajectory import Step, Trajectory


def make_trajectory(rewards, valid, group=0):
    steps = [
        Step(f"see {i}", f"act {i}", reward, f"see {i + 1}", valid=ok,
             data=TokenTrace([1, i], [5] * (i + 1), [-0.5] * (i + 1)).to_data())
        for i, (reward, ok) in enumerate(zip(rewards, valid, strict=True))
    ]  # fmt: skip
    return Trajectory("t", "type", "task", steps, success=sum(rewards) > 0, group=group)


def test_the_outcome_stands_on_every_step_and_the_penalty_on_the_invalid_one_alone():
    trajectories = [make_trajectory([0, 0, 1], [True, False, True]), make_trajectory([0], [False], group=1)]
    samples = step_samples(trajectories, reward_scale=10, invalid_penalty=0.1)
    assert [s.score for s in samples] == pytest.approx([10, 9.9, 10, -0.1])
    assert [(s.trajectory, s.step, s.group, s.success) for s in samples] == [
        (0, 0, 0, True),
        (0, 1, 0, True),
        (0, 2, 0, True),
        (1, 0, 1, False),
    ]


def test_success_alone_may_be_what_counts():
    """A shop pays for a half right purchase; as published only a right one is worth anything."""
    half, whole = make_trajectory([0, 0.5], [True, True]), make_trajectory([0, 1], [True, False])
    half.success = False
    samples = step_samples([half, whole], reward="success", reward_scale=10, invalid_penalty=0.1, gamma=0.5)
    assert [s.score for s in samples] == pytest.approx([0, 0, 10, 9.9])
    assert [s.step_return for s in samples] == pytest.approx([0, 0, 5, 9.9])


def test_scores_become_rewards_of_the_last_reply_token():
    samples = step_samples([make_trajectory([0, 1], [True, False])])
    mask = response_mask(samples)
    assert mask.tolist() == [[True, False], [True, True]]
    torch.testing.assert_close(token_rewards(samples, mask), torch.tensor([[1.0, 0.0], [0.0, 0.9]]))
    assert pad([s.log_probs for s in samples]).tolist() == [[-0.5, 0.0], [-0.5, -0.5]]


def test_a_view_is_what_was_known_at_the_step():
    view = view_at(make_trajectory([0, 0, 1], [True] * 3), 2)
    assert view.observation == "see 2"
    assert list(view.history) == [("see 0", "act 0"), ("see 1", "act 1")]


def test_steps_without_tokens_are_refused():
    trajectory = make_trajectory([1], [True])
    trajectory.steps[0].data.clear()
    with pytest.raises(ValueError, match=r"step 0 of trajectory 0 has no tokens: play with"):
        step_samples([trajectory])


def test_the_gap_to_the_sampler_is_a_mean_difference_and_a_divergence():
    batch = Batch.of([], step_samples([make_trajectory([0, 1], [True, True])]))
    assert batch.sampler_gap is None
    scored = batch.with_old_log_probs([[-0.5 + math.log(2)], [-0.5, -0.5 - math.log(2)]])
    assert scored.samples[1].log_probs == [-0.5, -0.5 - math.log(2)]
    assert scored.old_log_probs[0, 0] == pytest.approx(-0.5 + math.log(2))
    assert scored.sampler_gap.mean == pytest.approx(2 * math.log(2) / 3)
    # r - 1 - log r for r = 2, 1 and 1/2.
    assert scored.sampler_gap.kl == pytest.approx(((1 - math.log(2)) + 0 + (math.log(2) - 0.5)) / 3)
    assert SamplerGap.of(torch.zeros(0), torch.zeros(0)) is None


def test_the_divergence_of_the_gap_is_unbiased():
    sampler, policy = (torch.randn(7, generator=torch.Generator().manual_seed(i)).log_softmax(0) for i in (0, 1))
    expected = float((sampler.exp() * (sampler - policy)).sum())
    # Each token as often as its sampler says, in ten-thousandths.
    counts = (sampler.exp() * 1e4).round().long()
    found = SamplerGap.of(sampler.repeat_interleave(counts), policy.repeat_interleave(counts))
    assert found.kl == pytest.approx(expected, rel=1e-3)
