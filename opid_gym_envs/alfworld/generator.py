"""Household games from a seed, as large as the official ones or small enough to learn on a laptop in minutes.

Every game is a pure function of its arguments, equal on every machine and every Python from 3.11 on: all
chance comes from `random.Random.random`, seeded with a text, the one stream Python promises to keep. Nothing
is read from disk.

A game is made in three steps. The *layout* is a room kind with its receptacles and their positions; there are
120 for each size, numbered like ALFRED's scenes, of which the last three of each room kind are kept for
`valid_unseen`. The *errand* says what is asked. Then the room is *filled*: things are put where people tend
to leave them (`catalogue.likelihood`), so the thing asked for has to be searched.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from opid_gym_envs.alfworld import catalogue
from opid_gym_envs.alfworld.catalogue import ROOMS
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, Fact, Problem

T = TypeVar("T")

SPLITS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        split: MappingProxyType(dict(zip(TASK_TYPES, counts, strict=True)))
        for split, counts in {
            "train": (790, 308, 650, 459, 533, 813),
            "valid_seen": (35, 13, 27, 16, 25, 24),
            "valid_unseen": (24, 18, 31, 23, 21, 17),
        }.items()
    }
)
"""Split -> how many tasks of each type it has by default: the numbers of the official data (3553, 140, 134)."""

UNSEEN_PER_ROOM = 3
"""So many layouts of each room kind, the last ones, appear in `valid_unseen` and nowhere else."""

_STREAM = "opid-gym/alfworld/1"  # change the number, and every generated game changes


@dataclass(frozen=True, slots=True)
class Size:
    """How large a game is.

    Attributes:
        objects: fewest and most things in a room, fixtures included.
        spare_targets: at most so many more things of the wanted type than the task needs.
        fixtures: whether the room has things that the text never shows.
        shared_spots: of 100 receptacles, so many stand within reach of another one's location.
        doorless: of 100 cabinets, so many have no door.
    """

    objects: tuple[int, int]
    spare_targets: int
    fixtures: bool
    shared_spots: int
    doorless: int


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "real": Size(objects=(40, 60), spare_targets=2, fixtures=True, shared_spots=10, doorless=25),
        "small": Size(objects=(8, 14), spare_targets=0, fixtures=False, shared_spots=0, doorless=0),
    }
)
"""`real`: 20-40 receptacles and 40-60 things, like the official games; `small`: 6-10 receptacles and 8-14 things."""


class Dice:
    """Random draws that come out the same everywhere: all rest on `Random.random` alone.

    (`choice`, `shuffle` and their kin may change between Python versions; `random` may not.)
    """

    def __init__(self, *path: object) -> None:
        self._random = random.Random("/".join((_STREAM, *map(str, path)))).random

    def below(self, n: int) -> int:
        """One of 0, ..., n - 1."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """One of low, ..., high."""
        return low + int(self._random() * (high - low + 1))

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[int(self._random() * len(items))]

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, as likely as its weight says; the weights are integers and not all 0."""
        mark = int(self._random() * sum(weights))
        for index, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return index
        raise ValueError("all weights are 0")


# ---------------------------------------------------------------------------------------------------- layouts


