"""An environment over HTTP: a real server and a real client, sessions, limits, and refusals with a reason."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from opid_gym.access import access_for
from opid_gym.interop.server import Limits, SessionError, Sessions, make_app
from opid_gym.registration import make_envs
from tests import patience
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
    response = patience.post(url + path, json=body)
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
    state = patience.get(url + "/state", params={"session_id": "a"}).json()
    assert (state["step_count"], state["done"], state["task_id"]) == (5, True, task_id)


def test_a_client_without_sessions_has_one(url: str) -> None:
    assert patience.post(url + "/reset").json()["session_id"] == "default"
    assert post(url, "/step", {"action": "look"})["reward"] == 0.0
    assert patience.get(url + "/state").json()["step_count"] == 1


def test_clients_at_the_same_time_do_not_meet(url: str) -> None:
    def play(number: int) -> list[str]:
        task = {"session_id": f"client {number % 4}-{number}", "seed": number % 4}
        answer = post(url, "/reset", task)
        texts = [answer["observation"]["text"]]
        for step in range(4):
            action = answer["observation"]["admissible_actions"][step]
            answer = post(url, "/step", {"session_id": task["session_id"], "action": action})
            texts.append(answer["observation"]["text"])
        httpx.delete(url + f"/sessions/{task['session_id']}", timeout=patience.SECONDS).raise_for_status()
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
    response = patience.post(url + path, json=body)
    assert response.status_code == status
    assert reason in response.text
    assert "Traceback" not in response.text


def test_a_finished_episode_wants_a_reset(url: str) -> None:
    post(url, "/reset", {"session_id": "f"})
    for _ in range(5):
        post(url, "/step", {"session_id": "f", "action": "look"})
    assert patience.post(url + "/step", json={"session_id": "f", "action": "look"}).status_code == 409
    assert patience.get(url + "/health").json()["status"] == "healthy"


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


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/reset", b'{"seed": NaN}', 422),
        ("/reset", b'{"seed": 1e400}', 422),
        ("/reset", b'{"session_id": "\\ud800"}', 422),
        ("/reset", b'{"session_id": "' + b"a" * 200 + b'"}', 422),
        ("/reset", b'{"task_id": "\\ud800"}', 422),
        ("/reset", b"[" * 100_000, 400),
        ("/reset", b'{"seed": ' + b"9" * 10_000 + b"}", 400),
        ("/reset", b"\xff\xfe", 422),
        ("/step", b'{"session_id": "strange", "action": "\\ud800 \\u0000"}', 200),
        ("/step", b'{"action": "' + b"a" * 2**20 + b'"}', 413),
    ],
)
def test_strange_bodies_are_answered_and_never_with_500(url: str, path: str, body: bytes, status: int) -> None:
    post(url, "/reset", {"session_id": "strange"})
    response = patience.post(url + path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert len(response.content) < 10_000


def test_a_body_without_an_end_is_refused_at_its_limit(url: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    with contextlib.suppress(httpx.TransportError):  # it may close the connection while this is still sending
        assert patience.post(url + "/reset", content=endless(), headers=headers).status_code == 413
    assert patience.get(url + "/health").json()["status"] == "healthy"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "192.0.2.7:8000"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"X-Long": "a" * 40_000}, 431),
    ],
)
def test_other_sites_and_names_that_point_here_are_refused(url: str, headers: dict[str, str], status: int) -> None:
    given = {"Content-Type": "application/json", **headers}
    response = patience.post(url + "/reset", content=b'{"session_id": "mine"}', headers=given)
    assert response.status_code == status, response.text


def test_a_head_without_an_end_is_refused(url: str) -> None:
    given = {"Content-Type": "application/json", "X-Long": "a" * 200_000}
    with contextlib.suppress(httpx.TransportError):  # it may close the connection while this is still sending
        assert patience.post(url + "/reset", content=b'{"session_id": "mine"}', headers=given).status_code == 400
    assert patience.get(url + "/health").json()["status"] == "healthy"


def test_other_machines_need_a_token_and_health_does_not() -> None:
    from fastapi.testclient import TestClient

    with pytest.raises(ValueError, match=r"other machines can reach --host 0\.0\.0\.0: give --token"):
        access_for("0.0.0.0", None)
    assert access_for("0.0.0.0", None, open_to_all=True).refusal("10.0.0.3:8000", None, None) is None
    access = access_for("0.0.0.0", "secret")
    client = TestClient(make_app("opid/ALFWorld-v0", access=access, size="small"), base_url="http://gpu7:8000")
    assert client.get("/health").status_code == 200
    refused = client.post("/reset")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert client.post("/reset", headers={"Authorization": "Bearer guess"}).status_code == 401
    assert client.post("/reset", headers={"Authorization": "Bearer secret"}).status_code == 200
    forged = {"Authorization": "Bearer secret", "Origin": "http://evil.example"}
    assert client.post("/reset", headers=forged).status_code == 403


def test_a_session_ends_when_it_was_not_used_for_long() -> None:
    now = [0.0]
    sessions = Sessions(Corridor(), Limits(idle_seconds=10), clock=lambda: now[0])
    sessions.reset("a")
    now[0] = 11.0
    assert len(sessions) == 0
    with pytest.raises(SessionError, match="no session 'a', or it was not used for 10 seconds"):
        sessions.step("a", "right")
