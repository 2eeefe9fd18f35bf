"""ALFWorld as a `World`: which games there are, and playing many of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from opid_gym.data import data_home
from opid_gym.hindsight import StepProgress
from opid_gym.trajectory import Trajectory
from opid_gym.world import Task, Turn, World
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.expert import Unsolvable, solve
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.hindsight import hindsight
from opid_gym_envs.alfworld.library import GameLibrary, find_split, generated_games, given_games, official_games
from opid_gym_envs.alfworld.problem import GameFileError, task_type_beside
from opid_gym_envs.alfworld.stock import StockEngine

BACKENDS = ("native", "textworld")

# Compiled games kept for replay. A real-size game takes a fraction of a megabyte, so this bounds a run over
# thousands of games.
KEPT_GAMES = 256


# Where stock keeps its data if nobody says otherwise.
STOCK_CACHE = Path("~/.cache/alfworld")


class Player(Protocol):
    """One game being played: the native engine, or stock behind the same four members."""

    def reset(self) -> str: ...
    def step(self, command: str) -> str: ...
    def admissible_commands(self) -> tuple[str, ...]: ...
    @property
    def won(self) -> bool: ...


class ALFWorld(World):
    """Household tasks in text, byte for byte as stock ALFWorld plays them.

    Where the games come from:

    - ``games=[paths]``: these ``game.tw-pddl`` files;
    - ``data_dir=DIR`` or ``$ALFWORLD_DATA``: a split of the official data, with stock's filters;
    - neither, or ``size=`` given: generated games (see `opid_gym_envs.alfworld.generator`).

    The reward is 1.0 on the step that solves the task, which ends the episode, and 0.0 elsewhere. A command that
    stock does not understand answers "Nothing happens." and counts as a step.

    Args:
        games: paths of game files.
        split: ``train``, ``valid_seen`` or ``valid_unseen``; None: ``train``.
        data_dir: folder of the official data.
        size: of generated games: ``real`` (20-40 receptacles) or ``small`` (6-10, for learning on a CPU in minutes).
        task_types: play only these of the six task types; None: all.
        count: how many generated games; None: as many as the official split has.
        backend: ``native``, or ``textworld`` to run stock itself (needs ``pip install opid-gym[stock]``).

    Raises:
        ValueError: an argument is not allowed; the message names it and what is.
        FileNotFoundError: a game or folder is not there.
        GameFileError: a game file cannot be read.
    """

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
        folder = _official_folder(data_dir, split or "train") if games is None and size is None else None
        self.library: GameLibrary
        if games is not None:
            self.library = given_games(games, task_types)
        elif folder is not None:
            self.library = official_games(folder, split or "train", task_types)
        else:
            self.library = generated_games(split or "train", size or "real", task_types, count)
        self.task_ids = self.library.ids
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
        """See `World.expert_actions`; "look" where nothing solves the task any more."""
        actions = []
        for slot in slots:
            if not self._plans.get(slot):
                player = self._players[slot]
                if not isinstance(player, Engine):
                    raise NotImplementedError("the expert plans on the native engine: use backend='native'")
                try:
                    self._plans[slot] = solve(player)
                except Unsolvable:
                    self._plans[slot] = ["look"]
            actions.append(self._plans[slot][0])
        return actions

    def hindsight(self, trajectory: Trajectory) -> list[StepProgress]:
        """See `opid_gym_envs.alfworld.hindsight`."""
        return hindsight(trajectory)

    def close(self) -> None:
        """Forget the games; stock's are closed."""
        for slot in list(self._players):
            self._end(slot)

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
            # Stock plays games whose rules our own reader refuses; they are what this backend is for.
            path = self.library.path(task_id)
            text = introduction.rpartition("Your task is to: ")[2].removesuffix(".")
            return Task(task_id, (path and task_type_beside(path)) or "unknown", text)
        return Task(task_id, problem.task_type, problem.task)


def _official_folder(data_dir: str | Path | None, split: str) -> Path | None:
    folder = data_home("ALFWORLD_DATA", data_dir)
    # Merely importing stock ALFWorld makes this empty folder and points the variable at it: that is nobody's wish.
    if data_dir is None and folder == STOCK_CACHE.expanduser() and find_split(folder, split) is None:
        return None
    return folder
