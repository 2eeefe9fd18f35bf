"""How a server answers whom it refuses; who that is, the tests of the servers tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from opid_gym import access
from opid_gym.access import LARGEST_HEAD, Message, Refusal, refuse


def answered(parts: Iterable[Message]) -> list[str]:
    """What happens, in order, when a request whose body comes in these parts is refused; after them nothing comes."""
    told, coming = [], iter(parts)

    async def receive() -> Message:
        for part in coming:
            told.append("take in")
            return part
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        told.append(str(message.get("status", "body")))

    asyncio.run(refuse(Refusal(403, "no"), send, receive))
    return told


def part(size: int, more: bool) -> Message:
    return {"type": "http.request", "body": b" " * size, "more_body": more}


def test_a_short_body_is_taken_in_before_the_answer_or_the_connection_would_be_reset() -> None:
    assert answered([part(9, True), part(9, False)]) == ["take in", "take in", "403", "body"]
    assert answered([part(0, False)]) == ["take in", "403", "body"]
    assert answered([{"type": "http.disconnect"}]) == ["take in", "403", "body"]


def test_nobody_waits_for_a_body_that_is_long_or_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered([part(LARGEST_HEAD, True)] * 9) == ["take in", "take in", "403", "body"]
    monkeypatch.setattr(access, "_LATE_BODY_SECONDS", 0.01)
    assert answered([part(9, True)]) == ["take in", "403", "body"]