@dataclass(frozen=True, slots=True)
class Furniture:
    """One receptacle: its id and type, where it stands (cm), the location it is used from, whether it has a door."""

    id: str
    type: str
    position: tuple[int, int, int]
    location: str
    openable: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A room without its things.

    Attributes:
        scene: the number, 1-30 kitchens, 201-230 living rooms, 301-330 bedrooms, 401-430 bathrooms.
        room: a key of `catalogue.ROOMS`.
        size: a key of `SIZES`.
        furniture: the receptacles.
        facts: what holds in every game of this layout (types, doors, places), lower-cased.
    """

    scene: int
    room: str
    size: str
    furniture: tuple[Furniture, ...]
    facts: tuple[Fact, ...]

    @property
    def receptacle_types(self) -> tuple[str, ...]:
        """The types present, sorted."""
        return tuple(sorted({item.type for item in self.furniture}))


def scenes(split: str, room: str) -> range:
    """The scene numbers a split draws from in one room kind.

    Raises:
        ValueError: unknown split or room kind.
    """
    _one_of("split", split, SPLITS)
    _one_of("room", room, ROOMS)
    numbers = ROOMS[room].scenes
    return numbers[-UNSEEN_PER_ROOM:] if split == "valid_unseen" else numbers[:-UNSEEN_PER_ROOM]


@cache  # 240 layouts exist
def make_layout(scene: int, size: str = "real") -> Layout:
    """The layout with this scene number.

    Raises:
        ValueError: unknown size, or no room kind has that scene number.
    """
    _one_of("size", size, SIZES)
    room = next((name for name, kind in ROOMS.items() if scene in kind.scenes), None)
    if room is None:
        ranges = ", ".join(f"{r.scenes.start}-{r.scenes.stop - 1} ({name})" for name, r in ROOMS.items())
        raise ValueError(f"unknown layout {scene!r}; scene numbers are {ranges}")
    kind, dimensions = ROOMS[room], SIZES[size]
    dice = Dice("layout", size, scene)
    width, depth = (300, 300) if size == "real" else (200, 200)  # half the room's extent, cm
    furniture: list[Furniture] = []
    ids: set[str] = set()
    spots: set[str] = set()
    for type_, (fewest, most) in (kind.receptacles if size == "real" else kind.small).items():
        for _ in range(dice.between(fewest, most)):
            position, id_ = _free_id(dice, type_, (0, 0, 0), (width, 210, depth), ids)
            openable = type_ in catalogue.OPENABLE
            if type_ == "Cabinet" and dice.below(100) < dimensions.doorless:
                openable = False
            if furniture and dice.below(100) < dimensions.shared_spots:
                location = dice.choice(furniture).location
            else:
                location = _free_spot(dice, position, spots)
            furniture.append(Furniture(id_, type_, position, location, openable))
    facts: list[Fact] = [("receptacletype", item.id, item.type.lower() + "type") for item in furniture]
    facts += [("openable", item.id) for item in furniture if item.openable]
    facts += [("receptacleatlocation", item.id, item.location) for item in furniture]
    if dimensions.fixtures:
        for type_ in kind.fixtures:
            for _ in range(dice.between(1, 2)):
                position, id_ = _free_id(dice, type_, (0, 0, 0), (width, 210, depth), ids)
                facts.append(("objecttype", id_, type_.lower() + "type"))
                facts.append(("objectatlocation", id_, _free_spot(dice, position, spots)))
    return Layout(scene, room, size, tuple(furniture), tuple(facts))


def _free_id(
    dice: Dice, type_: str, centre: tuple[int, int, int], reach: tuple[int, int, int], taken: set[str]
) -> tuple[tuple[int, int, int], str]:
    """A position around `centre` whose id, ``type_bar_x_bar_y_bar_z``, nothing else has yet."""
    while True:
        x = centre[0] + dice.between(-reach[0], reach[0])
        y = centre[1] + dice.between(0, reach[1])
        z = centre[2] + dice.between(-reach[2], reach[2])
        part = ""
        name = type_.lower()
        if name.endswith("basin"):  # ALFRED's basins are parts of a sink or a bathtub
            name, part = name.removesuffix("basin"), f"_bar_{name}"
        id_ = f"{name}_bar_{_centimetres(x)}_bar_{_centimetres(y)}_bar_{_centimetres(z)}{part}"
        if id_ not in taken:
            taken.add(id_)
            return (x, y, z), id_


def _centimetres(value: int) -> str:
    sign = "minus" if value < 0 else "plus"
    return f"_{sign}_{abs(value) // 100:02d}_dot_{abs(value) % 100:02d}"


def _free_spot(dice: Dice, position: tuple[int, int, int], taken: set[str]) -> str:
    """A location (x, z in steps of 25 cm, facing, gaze) close to the position that nobody has yet."""
    while True:
        x = position[0] // 25 + dice.between(-2, 2)
        z = position[2] // 25 + dice.between(-2, 2)
        numbers = (x, z, dice.below(4), dice.choice((-30, -15, 0, 15, 30, 45, 60)))
        spot = "loc" + "".join(f"_bar_{n}" if n >= 0 else f"_bar__minus_{-n}" for n in numbers)
        if spot not in taken:
            taken.add(spot)
            return spot


# ---------------------------------------------------------------------------------------------------- errands


@dataclass(frozen=True, slots=True)
class Errand:
    """What is asked, and where.

    Attributes:
        task_type: one of `catalogue.TASK_TYPES`.
        object_type: what has to be handled.
        target_type: the receptacle type it has to end in, or the lamp type it has to be looked at under.
        scene, size: the layout.
        text: the task as the agent reads it.
    """

    task_type: str
    object_type: str
    target_type: str
    scene: int
    size: str
    text: str

    @property
    def name(self) -> str:
        """The name of its folder in official data, e.g. ``pick_heat_then_place_in_recep-Mug-None-SinkBasin-12``."""
        return f"{self.task_type}-{self.object_type}-None-{self.target_type}-{self.scene}"


@cache  # bounded by layouts x task types
def possible_targets(task_type: str, scene: int, size: str) -> Mapping[str, tuple[str, ...]]:
    """What can be asked in a layout: object type -> the target types that make a real task with it.

    A task is real if the thing fits the target, can lie somewhere else at the start, and the appliance it
    needs is there and is not itself the target.
    """
    layout = make_layout(scene, size)
    present = layout.receptacle_types
    appliance = catalogue.APPLIANCE.get(task_type)
    suitable = catalogue.TASK_PROPERTY.get(task_type)
    found: dict[str, tuple[str, ...]] = {}
    if appliance is not None and appliance not in present:
        return found
    for object_type in ROOMS[layout.room].objects:
        homes = [r for r in present if catalogue.likelihood(r, object_type)]
        if not homes or (suitable is not None and object_type not in suitable):
            continue
        if task_type == "look_at_obj_in_light":
            targets = sorted(catalogue.TOGGLEABLE)
        elif task_type == "pick_and_place_simple":
            targets = [r for r in homes if len(homes) > 1]
        elif task_type == "pick_two_obj_and_place":
            targets = [r for r in homes if len(homes) > 1 and catalogue.ROOMINESS.get(r, 3) > 1]
        else:
            targets = [r for r in homes if r != appliance]
        if targets:
            found[object_type] = tuple(targets)
    return found


def _draw_errand(dice: Dice, task_type: str, scene: int, size: str) -> Errand:
    targets = possible_targets(task_type, scene, size)
    object_type = dice.choice(tuple(targets))
    target_type = dice.choice(targets[object_type])
    wording = dice.choice(catalogue.TASK_TEMPLATES[task_type])
    text = wording.format(obj=object_type.lower(), recep=target_type.lower(), lamp=target_type.lower())
    return Errand(task_type, object_type, target_type, scene, size, text)


def goal_formula(task_type: str, object_type: str, target_type: str) -> tuple[Any, ...]:
    """The goal of a task type as the official game files state it: nested tuples of lower-case words.

    Args:
        task_type: one of `catalogue.TASK_TYPES`.
        object_type: what has to be handled.
        target_type: the receptacle type, or for `look_at_obj_in_light` the lamp type.

    Raises:
        ValueError: unknown task type.
    """
    _one_of("task_type", task_type, TASK_TYPES)
    thing, place = object_type.lower() + "type", target_type.lower() + "type"
    if task_type == "look_at_obj_in_light":
        lit = (
            "and",
            ("objecttype", "?ot", place),
            ("toggleable", "?ot"),
            ("istoggled", "?ot"),
            ("receptacleatlocation", "?r", "?l"),
            ("atlocation", "?a", "?l"),
            ("inreceptacle", "?ot", "?r"),
        )
        variables = ("?ot", "-", "object", "?r", "-", "receptacle", "?a", "-", "agent", "?l", "-", "location")
        held = ("and", ("objecttype", "?o", thing), ("holds", "?a", "?o"))
        return ("and", ("exists", variables, lit), ("exists", ("?o", "-", "object", "?a", "-", "agent"), held))
    if task_type == "pick_two_obj_and_place":

        def there(name: str) -> tuple[Fact, ...]:
            return (("objecttype", name, thing), ("receptacletype", "?r", place), ("inreceptacle", name, "?r"))

        second = ("exists", ("?o2", "-", "object"), ("and", ("not", ("=", "?o1", "?o2")), *there("?o2")))
        first = ("exists", ("?o1", "-", "object"), ("and", *there("?o1"), second))
        return ("and", ("exists", ("?r", "-", "receptacle"), first))
    typed: tuple[Fact, ...] = (("objecttype", "?o", thing), ("receptacletype", "?r", place))
    inside: Fact = ("inreceptacle", "?o", "?r")
    able, changed = {
        "pick_clean_then_place_in_recep": ("cleanable", "isclean"),
        "pick_heat_then_place_in_recep": ("heatable", "ishot"),
        "pick_cool_then_place_in_recep": ("coolable", "iscool"),
    }.get(task_type, (None, None))
    parts = (inside, *typed) if able is None else ((able, "?o"), *typed, (changed, "?o"), inside)
    return ("and", ("exists", ("?r", "-", "receptacle"), ("exists", ("?o", "-", "object"), ("and", *parts))))


# ------------------------------------------------------------------------------------------------------ games


def generate(
    seed: int | tuple[int | str, ...],
    *,
    task_type: str | None = None,
    room: str | None = None,
    size: str = "real",
    layout: int | None = None,
    dialect: Dialect = Dialect.MOVE,
) -> Problem:
    """A solvable game.

    Args:
        seed: any integer, or a tuple of integers and words.
        task_type: one of `catalogue.TASK_TYPES`; drawn if None.
        room: ``kitchen``, ``livingroom``, ``bedroom`` or ``bathroom``; drawn if None.
        size: ``real`` or ``small``, see `SIZES`.
        layout: a scene number, which also fixes the room; drawn if None.
        dialect: the generation of game text, see `opid_gym_envs.alfworld.problem.Dialect`.

    Returns:
        The game, never won at the start. Equal arguments give equal games.

    Raises:
        ValueError: an unknown name, or a room where that task type cannot be asked.
    """
    _one_of("size", size, SIZES)
    if task_type is not None:
        _one_of("task_type", task_type, TASK_TYPES)
    if layout is not None:
        home = make_layout(layout, size).room
        if room not in (None, home):
            raise ValueError(f"layout {layout} is a {home}, so it cannot be combined with room={room!r}")
        room = home
    if room is not None:
        _one_of("room", room, ROOMS)
    words = seed if isinstance(seed, tuple) else (seed,)
    dice = Dice("game", size, *words)
    types = [t for t in TASK_TYPES if task_type in (None, t) and (room is None or room in catalogue.TASK_ROOMS[t])]
    if not types:
        allowed = ", ".join(catalogue.TASK_ROOMS[str(task_type)])
        raise ValueError(f"task_type={task_type!r} cannot be asked in a {room}; rooms where it can: {allowed}")
    task_type = dice.choice(types)
    if layout is None:
        layout = dice.choice(ROOMS[room or dice.choice(catalogue.TASK_ROOMS[task_type])].scenes)
    errand = _draw_errand(dice, task_type, layout, size)
    trial = "-".join(map(str, words))
    return _furnish(dice, errand, f"{_folder('generated', size)}/{errand.name}/trial_{trial}", dialect)


def _furnish(dice: Dice, errand: Errand, id_: str, dialect: Dialect) -> Problem:
    """Fill the errand's layout with things, the wanted ones first, and write the game down."""
    layout, size = make_layout(errand.scene, errand.size), SIZES[errand.size]
    kind = ROOMS[layout.room]
    room_left = [catalogue.ROOMINESS.get(item.type, 3) for item in layout.furniture]
    placed: list[tuple[str, str, Furniture]] = []  # id, type, where
    ids: set[str] = {fact[1] for fact in layout.facts}

    def place(type_: str, *, never: str | None = None, full: bool = False) -> Furniture | None:
        """Put one such thing where it fits, but not in a receptacle of type `never`; `full`: even where it is full."""
        weights = [
            0 if item.type == never or (left <= 0 and not full) else catalogue.likelihood(item.type, type_)
            for item, left in zip(layout.furniture, room_left, strict=True)
        ]
        if not any(weights):
            return None
        index = dice.weighted(weights)
        where = layout.furniture[index]
        room_left[index] -= 1
        placed.append((_free_id(dice, type_, where.position, (40, 15, 40), ids)[1], type_, where))
        return where

    needed = 2 if errand.task_type == "pick_two_obj_and_place" else 1
    elsewhere = needed == 2 or errand.task_type == "pick_and_place_simple"
    wanted = needed + dice.between(0, size.spare_targets)
    for _ in range(wanted):
        # A thing of the wanted type that already lies in a target would be half the task, or all of it.
        place(errand.object_type, never=errand.target_type if elsewhere else None, full=True)
    lamps = {errand.target_type} if errand.task_type == "look_at_obj_in_light" else set()
    if kind.lamps and dice.below(2):
        lamps.add(dice.choice(sorted(catalogue.TOGGLEABLE)))
    for lamp in sorted(lamps):
        place(lamp, full=True)
    fixtures = sum(fact[0] == "objecttype" for fact in layout.facts)
    total = dice.between(*size.objects)
    most = 3 if errand.size == "small" else 6
    count = {errand.object_type: most}  # the wanted ones are there; no more of them
    fillers = [name for name in kind.objects if name != errand.object_type]
    while fixtures + len(placed) < total and fillers:
        type_ = dice.choice(fillers)
        count[type_] = count.get(type_, 0) + 1
        if place(type_) is None or count[type_] >= most:
            fillers.remove(type_)
    spots = {item.location for item in layout.furniture}
    start = _free_spot(dice, (0, 0, 0), spots)
    facts = _game_facts(layout, placed, start)
    goal = goal_formula(errand.task_type, errand.object_type, errand.target_type)
    problem = Problem(id=id_, task=errand.text, task_type=errand.task_type, facts=facts, goal=goal, dialect=dialect)
    _check(problem, errand)
    return problem


