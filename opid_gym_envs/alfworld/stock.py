"""The original game, run by TextWorld itself behind the interface of ``Engine``.

It is some thousands of times slower; it is here for comparison, for files whose rules the engine does not implement,
and as the reference of the differential tests. It needs the original installed: ``pip install opid-gym[stock]``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from opid_gym_envs.alfworld.problem import GameFileError, Problem


class StockEngine:
    """One episode after another of one game file, played by ALFWorld on TextWorld.

    The game is loaded as ALFWorld loads it: TextWorld's planner-backed environment under ALFWorld's own naming of
    things, without its step limit. Each engine loads its own copy of the planner library (tens of megabytes).

    Args:
        path: a ``game.tw-pddl`` file.

    Raises:
        ImportError: ALFWorld, TextWorld or its planner is not installed.
        GameFileError: the original cannot load the file.
    """

    def __init__(self, path: str | Path) -> None:
        textworld, naming = _import_stock()
        self.path = Path(path)
        infos = textworld.EnvInfos(feedback=True, won=True, admissible_commands=True)
        try:
            self._env = textworld.start(str(self.path), infos, wrappers=[naming()])
        # The original reports bad files with whatever the failing line raises, SystemExit included.
        except (Exception, SystemExit) as error:
            raise GameFileError(f"{self.path}: the original cannot load the file ({_describe(error)})") from error
        self._state: Any = None

    @classmethod
    def of_problem(cls, problem: Problem) -> StockEngine:
        """The original on a problem that has no file: it is exported to a temporary folder and loaded from there."""
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
        """Release the planner; the engine cannot be used afterwards."""
        self._env.close()


def _import_stock() -> tuple[Any, Any]:
    # Importing ALFWorld sets this variable for the whole process; ours reads it as the user's wish for official data.
    named = os.environ.get("ALFWORLD_DATA")
    try:
        import fast_downward  # noqa: F401  (TextWorld imports it quietly and fails later without it)
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    except ImportError as error:
        raise ImportError(
            f"the original game is not installed ({error}); it comes with: pip install opid-gym[stock]"
        ) from error
    finally:
        if named is None:
            os.environ.pop("ALFWORLD_DATA", None)
    return textworld, AlfredDemangler


def _describe(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
