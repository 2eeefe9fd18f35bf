"""ALFWorld as a `World`: which games there are, and playing many of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from opid_gym.data import data_home
from opid_gym.trajectory import StepHindsight, Trajectory
from opid_gym.world import Task, Turn, World
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.expert import Unsolvable, solve
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.hindsight import hindsight
from opid_gym_envs.alfworld.library import GameLibrary, find_split, generated_games, given_games, official_games
from opid_gym_envs.alfworld.problem import GameFileError, task_type_beside
from opid_gym_envs.alfworld.stock import StockEngine
from opid_gym_envs.alfworld.workflow import workflow

BACKENDS = ("native", "textworld")

# Compiled games kept for replay. A game of real size takes a fraction of a megabyte, so this bounds the memory of a
# run over thousands of games.
KEPT_GAMES = 256

# Where stock keeps its data unless $ALFWORLD_DATA names another folder.
STOCK_CACHE = Path("~/.cache/alfworld")


class Player(Protocol):
    """One game being played: the native engine, or stock behind the same four members."""

    def reset(self) -> str:
        """Begin the game anew; returns the first observation."""

    def step(self, command: str) -> str:
        """Give one command; returns what the game answers."""

    def admissible_commands(self) -> tuple[str, ...]:
        """The commands that the game understands now."""

    @property
    def won(self) -> bool:
        """Whether the task is solved."""


class ALFWorld(World):
    """Household tasks in text, byte for byte as stock ALFWorld plays them.

    Where the games come from:

    - ``games=[paths]``: these ``game.tw-pddl`` files;
    - ``data_dir=DIR``, ``$ALFWORLD_DATA``, or stock's own folder ``~/.cache/alfworld`` if the split is there: a split
      of the official data, with stock's filters;
    - none of these, or ``size=`` given: generated games (see `opid_gym_envs.alfworld.generator`).

    The reward is 1.0 on the step that solves the task, which ends the episode, and 0.0 elsewhere. A command that
    stock does not understand answers "Nothing happens." and counts as a step.

    Attributes:
        source: ``given``, ``official`` or ``generated``. The ids of generated games begin with ``generated/``.
        data: the folder of the files; None for generated games.
        skipped: reason -> ids of the official trials that are left out for it, as stock does.

    Args:
        games: paths of game files, or of folders that hold a ``game.tw-pddl``.
        split: ``train``, ``valid_seen`` or ``valid_unseen``; None: ``train``.
        data_dir: folder of the official data.
        size: size of generated games: ``real`` (20-40 receptacles) or ``small`` (6-10, for learning on a CPU in
            minutes).
        task_types: play only these of the six task types; None: all.
        count: number of games. Of generated games the first ones, before `task_types` filters (None: as many as the
            official split has); of given games the first ones; of official games ones spread evenly over the split.
        backend: ``native``, or ``textworld`` to run stock itself (needs ``pip install opid-gym[stock]``).

    Raises:
        ValueError: an argument is not allowed; the message names it and what is.
        FileNotFoundError: a game or folder is not there.
        GameFileError: game files are broken, or have rules that the native engine does not play; names each file.
    """

    action_help: ClassVar[str] = (
        "Tasks say put, but the action is: move OBJECT to PLACE. "
        "(Games of older ALFWorld data use: put OBJECT in/on PLACE. The possible actions show which.)"
    )

    def __init__(
        self,
        games: Sequence[str | Path] | None = None,
        split: str | None = None,
        data_dir: str | Path | None = None,
        size: str | None = None,
        task_types: Sequence[str] | None = None,
        count: int | None = None,
        backend: str = "native",
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
        if games is not None and (data_dir is not None or size is not None or split is not None):
            raise ValueError("games= names the game files themselves: give it without split=, data_dir= or size=")
        if data_dir is not None and size is not None:
            raise ValueError("size= is for generated games and data_dir= for official ones: give one of them")
        split = split or "train"
        native = backend == "native"
        self.library: GameLibrary
        if games is not None:
            self.library = given_games(games, task_types, count, check_rules=native)
        elif size is None and (folder := _official_folder(data_dir, split)) is not None:
            self.library = official_games(folder, split, task_types, count, check_rules=native)
        else:
            self.library = generated_games(split, size or "real", task_types, count)
        self.task_ids = self.library.ids
        self.source, self.data = self.library.source, self.library.data
        self.skipped = self.library.skipped
        self.backend = backend
        self._compiled: OrderedDict[str, tuple[Game, Task]] = OrderedDict()
        self._players: dict[int, Player] = {}
        self._plans: dict[int, list[str]] = {}

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """See `World.start`."""
        begun = []
        for slot, task_id in zip(slots, task_ids, strict=True):
            self._end(slot)
            player: Player
            if self.backend == "native":
                game, task = self._game(task_id)
                player = Engine(game)
                observation = player.reset()
            else:
                player = self._stock(task_id)
                observation = player.reset()
                task = self._stock_task(task_id, observation)
            self._players[slot] = player
            begun.append((task, Turn(observation, 0.0, False, player.won, player.admissible_commands())))
        return begun

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """See `World.step`."""
        turns = []
        for slot, action in zip(slots, actions, strict=True):
            player = self._players[slot]
            if slot in self._plans:
                plan = self._plans.pop(slot)
                if plan and plan[0] == action:
                    self._plans[slot] = plan[1:]
            observation = player.step(action)
            won = player.won
            turns.append(Turn(observation, 1.0 if won else 0.0, won, won, player.admissible_commands()))
        return turns

    def expert_actions(self, slots: Sequence[int]) -> list[str]:
        """See `World.expert_actions`; "look" where the task is solved, or nothing can solve it any more."""
        actions = []
        for slot in slots:
            if not self._plans.get(slot):
                player = self._players[slot]
                if not isinstance(player, Engine):
                    raise NotImplementedError("the expert plans on the native engine: use backend='native'")
                try:
                    self._plans[slot] = solve(player) or ["look"]
                except Unsolvable:
                    self._plans[slot] = ["look"]
            actions.append(self._plans[slot][0])
        return actions

    def hindsight(self, trajectory: Trajectory) -> list[StepHindsight]:
        """See `opid_gym_envs.alfworld.hindsight`."""
        return hindsight(trajectory)

    def workflow(self, trajectory: Trajectory) -> list[str]:
        """See `opid_gym_envs.alfworld.workflow`."""
        return workflow(trajectory) if trajectory.success else []

    def close(self) -> None:
        """Forget the games; stock's are closed."""
        for slot in list(self._players):
            self._end(slot)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: everything but the kept games, which are compiled again when needed.

        Raises:
            TypeError: the world plays on stock, whose games live in the planner's library.
        """
        if self.backend != "native":
            raise TypeError(
                f"an ALFWorld with backend={self.backend!r} cannot be copied or pickled: its games live inside the "
                "planner's library; backend='native' can"
            )
        return self.__dict__ | {"_compiled": OrderedDict()}

    def _end(self, slot: int) -> None:
        player = self._players.pop(slot, None)
        if isinstance(player, StockEngine):
            player.close()
        self._plans.pop(slot, None)

    def _game(self, task_id: str) -> tuple[Game, Task]:
        if task_id in self._compiled:
            self._compiled.move_to_end(task_id)
        else:
            problem = self.library.load(task_id)
            self._compiled[task_id] = Game.compile(problem), Task(task_id, problem.task_type, problem.task)
            if len(self._compiled) > KEPT_GAMES:
                self._compiled.popitem(last=False)
        return self._compiled[task_id]

    def _stock(self, task_id: str) -> StockEngine:
        path = self.library.path(task_id)
        return StockEngine.of_problem(self.library.load(task_id)) if path is None else StockEngine(path)

    def _stock_task(self, task_id: str, introduction: str) -> Task:
        try:
            problem = self.library.load(task_id)
        except GameFileError:
            # Stock plays games whose rules our own reader refuses: this backend is for them.
            path = self.library.path(task_id)
            text = introduction.rpartition("Your task is to: ")[2].removesuffix(".")
            return Task(task_id, (path and task_type_beside(path)) or "unknown", text)
        return Task(task_id, problem.task_type, problem.task)


def _official_folder(data_dir: str | Path | None, split: str) -> Path | None:
    """The folder of official data to play from; None if there is none."""
    folder = data_home("ALFWORLD_DATA", data_dir)
    default = STOCK_CACHE.expanduser()
    # Merely importing stock sets the variable to its default folder and makes it, empty. So that what is played does
    # not depend on that import, the variable with this value means the same as no variable: play what is there.
    if data_dir is None and folder in (None, default):
        return default if find_split(default, split) else None
    return folder
