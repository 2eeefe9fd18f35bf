"""A problem compiled for play: ids become small integers, names and texts that never change are made once.

A ``Game`` is immutable and shared by all episodes of the same problem; an ``Engine`` holds what one episode changes.
Integers index the sorted ids, because the original lists everything in the order of ids; lists of integers then need no
further thought.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from opid_gym_envs.alfworld.goal import GoalError, Ground, Test, atoms, compile_goal, ground
from opid_gym_envs.alfworld.problem import GameFileError, Problem
from opid_gym_envs.alfworld.rules import PREDICATES, TYPES

# What an object can be and become. The properties never change; the marks do.
PICKUPABLE, CLEANABLE, HEATABLE, COOLABLE, TOGGLEABLE, SLICEABLE, CONTAINER, KNIFE = (1 << bit for bit in range(8))
CLEAN, HOT, COOL, SLICED, TOGGLED, ON = (1 << bit for bit in range(6))

_PROPERTIES = {
    "pickupable": PICKUPABLE,
    "cleanable": CLEANABLE,
    "heatable": HEATABLE,
    "coolable": COOLABLE,
    "toggleable": TOGGLEABLE,
    "sliceable": SLICEABLE,
    "isreceptacleobject": CONTAINER,
}
_MARKS = {"isclean": CLEAN, "ishot": HOT, "iscool": COOL, "issliced": SLICED, "istoggled": TOGGLED, "ison": ON}
_KNIFE_TYPES = frozenset(("knifetype", "butterknifetype"))

SINK, MICROWAVE, FRIDGE = (1 << bit for bit in range(3))
_STATIONS = {"sinkbasintype": SINK, "microwavetype": MICROWAVE, "fridgetype": FRIDGE}


class Game:
    """One problem, ready for any number of episodes.

    Receptacles, objects and locations are numbered by their sorted ids.

    Attributes:
        problem: what was compiled.
        receptacles, objects, locations: the ids, sorted.
        receptacle_names, object_names, location_names: the names the player reads ("mug 1"), by number.
        places: receptacle -> its locations (normally one).
        near: location -> the receptacles there, sorted.
        openable: receptacle -> whether it has a door or lid.
        stations: receptacle -> SINK, MICROWAVE and FRIDGE bits.
        accepts: receptacle -> the objects it can contain.
        properties: object -> bits like PICKUPABLE.
        inside: object -> the objects listed as inside it.
        goal: tests an engine; ``watched`` names the changeable predicates it depends on.
        start: the facts at the start that play can change, see ``Start``.
        go_to: "go to x" -> receptacle.
    """

    __slots__ = (
        "_arrivals",
        "accepts",
        "agents",
        "articles",
        "go_commands",
        "go_to",
        "goal",
        "inside",
        "intro_task",
        "location_names",
        "locations",
        "near",
        "object_names",
        "objects",
        "openable",
        "places",
        "problem",
        "properties",
        "put_command",
        "put_feedback",
        "receptacle_names",
        "receptacles",
        "start",
        "stations",
        "tracks_checked",
        "watched",
    )

    problem: Problem
    receptacles: tuple[str, ...]
    objects: tuple[str, ...]
    locations: tuple[str, ...]

    @classmethod
    def compile(cls, problem: Problem) -> Game:
        """Number and name everything a problem mentions.

        Raises:
            GameFileError: the facts describe something the engine cannot play, e.g. two agents.
        """
        return cls(problem)

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        facts = problem.facts
        by_predicate: dict[str, list[tuple[str, ...]]] = {}
        kinds: dict[str, dict[str, None]] = {kind: {} for kind in TYPES}
        for fact in facts:
            by_predicate.setdefault(fact[0], []).append(fact[1:])
            if fact[0] not in ("checked", "examined"):
                for kind, argument in zip(PREDICATES.get(fact[0], ()), fact[1:], strict=False):
                    kinds[kind][argument] = None
        names = demangle((argument for fact in facts for argument in fact[1:]), problem.id)

        def numbered(kind: str) -> tuple[tuple[str, ...], dict[str, int], tuple[str, ...]]:
            ids = tuple(sorted(kinds[kind]))
            return ids, {name: index for index, name in enumerate(ids)}, tuple(names[name] for name in ids)

        self.receptacles, receptacle, self.receptacle_names = numbered("receptacle")
        self.objects, thing, self.object_names = numbered("object")
        self.locations, location, self.location_names = numbered("location")
        self.articles = tuple("a " + name for name in self.object_names)
        if len(kinds["agent"]) > 1:
            raise GameFileError(f"{problem.id}: the engine plays one agent, the facts have {sorted(kinds['agent'])}")

        def pairs(predicate: str, first: Mapping[str, int], second: Mapping[str, int]) -> list[tuple[int, int]]:
            return sorted((first[a], second[b]) for a, b in by_predicate.get(predicate, ()))

        places: list[list[int]] = [[] for _ in self.receptacles]
        near: list[list[int]] = [[] for _ in self.locations]
        for r, l in pairs("receptacleatlocation", receptacle, location):
            places[r].append(l)
            near[l].append(r)
        self.places = tuple(map(tuple, places))
        self.near = tuple(map(tuple, near))
        openable = {receptacle[r] for (r,) in by_predicate.get("openable", ())}
        self.openable = tuple(r in openable for r in range(len(self.receptacles)))

        properties = [0] * len(self.objects)
        marks = [0] * len(self.objects)
        for table, target in ((_PROPERTIES, properties), (_MARKS, marks)):
            for predicate, bit in table.items():
                for (o,) in by_predicate.get(predicate, ()):
                    target[thing[o]] |= bit
        members: dict[str, list[int]] = {}
        for o, kind in by_predicate.get("objecttype", ()):
            members.setdefault(kind, []).append(thing[o])
            if kind in _KNIFE_TYPES:
                properties[thing[o]] |= KNIFE
        self.properties = tuple(properties)

        accepted: dict[str, set[int]] = {}
        for receptacle_type, object_type in by_predicate.get("cancontain", ()):
            accepted.setdefault(receptacle_type, set()).update(members.get(object_type, ()))
        stations = [0] * len(self.receptacles)
        accepts: list[frozenset[int]] = [frozenset()] * len(self.receptacles)
        shared = {kind: frozenset(things) for kind, things in accepted.items()}
        for r, kind in by_predicate.get("receptacletype", ()):
            stations[receptacle[r]] |= _STATIONS.get(kind, 0)
            here = accepts[receptacle[r]]
            accepts[receptacle[r]] = (here | shared[kind] if here else shared[kind]) if kind in shared else here
        self.stations = tuple(stations)
        self.accepts = tuple(accepts)
        inside: dict[int, list[int]] = {}
        for inner, outer in pairs("inreceptacleobject", thing, thing):
            inside.setdefault(outer, []).append(inner)
        self.inside = {outer: tuple(things) for outer, things in inside.items()}

        contents: list[list[int]] = [[] for _ in self.receptacles]
        for o, r in pairs("inreceptacle", thing, receptacle):
            contents[r].append(o)
        spots: list[list[int]] = [[] for _ in self.objects]
        for o, l in pairs("objectatlocation", thing, location):
            spots[o].append(l)
        at = sorted(location[l] for _, l in by_predicate.get("atlocation", ()))
        if len(at) > 1:
            found = ", ".join(self.locations[l] for l in at)
            raise GameFileError(f"{problem.id}: the agent can be at one location, the facts have {found}")
        opened = 0
        for (r,) in by_predicate.get("opened", ()):
            opened |= 1 << receptacle[r]
        self.start = Start(
            here=at[0] if at else -1,
            contents=tuple(map(tuple, contents)),
            held=tuple(sorted(thing[o] for _, o in by_predicate.get("holds", ()))),
            hands_full="holdsany" in by_predicate,
            opened=opened,
            marks=tuple(marks),
            spots=tuple(map(tuple, spots)),
            checked=frozenset(x for (x,) in by_predicate.get("checked", ())),
        )

        self.agents = tuple(kinds["agent"])
        self.put_command = problem.dialect.put_command
        self.put_feedback = problem.dialect.put_feedback
        self.go_to = {f"go to {self.receptacle_names[r]}": r for r in reversed(range(len(places))) if places[r]}
        self.go_commands = tuple(sorted(self.go_to))
        self._arrivals: dict[int, tuple[str, ...]] = {}
        self.intro_task = f"\n\nYour task is to: {problem.task}."
        self._set_goal(kinds, {"receptacle": receptacle, "object": thing, "location": location})

    def go_block(self, here: int) -> tuple[str, ...]:
        """The sorted "go to" commands available at a location (each to a receptacle that is elsewhere)."""
        block = self._arrivals.get(here)
        if block is None:
            go_to, places = self.go_to, self.places
            block = tuple(c for c in self.go_commands if here >= 0 and places[go_to[c]] != (here,))
            self._arrivals[here] = block
        return block

    def _set_goal(self, kinds: Mapping[str, Mapping[str, None]], index: Mapping[str, Mapping[str, int]]) -> None:
        universe = {kind: set(ids) for kind, ids in kinds.items()}
        for name, kind in self.problem.idle:
            universe.setdefault(kind, set()).add(name)
        universe["object"] = set().union(*universe.values())  # "object" is the root of all types
        try:
            formula = ground(self.problem.goal, self.problem.facts, {k: sorted(v) for k, v in universe.items()})
        except GoalError as error:
            raise GameFileError(f"{self.problem.id}: {error}") from None
        self.watched = frozenset(atom[0] for atom in atoms(formula))
        self.tracks_checked = "checked" in self.watched
        agents = frozenset(kinds["agent"])
        self.goal: Test = compile_goal(formula, lambda atom: _test(atom, agents, index))


class Start:
    """What holds at the start and play can change.

    Attributes:
        here: the agent's location, -1 for nowhere.
        contents: receptacle -> objects in it, sorted.
        held: objects in hand, sorted.
        hands_full: whether the hands count as full (a fact of its own).
        opened: bit per receptacle.
        marks: object -> bits like CLEAN.
        spots: object -> the locations it is said to be at, sorted (goes stale, see ``Engine``).
        checked: ids looked at; followed only where the goal asks for it.
    """

    __slots__ = ("checked", "contents", "hands_full", "held", "here", "marks", "opened", "spots")

    def __init__(
        self,
        here: int,
        contents: tuple[tuple[int, ...], ...],
        held: tuple[int, ...],
        hands_full: bool,
        opened: int,
        marks: tuple[int, ...],
        spots: tuple[tuple[int, ...], ...],
        checked: frozenset[str],
    ) -> None:
        self.here = here
        self.contents = contents
        self.held = held
        self.hands_full = hands_full
        self.opened = opened
        self.marks = marks
        self.spots = spots
        self.checked = checked


def demangle(ids: Iterable[str], source: str) -> dict[str, str]:
    """Give every id the name the player reads: kind and number, the numbers counting down along the sorted ids.

    >>> demangle(["mug_bar_1", "mug_bar_2", "sink_bar_1_bar_sinkbasin"], "example")
    {'mug_bar_1': 'mug 2', 'mug_bar_2': 'mug 1', 'sink_bar_1_bar_sinkbasin': 'sinkbasin 1'}

    Raises:
        GameFileError: an id that cannot be named; the original fails on it, too.
    """
    ordered = sorted(set(ids))
    left: Counter[str] = Counter()
    for name in ordered:
        if "_bar_" in name:
            left[_kind_of(name, "_bar_")] += 1
    names = {}
    for name in ordered:
        text = name.replace("_bar_", "|").replace("_minus_", "-").replace("_plus_", "+")
        text = text.replace("_dot_", ".").replace("_comma_", ",")
        if "|" not in text:
            names[name] = text + " "  # an id without a position gets no number, only the space before it
            continue
        kind = text.split("|", 1)[0] + ("basin" if "basin" in name else "")
        if left[kind] < 1:
            raise GameFileError(f"{source}: id {name!r} cannot be turned into a name; need kind_bar_position")
        names[name] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names


def _kind_of(name: str, separator: str) -> str:
    return name.split(separator, 1)[0] + ("basin" if "basin" in name else "")


def _test(atom: tuple[str, ...], agents: frozenset[str], index: Mapping[str, Mapping[str, int]]) -> Test | bool:
    """The test of one changeable fact in an engine; False where it names something that can never be so."""
    predicate, *arguments = atom
    if predicate == "checked":
        return lambda engine: arguments[0] in engine._checked
    numbers: list[int] = []
    for kind, argument in zip(PREDICATES[predicate], arguments, strict=True):
        if kind == "agent":
            if argument not in agents:
                return False
        elif argument not in index[kind]:
            return False
        else:
            numbers.append(index[kind][argument])
    return _TESTS[predicate](*numbers)


def _mark_test(bit: int) -> Any:
    return lambda o: lambda engine: engine._marks[o] & bit > 0


_TESTS: dict[str, Any] = {
    "atlocation": lambda l: lambda engine: engine._here == l,
    "objectatlocation": lambda o, l: lambda engine: l in engine._spots[o],
    "opened": lambda r: lambda engine: engine._opened >> r & 1 > 0,
    "inreceptacle": lambda o, r: lambda engine: o in engine._contents[r],
    "holds": lambda o: lambda engine: o in engine._held,
    "holdsany": lambda: lambda engine: engine._hands_full,
    **{predicate: _mark_test(bit) for predicate, bit in _MARKS.items()},
}

__all__ = ["Game", "Ground", "Start", "demangle"]
