"""A problem compiled for play: ids become small integers, and names and texts that never change are made once.

A ``Game`` is shared by all episodes of the same problem and never changes; an ``Engine`` holds what one episode
changes. Numbers follow the sorted ids, because stock lists everything in the order of ids: a sorted tuple of
numbers is already in the order of the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from opid_gym_envs.alfworld.goal import GoalError, Test, atoms, compile_goal, ground
from opid_gym_envs.alfworld.problem import GameFileError, Problem
from opid_gym_envs.alfworld.rules import PREDICATES, TYPES

# What an object can be or do. Never changes in play.
PICKUPABLE, CLEANABLE, HEATABLE, COOLABLE, TOGGLEABLE, SLICEABLE, CONTAINER, KNIFE = (1 << bit for bit in range(8))
# What an object has become.
CLEAN, HOT, COOL, SLICED, TOGGLED, ON = (1 << bit for bit in range(6))
# What a receptacle is good for besides holding things.
SINK, MICROWAVE, FRIDGE = (1 << bit for bit in range(3))

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
_KNIFE_TYPES = ("knifetype", "butterknifetype")
_STATIONS = {"sinkbasintype": SINK, "microwavetype": MICROWAVE, "fridgetype": FRIDGE}


@dataclass(frozen=True, slots=True)
class Start:
    """The part of the initial state that play can change.

    Attributes:
        here: the agent's location.
        contents: receptacle -> objects in it, sorted.
        held: objects in hand, sorted.
        hands_full: whether the hands count as full (a fact of its own).
        opened: one bit per receptacle.
        marks: object -> bits like CLEAN.
        spots: object -> the locations it is said to be at, sorted.
        checked: ids looked at; followed in play only where the goal asks for it.
    """

    here: int
    contents: tuple[tuple[int, ...], ...]
    held: tuple[int, ...]
    hands_full: bool
    opened: int
    marks: tuple[int, ...]
    spots: tuple[tuple[int, ...], ...]
    checked: frozenset[str]


class Game:
    """One problem, ready for any number of episodes.

    Receptacles, objects and locations are numbered by their sorted ids, and "receptacle -> x" below means a tuple
    indexed by the receptacle's number.

    Attributes:
        problem: what was compiled.
        agent: the agent's id.
        receptacles, objects, locations: number -> id.
        receptacle_names, object_names, location_names: number -> the name the player reads, e.g. "mug 1".
        articles: object -> the name as lists have it, e.g. "a mug 1".
        places: receptacle -> its locations (normally one).
        near: location -> the receptacles there, sorted.
        openable: receptacle -> whether it has a door or lid.
        stations: receptacle -> bits SINK, MICROWAVE and FRIDGE.
        accepts: receptacle -> the objects that may be put there.
        properties: object -> bits like PICKUPABLE.
        inside: object -> the objects listed when it is examined as a container; objects with none are left out.
        start: the part of the initial state that play can change.
        go_to: "go to x" -> receptacle.
        put_command, put_feedback: the command that puts an object down, and its answer, with ``{o}`` and ``{r}`` for
            the names.
        goal: function of an engine: whether the goal holds.
        goal_cases: the goal as a formula without quantifiers over changeable facts, see `ground`.
        watched: the changeable predicates the goal depends on.
    """

    __slots__ = (
        "_go_blocks",
        "_go_commands",
        "accepts",
        "agent",
        "articles",
        "go_to",
        "goal",
        "goal_cases",
        "inside",
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
        "watched",
    )

    @classmethod
    def compile(cls, problem: Problem) -> Game:
        """Number and name everything a problem mentions.

        Raises:
            GameFileError: the facts describe something the engine cannot play, e.g. two agents.
        """
        return cls(problem)

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        facts = _Facts(problem)
        names = demangle((argument for fact in problem.facts for argument in fact[1:]), problem.id)
        self.receptacles, self.objects, self.locations = facts.receptacles, facts.objects, facts.locations
        self.receptacle_names = tuple(names[name] for name in self.receptacles)
        self.object_names = tuple(names[name] for name in self.objects)
        self.location_names = tuple(names[name] for name in self.locations)
        self.articles = tuple("a " + name for name in self.object_names)
        self.agent = facts.the_only("agent", facts.kinds["agent"])

        self.places = facts.related("receptacleatlocation", len(self.receptacles))
        self.near = facts.related("receptacleatlocation", len(self.locations), backwards=True)
        openable = {receptacle for (receptacle,) in facts.numbers("openable")}
        self.openable = tuple(receptacle in openable for receptacle in range(len(self.receptacles)))
        self.stations, self.accepts = facts.stations(), facts.accepted()
        self.properties = facts.bits(_PROPERTIES, facts.knives())
        # An object cannot be listed as inside itself: in a description stock gives each thing one part.
        inside = facts.related("inreceptacleobject", len(self.objects), backwards=True)
        self.inside = {
            outer: tuple(inner for inner in things if inner != outer) for outer, things in enumerate(inside) if things
        }
        self.start = facts.start()

        # Names are unique except for oddly formed ids; of two receptacles that share a name, it means the first.
        there = [receptacle for receptacle in range(len(self.receptacles)) if self.places[receptacle]]
        self.go_to = {f"go to {self.receptacle_names[receptacle]}": receptacle for receptacle in reversed(there)}
        self.put_command, self.put_feedback = problem.dialect.put_command, problem.dialect.put_feedback
        self._go_commands = tuple(sorted(self.go_to))
        self._go_blocks: dict[int, tuple[str, ...]] = {}

        try:
            self.goal_cases = ground(problem.goal, problem.facts, facts.universe(problem.idle))
        except GoalError as error:
            raise GameFileError(f"{problem.id}: {error}") from None
        self.watched = frozenset(atom[0] for atom in atoms(self.goal_cases))
        self.goal = compile_goal(self.goal_cases, facts.test)

    def __reduce__(self) -> tuple[Callable[[Problem], Game], tuple[Problem]]:
        """A pickle holds the problem, which is compiled again: a compiled goal is made of functions without names."""
        return Game.compile, (self.problem,)

    def __copy__(self) -> Game:
        """The game itself, as it never changes."""
        return self

    def __deepcopy__(self, memo: object) -> Game:
        """The game itself, as it never changes."""
        return self

    def go_block(self, here: int) -> tuple[str, ...]:
        """The sorted "go to" commands available at a location (each to a receptacle that is elsewhere)."""
        block = self._go_blocks.get(here)
        if block is None:
            go_to, places = self.go_to, self.places
            block = tuple(command for command in self._go_commands if places[go_to[command]] != (here,))
            self._go_blocks[here] = block
        return block


class _Facts:
    """The facts of a problem with ids as numbers; only needed while compiling."""

    def __init__(self, problem: Problem) -> None:
        self.source = problem.id
        self.by_predicate: dict[str, list[tuple[str, ...]]] = {}
        self.kinds: dict[str, dict[str, None]] = {kind: {} for kind in TYPES}
        for predicate, *arguments in problem.facts:
            self.by_predicate.setdefault(predicate, []).append(tuple(arguments))
            if predicate not in ("checked", "examined"):  # these are said of anything
                for kind, argument in zip(PREDICATES.get(predicate, ()), arguments, strict=False):
                    self.kinds[kind][argument] = None
        self.receptacles = tuple(sorted(self.kinds["receptacle"]))
        self.objects = tuple(sorted(self.kinds["object"]))
        self.locations = tuple(sorted(self.kinds["location"]))
        self.index: dict[str, dict[str, int]] = {
            kind: {name: number for number, name in enumerate(ids)}
            for kind, ids in (
                ("receptacle", self.receptacles),
                ("object", self.objects),
                ("location", self.locations),
            )
        }

    def the_only(self, what: str, found: Iterable[str]) -> str:
        names = sorted(found)
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise GameFileError(f"{self.source}: the facts need exactly one {what}, found {listed}")
        return names[0]

    def numbers(self, predicate: str) -> list[tuple[int, ...]]:
        """The facts of a predicate as numbers, sorted; arguments of types without numbers are left out."""
        tables = [self.index.get(kind) for kind in PREDICATES[predicate]]
        return sorted(
            tuple(table[name] for table, name in zip(tables, arguments, strict=True) if table is not None)
            for arguments in self.by_predicate.get(predicate, ())
        )

    def related(self, predicate: str, count: int, backwards: bool = False) -> tuple[tuple[int, ...], ...]:
        """First argument -> second arguments, sorted (or the other way round)."""
        found: list[list[int]] = [[] for _ in range(count)]
        for first, second in self.numbers(predicate):
            if backwards:
                found[second].append(first)
            else:
                found[first].append(second)
        return tuple(map(tuple, found))

    def bits(self, table: Mapping[str, int], also: Mapping[int, int]) -> tuple[int, ...]:
        found = [also.get(number, 0) for number in range(len(self.objects))]
        for predicate, bit in table.items():
            for (number,) in self.numbers(predicate):
                found[number] |= bit
        return tuple(found)

    def knives(self) -> dict[int, int]:
        table = self.index["object"]
        return {table[name]: KNIFE for name, kind in self.by_predicate.get("objecttype", ()) if kind in _KNIFE_TYPES}

    def stations(self) -> tuple[int, ...]:
        found = [0] * len(self.receptacles)
        for name, kind in self.by_predicate.get("receptacletype", ()):
            found[self.index["receptacle"][name]] |= _STATIONS.get(kind, 0)
        return tuple(found)

    def accepted(self) -> tuple[frozenset[int], ...]:
        """Receptacle -> the objects it can contain; receptacles of one type share one set."""
        members: dict[str, list[int]] = {}
        for name, kind in self.by_predicate.get("objecttype", ()):
            members.setdefault(kind, []).append(self.index["object"][name])
        by_type: dict[str, set[int]] = {}
        for receptacle_type, object_type in self.by_predicate.get("cancontain", ()):
            by_type.setdefault(receptacle_type, set()).update(members.get(object_type, ()))
        shared = {kind: frozenset(things) for kind, things in by_type.items()}
        found: list[frozenset[int]] = [frozenset()] * len(self.receptacles)
        for name, kind in self.by_predicate.get("receptacletype", ()):
            number = self.index["receptacle"][name]
            if kind in shared:
                found[number] = found[number] | shared[kind] if found[number] else shared[kind]
        return tuple(found)

    def start(self) -> Start:
        opened = 0
        for (receptacle,) in self.numbers("opened"):
            opened |= 1 << receptacle
        here = self.the_only("location of the agent", (place for _, place in self.by_predicate.get("atlocation", ())))
        return Start(
            here=self.index["location"][here],
            contents=self.related("inreceptacle", len(self.receptacles), backwards=True),
            held=tuple(thing for (thing,) in self.numbers("holds")),
            hands_full="holdsany" in self.by_predicate,
            opened=opened,
            marks=self.bits(_MARKS, {}),
            spots=self.related("objectatlocation", len(self.objects)),
            checked=frozenset(name for (name,) in self.by_predicate.get("checked", ())),
        )

    def universe(self, idle: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
        """Type -> the ids of that type; "object" is the root of all types."""
        found = {kind: set(ids) for kind, ids in self.kinds.items()}
        for name, kind in idle:
            found.setdefault(kind, set()).add(name)
        found["object"] = set().union(*found.values())
        return {kind: sorted(ids) for kind, ids in found.items()}

    def test(self, atom: tuple[str, ...]) -> Test | bool:
        """The test of one changeable fact in an engine; False where it names something that can never be so."""
        predicate, *arguments = atom
        if predicate == "checked":
            return lambda engine: arguments[0] in engine._checked
        numbers: list[int] = []
        for kind, argument in zip(PREDICATES[predicate], arguments, strict=True):
            if kind == "agent":
                if argument not in self.kinds["agent"]:
                    return False
            elif argument not in self.index[kind]:
                return False
            else:
                numbers.append(self.index[kind][argument])
        return _TESTS[predicate](*numbers)


def _mark_test(bit: int) -> Callable[[int], Test]:
    return lambda thing: lambda engine: engine._marks[thing] & bit > 0


# How each changeable fact reads in an engine; these few lines and the engine itself share its private names.
_TESTS: dict[str, Callable[..., Test]] = {
    "atlocation": lambda place: lambda engine: engine._here == place,
    "objectatlocation": lambda thing, place: lambda engine: place in engine._spots[thing],
    "opened": lambda receptacle: lambda engine: engine._opened >> receptacle & 1 > 0,
    "inreceptacle": lambda thing, receptacle: lambda engine: thing in engine._contents[receptacle],
    "holds": lambda thing: lambda engine: thing in engine._held,
    "holdsany": lambda: lambda engine: engine._hands_full,
    **{predicate: _mark_test(bit) for predicate, bit in _MARKS.items()},
}


def demangle(ids: Iterable[str], source: str) -> dict[str, str]:
    """Give every id the name that the player reads: its kind and a number, which counts down along the sorted ids.

    >>> demangle(["mug_bar_1", "mug_bar_2", "sink_bar_1_bar_sinkbasin"], "example")
    {'mug_bar_1': 'mug 2', 'mug_bar_2': 'mug 1', 'sink_bar_1_bar_sinkbasin': 'sinkbasin 1'}

    Raises:
        GameFileError: an id cannot be turned into a name; stock fails on it, too.
    """
    ordered = sorted(set(ids))
    left = Counter(_kind(name.split("_bar_", 1)[0], name) for name in ordered if "_bar_" in name)
    names = {}
    for name in ordered:
        text = name.replace("_bar_", "|").replace("_minus_", "-").replace("_plus_", "+")
        text = text.replace("_dot_", ".").replace("_comma_", ",")
        if "|" not in text:
            names[name] = text + " "  # an id without a position gets no number, only the space before it
            continue
        kind = _kind(text.split("|", 1)[0], name)
        if left[kind] < 1:
            raise GameFileError(f"{source}: id {name!r} cannot be turned into a name; need kind_bar_position")
        names[name] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names


def _kind(word: str, name: str) -> str:
    return word + ("basin" if "basin" in name else "")
