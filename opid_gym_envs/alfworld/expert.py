"""Solving a game with full knowledge of it: a short plan from any state, for demonstrations and upper bounds.

A goal with its quantifiers resolved (`opid_gym_envs.alfworld.goal.ground`) is a choice between *cases*, each
a list of facts to bring about: this potato hot, and in that sink. How to bring about one fact is common sense
(walk there, open, take, ...), so for every case a plan is acted out on a copy of the engine, which also
proves it, and the shortest wins. No blind search over fifty commands a step is needed, except for goals that
ask for facts outside that common sense; those get a bounded one.

The other expert, which knows only what it has read, is `opid_gym_envs.alfworld.searching.SearchingExpert`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from opid_gym_envs.alfworld.engine import NOTHING_HAPPENS, Engine
from opid_gym_envs.alfworld.game import (
    CLEAN,
    CLEANABLE,
    COOL,
    COOLABLE,
    FRIDGE,
    HEATABLE,
    HOT,
    KNIFE,
    MICROWAVE,
    PICKUPABLE,
    SINK,
    SLICEABLE,
    SLICED,
    TOGGLEABLE,
    TOGGLED,
)
from opid_gym_envs.alfworld.goal import Ground

MAX_CASES = 256
"""Of a goal with more cases than this, only the ones that look cheapest are acted out."""

Literal = tuple[bool, tuple[str, ...]]  # (shall it hold?, fact)
Case = frozenset[Literal]


class Unsolvable(ValueError):
    """No plan was found; the message names the game."""


def solve(engine: Engine, *, max_nodes: int = 20_000) -> list[str]:
    """Plan from the engine's present state to its goal.

    The plan uses everything the engine knows, closed drawers included. It is short, and for the six task
    types nearly always the shortest, but that is not promised.

    Args:
        engine: in any state; left as it is.
        max_nodes: how many states to try at most where acting out the cases of the goal has led nowhere.

    Returns:
        Commands that win when played in this order; none if the goal holds already.

    Raises:
        Unsolvable: no plan was found, be it that there is none or that the search was cut off.
    """
    if engine.won:
        return []
    goal = engine.game.goal_cases
    best: list[str] | None = None
    for case in _cases(goal, engine):
        plan = _act_out(case, engine, len(best) - 1 if best else 10_000)
        if plan is not None and (best is None or len(plan) < len(best)):
            best = plan
    if best is None:
        best = _search(goal, engine, max_nodes)
    if best is None:
        raise Unsolvable(f"no plan found for game {engine.game.problem.id!r} ({engine.game.problem.task!r})")
    return best


class _DeadEnd(Exception):
    """The case cannot be brought about this way, or not within the limit."""


class _Done(Exception):
    """The goal holds."""


# -------------------------------------------------------------------------------------------- cases of a goal


def _cases(goal: Ground, engine: Engine) -> list[Case]:
    """The goal as alternatives, each a set of literals; cheapest-looking first and at most `MAX_CASES`."""
    state = _State(engine)

    def effort(case: Case) -> int:
        return sum(state.effort(literal) for literal in case)

    def expand(formula: Ground, wanted: bool) -> list[Case]:
        if isinstance(formula, bool):
            return [frozenset()] if formula == wanted else []
        head = formula[0]
        if head == "not":
            return expand(formula[1], not wanted)
        if head not in ("and", "or"):
            return [frozenset(((wanted, formula),))]
        parts = [expand(part, wanted) for part in formula[1:]]
        if (head == "or") == wanted:
            cases = [case for part in parts for case in part]
        else:
            cases = [frozenset()]
            for part in parts:
                cases = cheapest([case | more for case in cases for more in part])
        return cheapest(cases)

    def cheapest(cases: Iterable[Case]) -> list[Case]:
        return sorted(dict.fromkeys(cases), key=effort)[:MAX_CASES]

    return expand(goal, True)


class _State:
    """Looks up facts of the goal, given by ids, in an engine."""

    def __init__(self, engine: Engine) -> None:
        game = engine.game
        self.engine = engine
        self.thing = {name: index for index, name in enumerate(game.objects)}
        self.receptacle = {name: index for index, name in enumerate(game.receptacles)}
        self.location = {name: index for index, name in enumerate(game.locations)}

    @staticmethod
    def find(table: dict[str, int], name: str) -> int:
        """The number of an id; the goal may name some that nothing else mentions, and those are out of reach."""
        if name not in table:
            raise _DeadEnd
        return table[name]

    def holds(self, fact: tuple[str, ...]) -> bool:
        """Whether a fact of one of the kinds that acting out understands is true now."""
        engine, name = self.engine, fact[0]
        if name in _MARK:
            return fact[1] in self.thing and engine.marks(self.thing[fact[1]]) & _MARK[name] > 0
        if name == "inreceptacle":
            known = fact[1] in self.thing and fact[2] in self.receptacle
            return known and self.thing[fact[1]] in engine.contents(self.receptacle[fact[2]])
        if name == "holds":
            return fact[2] in self.thing and self.thing[fact[2]] in engine.held
        if name == "holdsany":
            return engine.hands_full
        if name == "atlocation":
            return self.location.get(fact[2], -2) == engine.here
        if name == "opened":
            return fact[1] in self.receptacle and engine.is_open(self.receptacle[fact[1]])
        return False

    def effort(self, literal: Literal) -> int:
        """Very roughly how many commands it takes; only good for putting cases in an order."""
        wanted, fact = literal
        if self.holds(fact) == wanted:
            return 0
        if fact[0] == "inreceptacle":
            return 2 if self.thing.get(fact[1], -1) in self.engine.held else 4
        return 2


_MARK = {"isclean": CLEAN, "ishot": HOT, "iscool": COOL, "issliced": SLICED, "istoggled": TOGGLED}
_TREATMENTS = {
    CLEAN: ("clean", CLEANABLE, SINK),
    HOT: ("heat", HEATABLE, MICROWAVE),
    COOL: ("cool", COOLABLE, FRIDGE),
}
_OPPOSITE = {"ishot": COOL, "iscool": HOT}


# ------------------------------------------------------------------------------------------ acting out a case


def _act_out(case: Case, engine: Engine, limit: int) -> list[str] | None:
    """A plan of at most `limit` commands for one case, or None."""
    actor = _Actor(engine.copy(), limit)
    try:
        actor.bring_about(case)
    except _Done:
        return actor.plan
    except _DeadEnd:
        return None
    return None  # everything in the case was done and still the goal does not hold: it asked for more


class _Actor:
    """Plays commands on its own engine and keeps the list of them."""

    def __init__(self, engine: Engine, limit: int) -> None:
        self.engine = engine
        self.game = engine.game
        self.state = _State(engine)
        self.limit = limit
        self.plan: list[str] = []

    def bring_about(self, case: Case) -> None:
        """Do what the case asks for, in an order in which nothing done is undone.

        Things in places come first, then doors, then the thing in the hands, then lamps, and last where to stand.
        """
        state = self.state
        marks: dict[int, int] = {}
        homes: dict[int, int] = {}
        out: list[tuple[int, int]] = []
        lamps, doors, hold, stand = [], [], [], []
        for wanted, fact in sorted(case):
            name = fact[0]
            if state.holds(fact) == wanted:
                continue
            if name == "istoggled" and wanted:
                lamps.append(state.find(state.thing, fact[1]))
            elif name in _MARK and (wanted or name in _OPPOSITE):
                o = state.find(state.thing, fact[1])
                marks[o] = marks.get(o, 0) | (_MARK[name] if wanted else _OPPOSITE[name])
            elif name == "inreceptacle":
                o, r = state.find(state.thing, fact[1]), state.find(state.receptacle, fact[2])
                if wanted:
                    homes[o] = r
                else:
                    out.append((o, r))
            elif name == "opened":
                doors.append((state.find(state.receptacle, fact[1]), wanted))
            elif name == "holds" and wanted:
                hold.append(state.find(state.thing, fact[2]))
            elif name in ("holds", "holdsany") and not wanted:
                self.free_hands()
            elif name == "atlocation" and wanted:
                stand.append(state.find(state.location, fact[2]))
            else:
                raise _DeadEnd
        for wanted, fact in sorted(
            case
        ):  # a thing that is in its place, but has to be treated first, must come back to it
            if wanted and fact[0] == "inreceptacle" and state.thing.get(fact[1]) in marks:
                homes.setdefault(state.thing[fact[1]], state.receptacle[fact[2]])
            if wanted and fact[0] == "holds" and fact[2] in state.thing and state.thing[fact[2]] not in hold:
                hold.append(state.thing[fact[2]])  # it is in the hands now and may have to leave them in between
        for o in sorted(marks):
            if marks[o] & SLICED:
                self.slice(o)
        for o in sorted({*marks, *homes}, key=self._distance):
            treatments = [bit for bit in _TREATMENTS if marks.get(o, 0) & bit]
            if treatments or o in homes:
                self.fetch(o)
            for bit in treatments:
                self.treat(o, bit)
            if o in homes:
                self.put_into(o, homes[o])
        for o, r in out:
            if o in self.engine.contents(r):
                self.open(r)
                self.free_hands()
                self.take(o, r)
        for r, wanted in doors:
            self.open(r) if wanted else self.close(r)
        for o in hold:
            self.fetch(o)
        if any(fact[0] == "holdsany" and not wanted for wanted, fact in case):
            self.free_hands()
        for lamp in lamps:
            self.switch_on(lamp)
        for spot in stand:
            self.stand_at(spot)

    def do(self, command: str) -> None:
        """Play one command that must work."""
        if len(self.plan) >= self.limit or self.engine.step(command) == NOTHING_HAPPENS:
            raise _DeadEnd
        self.plan.append(command)
        if self.engine.won:
            raise _Done

    def stand_at(self, spot: int) -> None:
        """Walk to a location, to whichever receptacle there lets one."""
        if spot != self.engine.here:
            if not self.game.near[spot]:
                raise _DeadEnd
            self.walk(self.game.near[spot][0])

    def walk(self, r: int) -> None:
        """Stand where the receptacle can be used; there is no walking between those at one location, and no need."""
        if self.engine.here not in self.game.places[r]:
            self.do(f"go to {self.game.receptacle_names[r]}")

    def open(self, r: int) -> None:
        """Make a receptacle accessible."""
        self.walk(r)
        if not self.engine.is_accessible(r):
            self.do(f"open {self.game.receptacle_names[r]}")

    def close(self, r: int) -> None:
        """Shut a receptacle."""
        self.walk(r)
        self.do(f"close {self.game.receptacle_names[r]}")

    def take(self, o: int, r: int) -> None:
        """Take a thing from an accessible receptacle here."""
        self.do(f"take {self.game.object_names[o]} from {self.game.receptacle_names[r]}")

    def fetch(self, o: int) -> None:
        """Have the thing in the hands, and nothing else."""
        if o in self.engine.held:
            return
        if not self.game.properties[o] & PICKUPABLE:
            raise _DeadEnd
        self.free_hands()
        sources = [r for r in range(len(self.game.receptacles)) if o in self.engine.contents(r)]
        source = self._nearest(sources)
        self.open(source)
        self.take(o, source)

    def free_hands(self) -> None:
        """Put down what is in the hands."""
        if self.engine.hands_full:
            if not self.engine.held:
                raise _DeadEnd
            self.put_down(self.engine.held[0])

    def put_down(self, o: int) -> None:
        """Put the held thing where that is quickest."""
        self.put_into(o, self._nearest([r for r, things in enumerate(self.game.accepts) if o in things]))

    def put_into(self, o: int, r: int) -> None:
        """Put the held thing into one receptacle."""
        self.open(r)
        self.do(self.game.put_command.format(o=self.game.object_names[o], r=self.game.receptacle_names[r]))

    def treat(self, o: int, mark: int) -> None:
        """Clean, heat or cool the held thing."""
        verb, able, station = _TREATMENTS[mark]
        if not self.game.properties[o] & able:
            raise _DeadEnd
        # No door needs opening for it, so the nearest is one that is here or any.
        stations = [r for r, kind in enumerate(self.game.stations) if kind & station and self.game.places[r]]
        if not stations:
            raise _DeadEnd
        r = min(stations, key=lambda r: self.engine.here not in self.game.places[r])
        self.walk(r)
        self.do(f"{verb} {self.game.object_names[o]} with {self.game.receptacle_names[r]}")

    def slice(self, o: int) -> None:
        """Bring a knife to where the thing lies and slice it there."""
        if not self.game.properties[o] & SLICEABLE:
            raise _DeadEnd
        if o in self.engine.held:
            self.put_down(o)
        knives = [k for k, kind in enumerate(self.game.properties) if kind & KNIFE]
        knives = [k for k in knives if k in self.engine.held] or sorted(knives, key=self._distance)[:1]
        if not knives:
            raise _DeadEnd
        if not self._lies_at(o):  # things count as lying somewhere only if put there; make it so
            self.fetch(o)
            self.put_down(o)
        self.fetch(knives[0])
        spots = self._lies_at(o)
        if self.engine.here not in spots:
            if not spots:
                raise _DeadEnd
            self.stand_at(spots[0])
        self.do(f"slice {self.game.object_names[o]} with {self.game.object_names[knives[0]]}")

    def switch_on(self, lamp: int) -> None:
        """Turn on a lamp; it must stand in a receptacle, whose door does not matter."""
        if not self.game.properties[lamp] & TOGGLEABLE:
            raise _DeadEnd
        if lamp in self.engine.held:
            self.put_down(lamp)
        stands = [
            r for r in range(len(self.game.receptacles)) if lamp in self.engine.contents(r) and self.game.places[r]
        ]
        if not stands:
            raise _DeadEnd
        self.walk(min(stands, key=lambda r: self.engine.here not in self.game.places[r]))
        self.do(f"use {self.game.object_names[lamp]}")

    def _lies_at(self, o: int) -> list[int]:
        """Locations where the thing can be sliced and which can be stood at."""
        return [spot for spot in self.engine.spots(o) if spot == self.engine.here or self.game.near[spot]]

    def _nearest(self, receptacles: Sequence[int]) -> int:
        """The receptacle that takes the fewest commands to have open before oneself."""
        reachable = [r for r in receptacles if self.game.places[r]]
        if not reachable:
            raise _DeadEnd
        return min(reachable, key=self._steps)

    def _steps(self, r: int) -> int:
        return (self.engine.here not in self.game.places[r]) + (not self.engine.is_accessible(r))

    def _distance(self, o: int) -> int:
        """How many commands it takes to have the thing in the hands, the hands being free; 0 if it is there."""
        if o in self.engine.held:
            return 0
        sources = [r for r in range(len(self.game.receptacles)) if o in self.engine.contents(r)]
        return 1 + min(map(self._steps, sources), default=9)


# -------------------------------------------------------------------------------------------- the last resort


def _search(goal: Ground, engine: Engine, max_nodes: int) -> list[str] | None:
    """Breadth-first search over the commands that concern what the goal mentions."""
    useful = _useful_words(goal, engine)
    seen = {engine.state_key()}
    queue: deque[tuple[Engine, tuple[str, ...]]] = deque([(engine, ())])
    while queue:
        state, path = queue.popleft()
        for command in state.admissible_commands():
            if not useful.issuperset(_names_in(command)):
                continue
            if len(seen) >= max_nodes:
                return None
            after = state.copy()
            after.step(command)
            key = after.state_key()
            if key in seen:
                continue
            seen.add(key)
            if after.won:
                return [*path, command]
            queue.append((after, (*path, command)))
    return None


def _useful_words(goal: Ground, engine: Engine) -> frozenset[str]:
    """Names of the things and receptacles that may matter, and of the places where those things can go."""
    game = engine.game
    ids: set[str] = set()

    def collect(formula: Ground) -> None:
        if isinstance(formula, str):
            ids.add(formula)
        elif not isinstance(formula, bool):
            for part in formula:
                collect(part)

    collect(goal)
    things = {o for o, name in enumerate(game.objects) if name in ids} or set(range(len(game.objects)))
    things.update(engine.held)
    if "issliced" in ids:
        things |= {o for o, kind in enumerate(game.properties) if kind & KNIFE}
    places = {
        r
        for r, name in enumerate(game.receptacles)
        if name in ids
        or game.stations[r]
        or things.intersection(engine.contents(r))
        or any(game.locations[spot] in ids for spot in game.places[r])
    }
    return frozenset({game.object_names[o] for o in things} | {game.receptacle_names[r] for r in places})


def _names_in(command: str) -> list[str]:
    """The names a command mentions: ``"move mug 1 to shelf 2"`` -> ``["mug 1", "shelf 2"]``."""
    for opening in (
        "go to ",
        "take ",
        "move ",
        "put ",
        "open ",
        "close ",
        "use ",
        "examine ",
        "slice ",
        "heat ",
        "clean ",
        "cool ",
    ):
        if command.startswith(opening):
            rest = command.removeprefix(opening)
            for link in (" from ", " to ", " in/on ", " with "):
                if link in rest:
                    return rest.split(link, 1)
            return [rest]
    return []
