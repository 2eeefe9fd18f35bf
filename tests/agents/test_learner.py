"""The table of learners."""

import pytest
import torch
from opid_agents.learning.advantages import outcome_advantage
from opid_agents.learning.learner import LEARNERS, AdvantageInputs, AdvantageSettings, get_learner


def inputs(**changes) -> AdvantageInputs:
    values = {
        "token_level_rewards": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        "response_mask": torch.ones(2, 2),
        "task_ids": ["t", "t"],
        "old_log_probs": torch.full((2, 2), -1.0),
        "episode_log_probs": torch.full((2, 2), -3.0),
        "step_log_probs": torch.full((2, 2), -0.5),
        "episode_mask": torch.tensor([True, False]),
        "step_mask": torch.tensor([False, True]),
        "settings": AdvantageSettings(mode="mean_norm", episode_weight=0.1, step_weight=0.2),
    }
    return AdvantageInputs(**(values | changes))


def test_grpo_is_the_outcome_whatever_the_skills_say():
    given = inputs()
    advantage = get_learner("grpo").advantage(given)
    expected = outcome_advantage(given.token_level_rewards, given.response_mask, given.task_ids, mode="mean_norm")
    assert torch.equal(advantage.advantages, expected)


def test_opid_adds_the_weighted_shifts():
    advantage = get_learner("opid").advantage(inputs())
    torch.testing.assert_close(advantage.advantages, torch.tensor([[0.3, 0.3], [-0.4, -0.4]]))


def test_opid_without_a_routed_sample_is_grpo():
    bare = inputs(episode_log_probs=None, step_log_probs=None, episode_mask=None, step_mask=None)
    opid, grpo = (get_learner(name).advantage(bare).advantages for name in ("opid", "grpo"))
    assert torch.equal(opid, grpo)


def test_the_table():
    assert all(name == learner.name for name, learner in LEARNERS.items())
    assert get_learner("opid").needs_skills
    assert not get_learner("grpo").needs_skills
    with pytest.raises(ValueError, match=r"unknown learner 'gropo'; allowed: \['grpo', 'opid'\]"):
        get_learner("gropo")
