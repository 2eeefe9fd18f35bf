import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from opid_agents.training.demonstrations import Demonstrator, load_expert, spoken

import opid_gym
from opid_gym.rollout import play
from tests.agents.training.played import DEMONSTRATIONS, demonstrate

gym.register_envs(opid_gym)


def test_demonstrations_are_the_same_for_the_same_seed_and_solve_their_tasks():
    assert [t.to_json() for t in demonstrate(0.2)] == [t.to_json() for t in DEMONSTRATIONS]
    assert all(t.success for t in demonstrate(0.0))


def test_any_world_with_an_expert_can_be_demonstrated():
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=4, size="small", autoreset_mode=AutoresetMode.DISABLED)
    played = list(play(envs, Demonstrator(envs), list(envs.unwrapped.world.task_ids)[:8]))
    assert all(t.success for t in played)
    assert all(step.data["expert"] == step.action for t in played for step in t.steps)


def test_actions_with_a_place_for_words_are_no_hints():
    assert spoken(["search[<your query>]", "click[< prev]", "click[next >]"]) == ["click[< prev]", "click[next >]"]
    assert spoken(None) == []


def test_noise_changes_what_is_played_and_not_what_is_learned():
    steps = [step for t in DEMONSTRATIONS for step in t.steps]
    differ = [step.action != step.data["expert"] for step in steps]
    assert 0.05 < np.mean(differ) < 0.25
    assert all(step.data["expert"] in step.admissible_actions for step in steps)
    assert any(step.action not in step.admissible_actions for step in steps)


@pytest.mark.parametrize("path", ["nowhere:Expert", "opid_gym.rollout:Nobody", "no colon", ""])
def test_an_unknown_expert_is_named(path):
    with pytest.raises(ValueError, match="no expert "):
        load_expert(path)