_PROPERTIES: tuple[tuple[str, frozenset[str]], ...] = (
    ("cleanable", catalogue.CLEANABLE),
    ("heatable", catalogue.HEATABLE),
    ("coolable", catalogue.COOLABLE),
    ("sliceable", catalogue.SLICEABLE),
    ("toggleable", catalogue.TOGGLEABLE),
    ("isreceptacleobject", catalogue.RECEPTACLE_OBJECTS),
)


def _game_facts(layout: Layout, placed: Sequence[tuple[str, str, Furniture]], start: str) -> tuple[Fact, ...]:
    facts: list[Fact] = [*layout.facts, ("atlocation", "agent1", start)]
    for id_, type_, where in placed:
        facts.append(("objecttype", id_, type_.lower() + "type"))
        facts.append(("inreceptacle", id_, where.id))
        facts.append(("objectatlocation", id_, where.location))
        if type_ not in catalogue.TOGGLEABLE:
            facts.append(("pickupable", id_))
        facts.extend((name, id_) for name, types in _PROPERTIES if type_ in types)
    present = sorted({type_ for _, type_, _ in placed})
    for receptacle in layout.receptacle_types:
        holds = catalogue.CAN_CONTAIN[receptacle]
        facts.extend(("cancontain", receptacle.lower() + "type", t.lower() + "type") for t in present if t in holds)
    return tuple(facts)


