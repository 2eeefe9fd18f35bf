"""Stock ALFWorld, run by TextWorld itself behind the interface of ``Engine``.

It is some thousands of times slower. It is here for comparison, for files whose rules the engine does not implement,
and as the reference of the differential tests. It must be installed: ``pip install 'opid-gym[stock]'``.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opid_gym.named import missing_extra
from opid_gym_envs.alfworld.problem import GameFileError, Problem

# TextWorld loads a copy of its planner library (1 to 4 MB with a game in it) for every environment, and never unloads
# it. Nor can we: the library registers an exit handler, and a process that has unloaded it crashes when it ends. So
# the environment of a closed engine waits here for the next engine, which loads its game into it.
_idle: list[Any] = []


class StockEngine:
    """One episode after another of one game file, played by ALFWorld on TextWorld.

    The game is loaded as ALFWorld loads it: TextWorld's planner-backed environment under ALFWorld's own naming of
    things, without its step limit. A process has as many copies of the planner library as it ever had engines open at
    the same time.

    Args:
        path: a ``game.tw-pddl`` file.

    Raises:
        ImportError: ALFWorld, TextWorld or its planner is not installed.
        GameFileError: stock cannot load the file.
    """

    def __init__(self, path: str | Path) -> None:
        textworld_environment, naming = _import_stock()
        self.path = Path(path)
        self._state: Any = None
        self._env = _idle.pop() if _idle else naming(textworld_environment())
        # Also an engine that nobody closes gives its environment back.
        self._give_back = weakref.finalize(self, _idle.append, self._env)
        self._give_back.atexit = False
        try:
            self._env.load(str(self.path))
        # Stock reports bad files with whatever the failing line raises, SystemExit included.
        except (Exception, SystemExit) as error:
            self.close()
            raise GameFileError(f"{self.path}: stock cannot load the file ({_describe(error)})") from error

    @classmethod
    def of_problem(cls, problem: Problem) -> StockEngine:
        """Stock on a problem that has no file: it is exported to a temporary folder and loaded from there."""
        from opid_gym_envs.alfworld.export import export_game

        with tempfile.TemporaryDirectory(prefix="opid-gym-") as folder:
            return cls(export_game(problem, Path(folder)))  # everything is read at once; the file may go

    def reset(self) -> str:
        """Start the episode anew and return the introduction."""
        self._state = self._env.reset()
        return str(self._state["feedback"])

    def step(self, command: str) -> str:
        """Play one command and return the game's answer.

        Raises:
            RuntimeError: the episode has not been started with ``reset``.
        """
        if self._state is None:
            raise RuntimeError("call reset() before step()")
        self._state, _, _ = self._env.step(command)
        return str(self._state["feedback"])

    def admissible_commands(self) -> tuple[str, ...]:
        """All commands that do something now, sorted.

        Raises:
            RuntimeError: the episode has not been started with ``reset``.
        """
        if self._state is None:
            raise RuntimeError("call reset() before admissible_commands()")
        return tuple(self._state["admissible_commands"])

    @property
    def won(self) -> bool:
        """Whether the goal holds now; False before the first ``reset``."""
        return self._state is not None and bool(self._state["won"])

    def close(self) -> None:
        """Give the planner back; the engine cannot be used afterwards. Doing it again changes nothing."""
        self._give_back()
        self._env = self._state = None


def _import_stock() -> tuple[Callable[[], Any], Any]:
    """What makes TextWorld's environment, and ALFWorld's wrapper that names things."""
    # Importing ALFWorld sets this variable for the whole process; ours reads it as the user's wish for official data.
    named = os.environ.get("ALFWORLD_DATA")
    try:
        import fast_downward  # noqa: F401  (TextWorld imports it quietly and fails later without it)
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld import EnvInfos
        from textworld.envs.pddl import PddlEnv
    except ImportError as error:
        raise missing_extra('backend="textworld"', error.name or "alfworld", "stock") from error
    finally:
        if named is None:
            os.environ.pop("ALFWORLD_DATA", None)

    def environment() -> Any:
        return PddlEnv(EnvInfos(feedback=True, won=True, admissible_commands=True))

    return environment, AlfredDemangler


def _describe(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
