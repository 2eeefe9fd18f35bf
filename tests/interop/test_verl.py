"""The environment side of verl's agent loop, driven by a restatement of such a loop.

The loop keeps the shape of verl 0.9's: coroutines that wait for an inference server between turns, one conversation an
episode, token lists with a mask. The server is a function from the messages to a reply; a token is a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from opid_gym.actions import BARE
from opid_gym.interop.verl import Dialogues
from tests.corridor import Corridor  # noqa: F401  (registers itself)

Server = Callable[[list[dict[str, str]]], str]


async def run(games: Dialogues, server: Server, **columns: Any) -> dict[str, Any]:
    """One episode, as an agent loop plays it."""
    with games.open() as game:
        messages = [{"role": "user", "content": game.begin(columns.get("task_id"))}]
        response, mask = list[str](), list[int]()
        while True:
            await asyncio.sleep(0)  # the others play on while the server answers
            reply = server(messages)
            response += reply.split()
            mask += [1] * len(reply.split())
            said = game.answer(reply)
            if said is None:
                break
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": said}]
            response += said.split()
            mask += [0] * len(said.split())
        assert len(response) == len(mask)
        return {"messages": messages, "mask": mask, "reward": game.reward, "won": game.won, "invalid": game.invalid}


async def play(games: Dialogues, server: Server, tasks: list[str]) -> list[dict[str, Any]]:
    return await asyncio.gather(*(run(games, server, task_id=task) for task in tasks))


def test_episodes_side_by_side_keep_apart() -> None:
    games = Dialogues("tests/Corridor-v0", action_format=BARE, lengths=[1, 2, 3], max_episode_steps=3)
    found = asyncio.run(play(games, lambda messages: "right", ["walk-1", "walk-3", "walk-2", "walk-1"]))
    assert [(one["reward"], one["won"]) for one in found] == [(1.0, True)] * 4
    assert [sum(one["mask"]) for one in found] == [1, 3, 2, 1]  # a word each turn
    assert found[0]["messages"][0]["content"] == "Your task: walk 1 to the right\n\nYou are at 0.\nYou can: left, right"
    assert found[2]["messages"][2]["content"] == "You are at 1.\nYou can: left, right"
    again = asyncio.run(play(games, lambda messages: "left", ["walk-1"]))  # a game that was played before
    assert (again[0]["reward"], again[0]["won"], sum(again[0]["mask"])) == (0.0, False, 3)


def test_actions_are_read_from_tagged_replies_and_what_cannot_be_read_is_counted() -> None:
    games = Dialogues("tests/Corridor-v0", lengths=[2], max_episode_steps=4)
    replies = iter(["right", "<think>on</think><action>right</action>", "<think>on</think><action>right</action>"])
    (found,) = asyncio.run(play(games, lambda messages: next(replies), ["walk-2"]))
    assert (found["reward"], found["won"], found["invalid"]) == (1.0, True, 1)


def test_an_unknown_task_is_named_and_its_game_is_free_again() -> None:
    games = Dialogues("tests/Corridor-v0", lengths=[1], max_episode_steps=3)
    with pytest.raises(KeyError, match="nowhere"):
        asyncio.run(play(games, lambda messages: "right", ["nowhere"]))
    with games.open() as game:
        assert game.begin("walk-1").startswith("Your task: ")