def _check(problem: Problem, errand: Errand) -> None:
    """Prove from the facts alone that the goal can be reached and has not been reached.

    Every receptacle can be walked to and opened and hands can always be emptied where things came from, so it
    is enough that the things, the places and the properties the goal names exist together.
    """
    facts: dict[str, set[Fact]] = {}
    for name, *arguments in problem.facts:
        facts.setdefault(name, set()).add(tuple(arguments))
    thing, place = (errand.object_type.lower() + "type", errand.target_type.lower() + "type")
    located = {r for r, _ in facts["receptacleatlocation"]}
    held_by = {fact[0]: fact[1] for fact in facts["inreceptacle"]}
    things = [o for o, t in facts["objecttype"] if t == thing and (o,) in facts["pickupable"] and held_by[o] in located]
    if errand.task_type == "look_at_obj_in_light":
        lamps = [o for o, t in facts["objecttype"] if t == place and (o,) in facts["toggleable"]]
        solvable = bool(things) and any(held_by[lamp] in located for lamp in lamps)
    else:
        places = {r for r, t in facts["receptacletype"] if t == place and r in located}
        solvable = bool(places) and (place, thing) in facts["cancontain"]
        solvable = solvable and len(things) >= (2 if errand.task_type == "pick_two_obj_and_place" else 1)
        appliance = catalogue.APPLIANCE.get(errand.task_type)
        if appliance is None:
            solvable = solvable and not any(held_by[o] in places for o in things)
        else:
            able = problem.goal[1][2][2][1][0]  # (and (exists _ (exists _ (and (<able> ?o) ...))))
            solvable = solvable and any((o,) in facts[able] for o in things)
            solvable = solvable and any(t == appliance.lower() + "type" for _, t in facts["receptacletype"])
    if not solvable:
        raise RuntimeError(f"the generator made a game that cannot be solved or is solved at the start: {problem.id}")


