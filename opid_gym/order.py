"""The order of tasks: seeded, each task once before any comes again, and shared by the games of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opid_gym.checks import check_seed


class TaskOrder:
    """Task numbers in seeded random order, each once before any comes again.

    A pure function of (seed, position), so that saving the position is saving the state.

    Args:
        count: number of tasks.
        seed: None: a random one, different for every object.
        position: where `next` begins.

    >>> order = TaskOrder(3, seed=1)
    >>> sorted(order.next() for _ in range(3)), order.position
    ([0, 1, 2], 3)
    """

    def __init__(self, count: int, seed: int | None, position: int = 0) -> None:
        if count < 1:
            raise ValueError("the world has no tasks to play")
        given = check_seed(seed)
        self.seed: int = int(np.random.default_rng().integers(2**32)) if given is None else given
        self.count = count
        self.position = position
        self._cycle = -1
        self._permutation = np.empty(0, np.int64)

    def at(self, position: int) -> int:
        """The task number at a position >= 0."""
        cycle, offset = divmod(position, self.count)
        if cycle != self._cycle:
            self._permutation = np.random.default_rng([self.seed, cycle]).permutation(self.count)
            self._cycle = cycle
        return int(self._permutation[offset])

    def next(self) -> int:
        """The task number at the current position, which moves on."""
        self.position += 1
        return self.at(self.position - 1)


@dataclass(frozen=True, slots=True)
class _Schedule:
    """Which tasks the games of one team play, from its row `first` on.

    Row r plays the order's task ``(r - origin) * stride + offset``.
    """

    order: TaskOrder
    stride: int
    offset: int
    origin: int
    first: int

    def task(self, row: int) -> int:
        return self.order.at((row - self.origin) * self.stride + self.offset)


class GroupedOrder:
    """Which task each game of a batch plays next, and which group of rollouts that episode belongs to.

    Games ``t * group_size ... (t + 1) * group_size - 1`` are team t. The games of a team play the same rows of tasks,
    each at its own speed; row r of team t is group ``r * teams + t``. A row has one task. A team's rows only grow (but
    for a restart of all), so a row that a game has left behind, or jumped over, is never played by it again.

    Args:
        tasks: number of tasks.
        num_envs, group_size: the batch; `group_size` divides `num_envs`.
        seed: see `restart`.

    >>> order = GroupedOrder(tasks=10, num_envs=4, group_size=2, seed=0)
    >>> tasks = [order.begin(game) for game in (0, 1, 2, 3)]
    >>> tasks[0] == tasks[1] != tasks[2] == tasks[3], [order.group(game) for game in (0, 1, 2, 3)]
    (True, [0, 0, 1, 1])
    >>> order.begin(1) == order.begin(0), order.group(0), order.group(1)
    (True, 2, 2)
    """

    def __init__(self, tasks: int, num_envs: int, group_size: int, seed: int | None) -> None:
        self._tasks = tasks
        self._size = group_size
        self._teams = num_envs // group_size
        self._rows = [-1] * num_envs  # the row that each game plays
        self._follows: list[_Schedule | None] = [None] * num_envs
        self._last = [-1] * self._teams  # the largest row that a team has begun
        nothing = _Schedule(TaskOrder(tasks, 0), 1, 0, 0, 0)
        self._schedules = [nothing] * self._teams
        self.restart(range(num_envs), seed)

    def restart(self, games: Sequence[int], seed: int | Sequence[int | None] | None) -> None:
        """Begin a new order for the teams of some games; a game of them that goes on playing joins in afterwards.

        Args:
            games: which games.
            seed: one seed: the teams share one order, so that they play different tasks. A seed for each game of the
                batch: each team has an order of its own, None leaves it as it is. None: a random seed.

        Raises:
            ValueError: not one seed for each game, or games of one team have different seeds.
        """
        teams = list(dict.fromkeys(game // self._size for game in games))
        if not isinstance(seed, Sequence):
            shared = TaskOrder(self._tasks, seed)
            orders: dict[int, TaskOrder | None] = dict.fromkeys(teams, shared)
            stride = self._teams
        else:
            orders = {team: self._own_order(team, seed) for team in teams}
            stride = 1
        if len(games) == len(self._rows) and None not in orders.values():
            self._last = [-1] * self._teams
        for team, order in orders.items():
            if order is not None:
                first = self._last[team] + 1
                self._schedules[team] = _Schedule(order, stride, team if stride > 1 else 0, first, first)

    def align(self) -> None:
        """All teams go on with the same row, the first that none has begun."""
        first = max(self._last) + 1
        self._schedules = [replace(schedule, first=first) for schedule in self._schedules]
        self._follows = [None] * len(self._rows)

    def begin(self, game: int) -> int:
        """A game begins its next episode; returns the number of its task."""
        team = game // self._size
        schedule = self._schedules[team]
        row = self._rows[game] + 1 if self._follows[game] is schedule else schedule.first
        self._follows[game] = schedule
        self._begin_row(game, row)
        return schedule.task(row)

    def begin_given(self, tasks: dict[int, str]) -> None:
        """Some games begin tasks that somebody chose: games of a team with the same task are a group of their own."""
        rows: dict[tuple[int, str], int] = {}
        for game, task in tasks.items():
            team = game // self._size
            if (team, task) not in rows:
                rows[team, task] = max(self._last[team] + 1, self._schedules[team].first)
                self._schedules[team] = replace(self._schedules[team], first=rows[team, task] + 1)
            self._begin_row(game, rows[team, task])
            self._follows[game] = None

    def group(self, game: int) -> int:
        """Number of the group that a game's episode belongs to."""
        return self._rows[game] * self._teams + game // self._size

    def _own_order(self, team: int, seeds: Sequence[int | None]) -> TaskOrder | None:
        if len(seeds) != len(self._rows):
            raise ValueError(f"a list of seeds must have num_envs={len(self._rows)} entries, got {len(seeds)}")
        games = range(team * self._size, (team + 1) * self._size)
        own = [seeds[game] for game in games]
        if any(seed != own[0] for seed in own):
            raise ValueError(f"games {list(games)} are one group and need the same seed, got {own}")
        return None if own[0] is None else TaskOrder(self._tasks, own[0])

    def _begin_row(self, game: int, row: int) -> None:
        team = game // self._size
        self._rows[game] = row
        self._last[team] = max(self._last[team], row)
