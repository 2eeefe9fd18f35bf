"""The environment manager for verl-agent, driven by a restatement of what that loop does with one.

The restatement follows the interface of ``agent_system.multi_turn_rollout`` as of 2025: what it reads of observations
and infos, which records it keeps, and what it asks in the end. It has no model: replies come from a function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from opid_gym.actions import BARE
from opid_gym.interop.verl_agent import EnvironmentManager
from opid_gym.prompting import PromptTemplate
from opid_gym.registration import make_envs
from opid_gym.vector import TextVectorEnv
from tests.corridor import Corridor


def collect(manager: Any, reply: Callable[[int, int], str], max_steps: int) -> dict[str, Any]:
    """A rollout as verl-agent makes it; `reply` is called with the game and the step."""
    observations, infos = manager.reset(kwargs=None)
    count = len(observations["text"])
    assert len(infos) == count
    records: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    told: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    done = np.zeros(count, dtype=bool)
    rewards, lengths = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
    prompts = []
    for step in range(max_steps):
        active = np.logical_not(done)
        assert all(isinstance(text, str) for text in observations["text"])
        prompts.append(observations)
        observations, paid, dones, infos = manager.step([reply(game, step) for game in range(count)])
        assert paid.shape == dones.shape == (count,)
        valid = np.array([info["is_action_valid"] for info in infos], dtype=bool)
        rewards[active] += paid[active]
        lengths[active] += 1
        for i in range(count):
            records[i].append({"active_masks": active[i], "is_action_valid": valid[i]})
            told[i].append(infos[i])
        done = np.logical_or(done, dones)
        if done.all():
            break
    success = manager.success_evaluator(
        total_infos=told, total_batch_list=records, episode_rewards=rewards, episode_lengths=lengths
    )
    return {"success": success, "rewards": rewards, "lengths": lengths, "records": records, "prompts": prompts}


def manager(**options: Any) -> EnvironmentManager:
    envs = TextVectorEnv(Corridor(), 4, group_size=2, max_episode_steps=3, autoreset_mode="Disabled")
    template = PromptTemplate("Task: {task}. {history} Now: {observation} [{admissible_actions}]")
    return EnvironmentManager(envs, template, BARE, **options)


def test_a_rollout_of_verl_agent_runs_and_counts() -> None:
    games = manager(reward_scale=10.0)
    found = collect(games, lambda game, step: "right" if game % 2 == 0 else "left", max_steps=10)
    tasks = games._tasks
    assert tasks[0] == tasks[1] != tasks[2] == tasks[3]  # groups of one task side by side
    goals = [int(task.split()[1]) for task in tasks]
    won = [float(game % 2 == 0 and goals[game] <= 3) for game in range(4)]
    assert found["success"]["success_rate"].tolist() == won
    assert found["rewards"].tolist() == [10.0 * one for one in won]
    assert found["lengths"].tolist() == [min(goals[g], 3) if g % 2 == 0 else 3 for g in range(4)]
    by_type = {name for name in found["success"] if name != "success_rate"}
    assert by_type == {f"{'odd' if goal % 2 else 'even'}_success_rate" for goal in goals}


def test_prompts_hold_task_history_and_actions_and_anchors_name_the_state() -> None:
    found = collect(manager(), lambda game, step: "left", max_steps=2)
    first, second = found["prompts"]
    assert first["text"][0].startswith("Task: walk ")
    assert "Now: You are at 0. ['left',\n'right']" in first["text"][0]
    assert "Observation 1: 'You are at 0.', Action 1: 'left'" in second["text"][0]
    assert "Now: You are at -1." in second["text"][0]
    assert len(set(first["anchor"])) == 1
    assert first["anchor"] != second["anchor"]
    assert first["image"] is None


def test_replies_that_cannot_be_read_are_marked_and_tasks_can_be_chosen() -> None:
    games = EnvironmentManager(make_envs("opid/ALFWorld-v0", 2, size="small", split="valid_seen"))
    wanted = list(games.envs.world.task_ids)[3:5]
    _, infos = games.reset([{"task_id": task} for task in wanted])
    assert [info["task_id"] for info in infos] == wanted
    _, _, _, infos = games.step(["<think>hm</think><action>look</action>", "I would rather not."])
    assert [int(info["is_action_valid"]) for info in infos] == [1, 0]
    games.close()


def test_a_task_that_is_not_there_is_named() -> None:
    games = manager()
    with pytest.raises(KeyError, match="nowhere"):
        games.reset([{"task_id": "nowhere"}] * 4)