# ----------------------------------------------------------------------------------------------------- splits


class GeneratedSplit:
    """A fixed, ordered set of generated games, named like the official splits and made when asked for.

    The first tasks of a split are the same whatever `count` is, and a task is the same in either dialect.

    Args:
        split: ``train``, ``valid_seen`` (layouts of train, other tasks) or ``valid_unseen`` (layouts never in
            train).
        size: ``real`` or ``small``.
        count: how many tasks, before `task_types` filters; by default as many as the official split has.
        task_types: keep only these types, with their ids unchanged; all six if None.
        dialect: the generation of game text.

    Attributes:
        task_ids: ids like ``train/pick_heat_then_place_in_recep-Mug-None-SinkBasin-12/trial_000417``
            (``small/train/...`` for small games): the same in every process and on every machine.

    Raises:
        ValueError: an unknown split, size or task type, or a negative count.
    """

    def __init__(
        self,
        split: str,
        *,
        size: str = "real",
        count: int | None = None,
        task_types: Sequence[str] | None = None,
        dialect: Dialect = Dialect.MOVE,
    ) -> None:
        _one_of("split", split, SPLITS)
        _one_of("size", size, SIZES)
        for name in task_types or ():
            _one_of("task_types", name, TASK_TYPES)
        if count is not None and count < 0:
            raise ValueError(f"count must be 0 or more, got {count}")
        self.split, self.size, self.dialect = split, size, dialect
        self.count = sum(SPLITS[split].values()) if count is None else count
        kept = set(TASK_TYPES if task_types is None else task_types)
        order = _type_order(split)
        self.task_ids: tuple[str, ...] = tuple(
            self._id(index, _split_errand(split, size, index))
            for index in range(self.count)
            if order[index % len(order)] in kept
        )
        self._known = frozenset(self.task_ids)

    def __len__(self) -> int:
        return len(self.task_ids)

    def __iter__(self) -> Iterator[Problem]:
        return map(self.problem, self.task_ids)

    def problem(self, task_id: str) -> Problem:
        """The game of one of `task_ids`.

        Raises:
            KeyError: the id is not of this split; the message names it.
        """
        if task_id not in self._known:
            raise KeyError(f"no task {task_id!r} in generated split {self.split!r} ({self.size}, {len(self)} tasks)")
        index = int(task_id.rpartition("_")[2])
        errand = _split_errand(self.split, self.size, index)
        return _furnish(Dice("fill", self.split, self.size, index), errand, task_id, self.dialect)

    def _id(self, index: int, errand: Errand) -> str:
        return f"{_folder(self.split, self.size)}/{errand.name}/trial_{index:06d}"


def _folder(name: str, size: str) -> str:
    return name if size == "real" else f"{size}/{name}"


@cache
def _type_order(split: str) -> tuple[str, ...]:
    """Task types in an order whose every beginning has them in nearly the split's proportions."""
    quota = SPLITS[split]
    total = sum(quota.values())
    given = dict.fromkeys(TASK_TYPES, 0)
    order = []
    for position in range(1, total + 1):
        behind = max(TASK_TYPES, key=lambda t: quota[t] * position - given[t] * total)
        given[behind] += 1
        order.append(behind)
    return tuple(order)


def _split_errand(split: str, size: str, index: int) -> Errand:
    order = _type_order(split)
    task_type = order[index % len(order)]
    dice = Dice("errand", split, size, index)
    room = dice.choice(catalogue.TASK_ROOMS[task_type])
    return _draw_errand(dice, task_type, dice.choice(scenes(split, room)), size)


def _one_of(argument: str, value: object, allowed: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
