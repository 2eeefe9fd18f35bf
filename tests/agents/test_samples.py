import pytest
import torch
from opid_agents.learning.samples import pad, response_mask, step_samples, token_rewards, view_at

from opid_gym.trajectory import Step, Trajectory


def make_trajectory(rewards, valid, group=0):
    steps = [
        Step(f"see {i}", f"act {i}", reward, f"see {i + 1}", valid=ok,
             data={"prompt_ids": [1, i], "reply_ids": [5] * (i + 1), "log_probs": [-0.5] * (i + 1)})
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
    del trajectory.steps[0].data["log_probs"]
    with pytest.raises(ValueError, match=r"step 0 of trajectory 0 has no \['log_probs'\]"):
        step_samples([trajectory])
