"""Candidates and the agents that choose among them, in every bundled world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from opid_agents.candidates import MAX_CANDIDATES, candidates
from opid_agents.first import FirstAgent
from opid_agents.random import RandomAgent

from opid_gym.evaluation import evaluate
from opid_gym.registration import make_envs, registered_worlds
from opid_gym.roster import single_info
from opid_gym.vector import TextVectorEnv
from tests.corridor import Corridor

SMALL = {"opid/ALFWorld-v0": {"size": "small"}}


def info(task: str, actions: tuple[str, ...] | None) -> dict[str, Any]:
    return {"task": task, "admissible_actions": actions}


def test_blanks_are_filled_from_the_task_and_the_observation() -> None:
    made = candidates("Results for B07: Red Mug", info("find me a red mug", ("search[<your query>]", "click[b07]")))
    assert made == ["search[find me a red mug]", "search[red mug]", "click[b07]"]


def test_a_question_is_searched_before_it_is_answered() -> None:
    question = "Which river flows through Paris and Rouen?"
    assert candidates(question, info(question, None))[0] == f"search[{question}]"
    read = '<information>Doc 1(Title: "Seine") The Seine is 775 km long and reaches Rouen.</information>'
    made = candidates(read, info(question, None))
    assert "answer[Seine]" in made
    assert "answer[775]" in made
    assert made.index("answer[Seine]") < made.index("answer[Rouen]") < made.index(f"search[{question}]")


def test_however_much_was_read_there_are_few_candidates_and_searches_among_them() -> None:
    read = " ".join(f"Name{i} Family{i} lives." for i in range(500))
    made = candidates(read, info("Who is it?", None))
    assert len(made) <= MAX_CANDIDATES
    assert any(action.startswith("search[") for action in made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("world", [spec.id for spec in registered_worlds()])
@pytest.mark.parametrize("agent", ["random", "first"])
def test_every_bundled_world_can_be_played_by_agents_that_choose(world: str, agent: str) -> None:
    envs = make_envs(world, 4, max_episode_steps=6, **SMALL.get(world, {}))
    player = RandomAgent(4, seed=0) if agent == "random" else FirstAgent()
    result = evaluate(envs, player, list(envs.world.task_ids)[:8])
    assert all(1 <= episode.length <= 6 for episode in result.episodes)
    observations, infos = envs.reset()
    assert all(candidates(observations[i], single_info(infos, i)) for i in range(4))
    envs.close()


def test_the_first_agent_tries_everything_before_it_repeats_itself() -> None:
    envs = TextVectorEnv(Corridor(), 2, max_episode_steps=4, autoreset_mode="Disabled")
    observations, infos = envs.reset(options={"task_ids": ["walk-5", "walk-5"]})
    agent, stubborn = FirstAgent(), FirstAgent(untried=False)
    for player in (agent, stubborn):
        player.reset(np.array([True, True]))
    assert [agent.act(observations, infos)[0] for _ in range(4)] == ["left", "right", "left", "right"]
    assert [stubborn.act(observations, infos)[0] for _ in range(2)] == ["left", "left"]
    agent.reset(np.array([True, False]))
    assert agent.act(observations, infos) == ["left", "left"]
    agent.reset(np.array([False, True]))
    assert agent.act(observations, infos) == ["right", "left"]
