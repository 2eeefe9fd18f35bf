"""An environment over HTTP: a real server and a real client, sessions, limits, and refusals with a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from opid_gym.interop.server import Limits, SessionError, Sessions
from opid_gym.registration import make_envs
from tests.corridor import Corridor

httpx = pytest.importorskip("httpx", reason="the llm extra is not installed")
pytest.importorskip("fastapi", reason="the serve extra is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    words = ["serve", "env", "--set", "size=small", "--port", "0", "--sessions", "8", "--max-episode-steps", "5"]
    with subprocess.Popen(
        [sys.executable, "-m", "opid_gym.cli", *words], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found, said
        yield found[0]
        server.terminate()


def post(url: str, path: str, body: Any) -> Any:
    response = httpx.post(url + path, json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_episode_over_http_is_the_episode_in_process(url: str) -> None:
    envs = make_envs("opid/ALFWorld-v0", 1, size="small", max_episode_steps=5)
    task_id = envs.world.task_ids[3]
    observations, infos = envs.reset(options={"task_ids": [task_id]})
    answer = post(url, "/reset", {"session_id": "a", "task_id": task_id, "episode_id": "an OpenEnv client's"})
    assert (answer["session_id"], answer["reward"], answer["done"]) == ("a", None, False)
    for number in range(5):
        seen = answer["observation"]
        assert seen["text"] == observations[0]
        assert seen["admissible_actions"] == list(infos["admissible_actions"][0])
        assert (seen["task"], seen["task_id"]) == (infos["task"][0], task_id)
        action = seen["admissible_actions"][number]
        observations, *_, infos = envs.step([action])
        answer = post(url, "/step", {"session_id": "a", "action": {"text": action} if number % 2 else action})
    assert answer["done"] is True
    state = httpx.get(url + "/state", params={"session_id": "a"}).json()
    assert (state["step_count"], state["done"], state["task_id"]) == (5, True, task_id)


def test_a_client_without_sessions_has_one(url: str) -> None:
    assert httpx.post(url + "/reset").json()["session_id"] == "default"
    assert post(url, "/step", {"action": "look"})["reward"] == 0.0
    assert httpx.get(url + "/state").json()["step_count"] == 1


def test_clients_at_the_same_time_do_not_meet(url: str) -> None:
    def play(number: int) -> list[str]:
        task = {"session_id": f"client {number % 4}-{number}", "seed": number % 4}
        answer = post(url, "/reset", task)
        texts = [answer["observation"]["text"]]
        for step in range(4):
            action = answer["observation"]["admissible_actions"][step]
            answer = post(url, "/step", {"session_id": task["session_id"], "action": action})
            texts.append(answer["observation"]["text"])
        httpx.delete(url + f"/sessions/{task['session_id']}").raise_for_status()
        return texts

    alone = [play(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(play, [0, 1, 2, 3]))
    assert together == alone


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/step", {"session_id": "nobody", "action": "look"}, 404, "there is no session 'nobody'"),
        ("/reset", {"session_id": "x", "task_id": "nowhere"}, 422, "nowhere"),
        ("/reset", {"session_id": "x", "seed": -1}, 422, "greater than or equal to 0"),
        ("/step", {"session_id": "x", "action": 7}, 422, "action"),
        ("/step", {}, 422, "action"),
        ("/step", {"session_id": "x", "action": "a" * 100_001}, 422, "at most 100000 characters"),
    ],
)
def test_refusals_say_why(url: str, path: str, body: Any, status: int, reason: str) -> None:
    response = httpx.post(url + path, json=body)
    assert response.status_code == status
    assert reason in response.text
    assert "Traceback" not in response.text


def test_a_finished_episode_wants_a_reset(url: str) -> None:
    post(url, "/reset", {"session_id": "f"})
    for _ in range(5):
        post(url, "/step", {"session_id": "f", "action": "look"})
    assert httpx.post(url + "/step", json={"session_id": "f", "action": "look"}).status_code == 409
    assert httpx.get(url + "/health").json()["status"] == "healthy"


def test_sessions_are_limited_and_idle_ones_make_room() -> None:
    now = [0.0]
    sessions = Sessions(Corridor(), Limits(sessions=2, idle_seconds=10), clock=lambda: now[0])
    sessions.reset("a", task_id="walk-2")
    now[0] = 6.0
    sessions.reset("b", task_id="walk-3")
    with pytest.raises(SessionError, match="there are 2 sessions") as refused:
        sessions.reset("c")
    assert refused.value.status == 429
    now[0] = 11.0
    sessions.reset("c", task_id="walk-1")  # a has been idle
    with pytest.raises(SessionError, match="no session 'a'"):
        sessions.step("a", "right")
    assert sessions.step("b", "right")["observation"]["text"] == "You are at 1."
    assert sessions.step("c", "right")["done"] is True
    sessions.close("b")
    assert len(sessions) == 1
    assert sessions.reset()["session_id"] not in ("", "default")
