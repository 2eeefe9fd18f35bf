"""An environment over HTTP, in the shape of OpenEnv's servers: reset, step and state as JSON.

    POST /reset  {"session_id"?, "seed"?, "task_id"?}         begins an episode; a session of its own if none is named
    POST /step   {"session_id"?, "action": {"text": "..."}}   plays one action (a bare string does as well)
    GET  /state?session_id=...                                where the episode stands
    DELETE /sessions/{session_id}                             ends a session
    GET  /health, /schema, /docs

Reset and step answer ``{"session_id", "observation", "reward", "done"}``; the observation holds the text, the task, the
admissible actions and whether the task is solved. All sessions play in one world, which is called by one request at a
time. Without a session id, requests share the session ``default``, which is what single-session clients expect. Who may
ask is decided in `opid_gym.access`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym

from opid_gym.access import Access, Gate
from opid_gym.interop.shared import one_game
from opid_gym.named import missing_extra
from opid_gym.world import World

if TYPE_CHECKING:
    from fastapi import FastAPI

DEFAULT_SESSION = "default"
_NAME = r"^[ -~]{0,128}$"  # of a session: printable ASCII


class SessionError(Exception):
    """A request that cannot be served; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server bears.

    Attributes:
        sessions: at once; a further one is refused (429).
        idle_seconds: a session that was not used for so long is ended.
        action_characters: longer actions are refused.
        max_episode_steps: of every episode; None: the world's own limit.
        body_bytes: larger bodies are refused (413).
    """

    sessions: int = 64
    idle_seconds: float = 600.0
    action_characters: int = 100_000
    max_episode_steps: int | None = None
    body_bytes: int = 1024 * 1024


@dataclass(slots=True)
class _Session:
    env: gym.Env[str, str]
    slot: int
    used: float
    episode_id: str = ""
    task_id: str = ""
    steps: int = 0
    total: float = 0.0
    done: bool = True


class Sessions:
    """The sessions of a server, without the HTTP.

    Args:
        world: what is played.
        limits: see there.
        clock: seconds, for tests.
    """

    def __init__(self, world: World, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or Limits()
        self._world = world
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # the longest unused first
        self._lock = threading.Lock()  # worlds are not made for several threads

    def reset(
        self, session_id: str | None = None, *, seed: int | None = None, task_id: str | None = None
    ) -> dict[str, Any]:
        """Begin an episode, in a new session if `session_id` is None or unknown.

        Raises:
            SessionError: 429 too many sessions; 422 the world refuses the seed or the task.
        """
        with self._lock:
            self._expire()
            name = session_id or uuid.uuid4().hex
            session = self._sessions.get(name) or self._open(name)
            self._touch(name, session)
            try:
                observation, info = session.env.reset(seed=seed, options={"task_id": task_id} if task_id else None)
            except (KeyError, ValueError) as error:
                session.done = True
                raise SessionError(422, str(error.args[0]) if error.args else str(error)) from None
            session.episode_id, session.task_id = uuid.uuid4().hex, info["task_id"]
            session.steps, session.total, session.done = 0, 0.0, False
            return _answer(name, observation, info, None, False)

    def step(self, session_id: str, action: str) -> dict[str, Any]:
        """Play one action.

        Raises:
            SessionError: 404 no such session; 409 its episode is over; 422 the action is too long.
        """
        if len(action) > self.limits.action_characters:
            raise SessionError(
                422, f"an action has at most {self.limits.action_characters} characters, got {len(action)}"
            )
        with self._lock:
            session = self._find(session_id)
            if session.done:
                raise SessionError(409, "the episode is over (or none was begun): reset first")
            self._touch(session_id, session)
            observation, reward, terminated, truncated, info = session.env.step(action)
            session.steps += 1
            session.total += float(reward)
            session.done = terminated or truncated
            return _answer(session_id, observation, info, float(reward), session.done)

    def state(self, session_id: str) -> dict[str, Any]:
        """Where an episode stands.

        Raises:
            SessionError: 404 no such session.
        """
        with self._lock:
            session = self._find(session_id)
            return {
                "session_id": session_id,
                "episode_id": session.episode_id,
                "task_id": session.task_id,
                "step_count": session.steps,
                "return": session.total,
                "done": session.done,
            }

    def close(self, session_id: str) -> None:
        """End a session.

        Raises:
            SessionError: 404 no such session.
        """
        with self._lock:
            self._find(session_id)
            del self._sessions[session_id]

    def __len__(self) -> int:
        with self._lock:
            self._expire()
            return len(self._sessions)

    def _open(self, name: str) -> _Session:
        if len(self._sessions) >= self.limits.sessions:
            raise SessionError(429, f"there are {len(self._sessions)} sessions, as many as this server bears")
        taken = {session.slot for session in self._sessions.values()}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        limit = self.limits.max_episode_steps or self._world.default_max_episode_steps
        env = one_game(self._world, slot, limit, seed=slot)
        self._sessions[name] = _Session(env, slot, self._clock())
        return self._sessions[name]

    def _expire(self) -> None:
        """End the sessions that have been idle for too long."""
        while self._sessions:
            oldest, session = next(iter(self._sessions.items()))
            if self._clock() - session.used < self.limits.idle_seconds:
                return
            del self._sessions[oldest]

    def _find(self, name: str) -> _Session:
        self._expire()
        if name not in self._sessions:
            idle = f"{self.limits.idle_seconds:g} seconds"
            raise SessionError(404, f"there is no session {name!r}, or it was not used for {idle}: reset first")
        return self._sessions[name]

    def _touch(self, name: str, session: _Session) -> None:
        session.used = self._clock()
        self._sessions.move_to_end(name)


def _answer(
    session_id: str, observation: str, info: dict[str, Any], reward: float | None, done: bool
) -> dict[str, Any]:
    actions = info["admissible_actions"]
    return {
        "session_id": session_id,
        "observation": {
            "text": observation,
            "task": info["task"],
            "task_id": info["task_id"],
            "task_type": info["task_type"],
            "admissible_actions": None if actions is None else list(actions),
            "won": bool(info["won"]),
        },
        "reward": reward,
        "done": done,
    }


def make_app(env: str, limits: Limits | None = None, access: Access | None = None, **arguments: Any) -> FastAPI:
    """The server's application.

    Args:
        env: a registered environment.
        limits: what it bears.
        access: what its clients must show; None: what a server for this machine alone asks of them.
        arguments: of the environment.

    Raises:
        ImportError: fastapi is not installed.
        ValueError: there is no such environment, or it refuses an argument.
    """
    try:
        from fastapi import FastAPI
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse
        from pydantic import BaseModel, ConfigDict, Field
    except ImportError:
        raise missing_extra("serving an environment", "fastapi", "serve") from None
    from opid_gym.registration import make_envs

    limits = limits or Limits()
    sessions = Sessions(make_envs(env, 1, **arguments).world, limits)
    SessionName = Annotated[str, Field(pattern=_NAME)]  # noqa: N806  (a type)

    class Answer(JSONResponse):
        """JSON in ASCII, which has a form for half a surrogate pair."""

        def render(self, content: Any) -> bytes:
            return json.dumps(content).encode()

    class Reset(BaseModel):
        model_config = ConfigDict(extra="ignore")  # OpenEnv's clients send members of their own

        session_id: SessionName | None = None
        seed: int | None = Field(None, ge=0)
        task_id: str | None = None

    class Action(BaseModel):
        model_config = ConfigDict(extra="ignore")

        text: str

    class Step(BaseModel):
        model_config = ConfigDict(extra="ignore")

        action: Action | str
        session_id: SessionName = DEFAULT_SESSION

    app = FastAPI(title=f"{env} over HTTP", version="1", default_response_class=Answer)
    app.add_middleware(Gate, access=access or Access(), largest_body=limits.body_bytes, public=("/health",))

    @app.exception_handler(SessionError)
    def refuse(request: Any, error: SessionError) -> JSONResponse:
        return Answer({"detail": str(error)}, status_code=error.status)

    @app.exception_handler(RequestValidationError)
    def explain(request: Any, error: RequestValidationError) -> JSONResponse:
        # Without the input, which may be long, or a number that JSON has no word for.
        return Answer({"detail": [{"loc": e["loc"], "msg": e["msg"]} for e in error.errors()]}, status_code=422)

    # Plain functions: FastAPI runs them in threads, so a slow world keeps nobody from /health.
    def reset(body: Reset | None = None) -> dict[str, Any]:
        body = body or Reset(session_id=DEFAULT_SESSION)
        return sessions.reset(body.session_id, seed=body.seed, task_id=body.task_id)

    def step(body: Step) -> dict[str, Any]:
        return sessions.step(body.session_id, body.action if isinstance(body.action, str) else body.action.text)

    def state(session_id: str = DEFAULT_SESSION) -> dict[str, Any]:
        return sessions.state(session_id)

    def close(session_id: str) -> dict[str, str]:
        sessions.close(session_id)
        return {"closed": session_id}

    def health() -> dict[str, Any]:
        return {"status": "healthy", "env": env, "sessions": len(sessions)}

    def schema() -> dict[str, Any]:
        return {"action": Action.model_json_schema(), "reset": Reset.model_json_schema()}

    # The classes above are local, so their annotations are resolved here and not by name.
    reset.__annotations__["body"] = Reset | None
    step.__annotations__["body"] = Step
    state.__annotations__["session_id"] = close.__annotations__["session_id"] = SessionName
    app.post("/reset")(reset)
    app.post("/step")(step)
    app.get("/state")(state)
    app.delete("/sessions/{session_id}")(close)
    app.get("/health")(health)
    app.get("/schema")(schema)
    return app
