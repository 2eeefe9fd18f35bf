"""Agents by name, with options."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from opid_agents.random import RandomAgent

from opid_gym.roster import FunctionAgent, make_agent, parse_spec
from opid_gym.vector import TextVectorEnv
from tests.corridor import Corridor
from tests.troublemakers import Good


@pytest.fixture
def envs() -> TextVectorEnv:
    return TextVectorEnv(Corridor(), 2, max_episode_steps=4, autoreset_mode="Disabled")


@pytest.mark.parametrize(
    "text",
    [
        "random",
        "a:B",
        "chat base_url=http://x/v1 shots=2 label=c",
        "m 'system=be kind'",
        "m system='be kind' n=1.5",
        'opid/X types=["a b","c"] deep={"k":[1,2]}',
        'm "label=it\'s" empty=',
    ],
)
def test_what_a_spec_says_reads_back(text: str) -> None:
    spec = parse_spec(text)
    assert parse_spec(f"{spec} {shlex.quote(f'label={spec.label}')}") == spec


@pytest.mark.parametrize(("text", "message"), [("", "a name is missing"), ("a 'b", "no closing quotation")])
def test_unreadable_specs(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


def test_agents_come_by_name_class_and_function(envs: TextVectorEnv) -> None:
    assert isinstance(make_agent("random", envs, seed=0), RandomAgent)
    assert isinstance(make_agent("opid_agents.random:RandomAgent", envs, seed=0), RandomAgent)
    assert isinstance(make_agent("tests.troublemakers:Good", envs, seed=0), Good)
    agent = make_agent("tests.troublemakers:one_game command=left", envs, seed=0)
    assert isinstance(agent, FunctionAgent)
    observations, infos = envs.reset(seed=0)
    assert agent.act(observations, infos) == ["left", "left"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random colour=red", r"agent RandomAgent has no options \['colour'\]; allowed: \[\]"),
        ("tests.troublemakers:Good colour=red", r"agent Good has no options \['colour'\]"),
        ("tests.troublemakers:one_game colour=red", r"one_game has no options \['colour'\]; allowed: \['command'\]"),
        ("tests.troublemakers:not_an_agent", "int is no agent: it needs act"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(envs: TextVectorEnv, name: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_agent(name, envs, seed=0)


def test_a_function_sees_one_games_info(envs: TextVectorEnv) -> None:
    seen: list[dict[str, Any]] = []

    def act(observation: str, info: dict[str, Any]) -> str:
        seen.append(info)
        return "right"

    agent = FunctionAgent(act)
    observations, infos = envs.reset(options={"task_ids": ["walk-1", "walk-4"]})
    observations, *_, infos = envs.step(agent.act(observations, infos))
    assert agent.act(observations, infos) == ["right", "right"]
    assert seen[0]["task_id"] == "walk-1"
    assert [info["won"] for info in seen] == [False, False, True, False]
