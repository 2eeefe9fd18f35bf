"""Exact passes, intervals, and the loop behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from opid_agents.expert import ExpertAgent
from opid_agents.random import RandomAgent

from opid_gym.evaluation import Episode, Evaluation, evaluate, paired_difference, wilson
from opid_gym.rollout import play
from opid_gym.vector import TextVectorEnv
from tests.corridor import Corridor


def corridor(num_envs: int, **kwargs: Any) -> TextVectorEnv:
    return TextVectorEnv(Corridor(), num_envs, max_episode_steps=4, autoreset_mode="Disabled", **kwargs)


@pytest.mark.parametrize("num_envs", [1, 2, 3, 5, 8])
def test_each_task_is_played_once_whatever_the_batch(num_envs: int) -> None:
    envs = corridor(num_envs)
    result = evaluate(envs, ExpertAgent(envs))
    assert [e.task_id for e in result.episodes] == list(envs.world.task_ids)
    assert [e.success for e in result.episodes] == [True, True, True, True, False]
    assert [e.length for e in result.episodes] == [1, 2, 3, 4, 4]
    assert {name: rate.estimate for name, rate in result.by_task_type().items()} == {"even": 1.0, "odd": 2 / 3}
    assert result.success == wilson(4, 5)


def test_the_json_holds_totals_and_the_episodes_behind_them() -> None:
    envs = corridor(2)
    report = json.loads(evaluate(envs, ExpertAgent(envs), settings={"split": "train"}).to_json())
    assert (report["split"], report["episodes"], report["successes"]) == ("train", 5, 4)
    assert report["by_task_type"]["even"]["successes"] == 2
    assert report["mean_length"] == 14 / 5
    assert report["valid_action_ratio"] == 1.0
    assert len(report["results"]) == 5


@pytest.mark.parametrize("num_envs", [1, 3, 7])
def test_repeated_tasks_are_played_as_often_as_listed(num_envs: int) -> None:
    envs = corridor(num_envs)
    wanted = ["walk-1"] * 3 + ["walk-4"] * 2 + ["walk-2"]
    counts: list[int] = []
    trajectories = list(play(envs, RandomAgent(num_envs, seed=1), wanted, on_step=counts.append))
    assert sorted(t.metadata["index"] for t in trajectories) == list(range(6))
    assert all(t.task_id == wanted[t.metadata["index"]] for t in trajectories)
    assert sum(counts) == sum(len(t) for t in trajectories)


def test_the_agent_sees_who_is_playing_and_when_games_begin() -> None:
    class Watch:
        def __init__(self) -> None:
            self.begun = 0
            self.active = 0

        def reset(self, mask: Any) -> None:
            self.begun += int(mask.sum())

        def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
            self.active += int(infos["_task"].sum())
            assert all(infos["admissible_actions"][i] == ("left", "right") for i in np.flatnonzero(infos["_task"]))
            return ["right"] * len(observations)

    watch = Watch()
    steps = sum(len(t) for t in play(corridor(3), watch, ["walk-1", "walk-3", "walk-2", "walk-2", "walk-5"]))
    assert (watch.begun, watch.active, steps) == (5, 12, 12)


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match=r"AutoresetMode\.DISABLED"):
        list(play(TextVectorEnv(Corridor(), 1), RandomAgent(1), ["walk-1"]))

    class Short(RandomAgent):
        def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
            return []

    with pytest.raises(ValueError, match=r"Short\.act must return num_envs=2 actions, got 0"):
        list(play(corridor(2), Short(2), ["walk-1"]))
    with pytest.raises(ValueError, match="no tasks"):
        evaluate(corridor(1), RandomAgent(1), [])
    assert list(play(corridor(1), RandomAgent(1), [])) == []


def test_the_random_agents_choices_depend_on_nothing_but_seed_and_task() -> None:
    def actions(num_envs: int, task_ids: list[str], seed: int = 7) -> dict[str, list[list[str]]]:
        played: dict[str, list[list[str]]] = {}
        for trajectory in play(corridor(num_envs), RandomAgent(num_envs, seed=seed), task_ids):
            played.setdefault(trajectory.task_id, []).append([step.action for step in trajectory.steps])
        return played

    alone = actions(1, ["walk-3"])
    assert actions(4, ["walk-5", "walk-2", "walk-3", "walk-4", "walk-1"])["walk-3"] == alone["walk-3"]
    assert len({str(actions(1, ["walk-3"], seed)) for seed in range(10)}) > 3
    assert len({str(again) for again in actions(2, ["walk-5"] * 10)["walk-5"]}) > 3


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
    for (successes, count), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        interval = wilson(successes, count)
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    with pytest.raises(ValueError, match="successes=3, count=2"):
        wilson(3, 2)


def test_the_paired_difference_counts_only_discordant_pairs() -> None:
    def made(successes: str) -> Evaluation:
        return Evaluation(tuple(Episode(str(i), "t", c == "1", 0.0, 1, 1) for i, c in enumerate(successes)))

    before, after = made("1" * 40 + "0" * 60), made("1" * 35 + "0" * 5 + "1" * 20 + "0" * 40)
    difference = paired_difference(before, after)
    assert difference.estimate == pytest.approx(0.15)
    p, q = 21 / 102, 6 / 102
    half = 1.959963984540054 * math.sqrt((p + q - (p - q) ** 2) / 102)
    assert (difference.low, difference.high) == pytest.approx((p - q - half, p - q + half))
    assert paired_difference(after, before).estimate == -difference.estimate
    with pytest.raises(ValueError, match="same tasks"):
        paired_difference(before, made("1"))
