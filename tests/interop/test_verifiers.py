"""Our games as an environment of verifiers.

verifiers is not part of `dev`: openai-agents, which it requires, wants websockets < 17, and `dev` is tested with 17.4;
verifiers 0.4, which has no `MultiTurnEnv` any more, wants openai < 3 besides. So the protocol that `MultiTurnEnv`
documents is driven here by hand; the test under verifiers itself runs where the extra `verifiers` is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opid_gym.actions import BARE, SEARCH, ActionFormat
from opid_gym.interop.verifiers import (
    Conversations,
    episode_return,
    instructions,
    multi_turn_env,
    success,
    valid_action_ratio,
)
from opid_gym.registration import make_envs
from tests.agents.endpoint import Answer, serve
from tests.corridor import Corridor  # registers itself
from tests.patience import SECONDS

needs_verifiers = pytest.mark.skipif(find_spec("verifiers") is None, reason="the extra verifiers is not installed")


def rollout(games: Conversations, row: dict[str, Any], replies: Iterator[str]) -> dict[str, Any]:
    """`MultiTurnEnv.rollout`: reply, look whether the rollout is completed, let the environment respond."""
    state: dict[str, Any] = {**row, "final_env_response": None}
    messages: list[Any] = list(row["prompt"])
    games.begin(state)
    while state["final_env_response"] is None:
        messages.append({"role": "assistant", "content": next(replies)})
        messages += games.answer(messages, state)
    games.end(state)
    return state | {"messages": messages}


def tagged(action: str) -> str:
    return f"<think>on</think><action>{action}</action>"


def test_rows_are_the_tasks_with_the_first_observation() -> None:
    games = Conversations(Corridor(lengths=[2, 3]), 3, BARE)
    prompt = "Your task: walk {} to the right\n\nYou are at 0.\nYou can: left, right"
    assert games.rows() == [
        {"prompt": [{"role": "user", "content": prompt.format(n)}], "info": {"task_id": f"walk-{n}"}} for n in (2, 3)
    ]
    assert [row["info"]["task_id"] for row in games.rows(["walk-3"])] == ["walk-3"]


def test_a_conversation_is_played_to_its_end_and_paid() -> None:
    games = Conversations(Corridor(lengths=[2]), 3, ActionFormat())
    [row] = games.rows()
    won = rollout(games, row, iter([tagged("right"), tagged("Right")]))
    assert [m["content"] for m in won["messages"] if m["role"] == "user"][1:] == [
        "You are at 1.\nYou can: left, right",
        "You are at 2.\nThe episode is over.",
    ]
    assert (episode_return(won), success(won), valid_action_ratio(won)) == (1.0, 1.0, 1.0)
    lost = rollout(games, row, iter([tagged("left"), "right", tagged("jump")]))
    assert (episode_return(lost), success(lost)) == (0.0, 0.0)
    assert valid_action_ratio(lost) == pytest.approx(2 / 3)
    assert lost["episode"] == {"return": 0.0, "success": False, "length": 3, "valid_actions": 2}


def test_rollouts_under_way_do_not_disturb_each_other_and_slots_are_used_again() -> None:
    world = Corridor(lengths=[1, 2])
    games = Conversations(world, 3, BARE)
    short, long = (dict(row) for row in games.rows())
    for state in (short, long):
        games.begin(state)
    assert games.answer([{"role": "assistant", "content": "right"}], long)[0]["content"].startswith(
        "You are at 1.\nYou"
    )
    games.answer([SimpleNamespace(role="assistant", content=[{"type": "text", "text": "right"}])], short)
    assert short["final_env_response"][0]["content"] == "You are at 1.\nThe episode is over."
    games.end(short)
    games.end(short)  # as after an error
    games.begin(short)
    games.answer([SimpleNamespace(role="assistant", content=None)], short)
    assert (short["episode"]["length"], short["episode"]["valid_actions"]) == (1, 0)
    games.answer([{"role": "assistant", "content": "right"}], long)
    assert success(long) == 1.0
    assert sorted(world._place) == [0, 1]


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [("opid/ALFWorld-v0", {"size": "small"}), ("opid/WebShop-v0", {}), ("opid/SearchQA-v0", {})],
)
def test_the_experts_of_all_worlds_are_paid(env_id: str, arguments: dict[str, Any]) -> None:
    world = make_envs(env_id, 1, **arguments).world
    games = Conversations(world, 50, ActionFormat(tag=False, reasoning=False, lower=False))
    [row] = games.rows(world.task_ids[:1])

    def expert() -> Iterator[str]:
        while True:
            yield world.expert_actions([0])[0]

    state = rollout(games, row, expert())
    assert success(state) == 1.0
    assert episode_return(state) > 0
    assert valid_action_ratio(state) == 1.0


def test_the_system_prompt_says_how_to_reply() -> None:
    assert instructions(BARE) == "Reply with one action and nothing else."
    assert instructions(SEARCH, "Search, then answer.").endswith(
        "give exactly one of <search>...</search> or <answer>...</answer>.\n\nSearch, then answer."
    )


@pytest.mark.skipif(find_spec("verifiers") is not None, reason="verifiers is installed")
def test_without_verifiers_the_extra_is_named() -> None:
    with pytest.raises(ImportError, match=r"pip install 'opid-gym\[verifiers\]'"):
        multi_turn_env("tests/Corridor-v0")


@needs_verifiers
def test_verifiers_own_evaluation_plays_and_pays() -> None:
    """In a process of its own: verifiers takes the signals of the process that makes an environment."""

    def walk(request: dict[str, Any], number: int) -> Answer:
        here = request["messages"][-1]["content"]
        action = "left" if "walk 3" in request["messages"][1]["content"] else "right"
        assert request["messages"][0]["content"].startswith("First think")
        assert "You can: left, right" in here
        message = {"role": "assistant", "content": tagged(action)}
        body = {
            "id": str(number), "object": "chat.completion", "created": 0, "model": "walker",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip
        return Answer(json.dumps(body).encode(), headers={"Content-Type": "application/json"})

    with serve(walk) as endpoint:
        done = subprocess.run(
            [sys.executable, "-m", "tests.interop.test_verifiers", endpoint.url],
            env=os.environ | {"OPENAI_API_KEY": "none"}, cwd=Path(__file__).parents[2],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    metrics = [result["metrics"] for result in results]
    assert [
        (r["info"]["task_id"], r["reward"], m["success"], m["num_turns"]) for r, m in zip(results, metrics, strict=True)
    ] == [
        ("walk-1", 1.0, 1.0, 1), ("walk-1", 1.0, 1.0, 1), ("walk-2", 1.0, 1.0, 2), ("walk-2", 1.0, 1.0, 2),
        ("walk-3", 0.0, 0.0, 4), ("walk-3", 0.0, 0.0, 4),
    ]  # fmt: skip
    assert {r["stop_condition"] for r in results} == {"has_final_env_response"}
    assert results[2]["completion"][-1]["content"] == "You are at 2.\nThe episode is over."


def _evaluate(url: str) -> None:
    import asyncio

    import verifiers as vf
    from openai import AsyncOpenAI

    env = multi_turn_env("tests/Corridor-v0", lengths=[1, 2, 3], max_episode_steps=4)
    assert isinstance(env, vf.MultiTurnEnv)
    client = vf.OpenAIChatCompletionsClient(AsyncOpenAI(base_url=url))
    outputs = asyncio.run(env.evaluate(client, "walker", rollouts_per_example=2))["outputs"]
    columns = ("info", "reward", "metrics", "stop_condition", "completion")
    print(json.dumps([{name: output[name] for name in columns} for output in outputs], default=dict))


if __name__ == "__main__":
    _evaluate(sys.argv[1])
