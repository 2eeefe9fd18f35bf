"""Play one episode of a game: text in, text out, exactly the words of the original.

The rules reproduced here are those of ALFWorld 0.4 on TextWorld 1.7 (Shridhar et al., 2021, https://arxiv.org/abs/2010.03768),
including its peculiarities, which tests compare against the original:

- Objects are *in* receptacles and, separately, *at* locations. Taking an object removes it from the location where the
  agent stands, putting it adds that location; whoever relies on the second kind of fact (slicing) may see a stale one.
- ``look`` lists an object as lying about only if it is at the agent's location and was once taken out of a receptacle
  that stands there.
- Two receptacles at one location are both usable, and going from one to the other is impossible.
- Objects can be examined only in hand, and used (switched on) even behind a closed door.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable

from opid_gym_envs.alfworld.game import (
    CLEAN,
    CLEANABLE,
    CONTAINER,
    COOL,
    COOLABLE,
    FRIDGE,
    HEATABLE,
    HOT,
    KNIFE,
    MICROWAVE,
    ON,
    PICKUPABLE,
    SINK,
    SLICEABLE,
    SLICED,
    TOGGLEABLE,
    TOGGLED,
    Game,
)

NOTHING_HAPPENS = "Nothing happens."
_WELCOME = "-= Welcome to TextWorld, ALFRED! =-\n\n"

# What a command does: a method of Engine and the two numbers it gets.
_Action = tuple[Callable[["Engine", int, int], str], int, int]


class Engine:
    """One episode in a game.

    An engine is made at the start of the episode and may be reset, copied and stepped at will; it costs microseconds.

    >>> from opid_gym_envs.alfworld.generator import generate
    >>> engine = Engine(Game.compile(generate(seed=1, size="small")))
    >>> introduction = engine.reset()
    >>> "look" in engine.admissible_commands()
    True
    >>> engine.step("dance")
    'Nothing happens.'

    Attributes:
        game: the game being played; shared, never changed.
    """

    __slots__ = (
        "_admissible",
        "_checked",
        "_commands",
        "_contents",
        "_floor",
        "_hands_full",
        "_held",
        "_here",
        "_marks",
        "_opened",
        "_spots",
        "_won",
        "game",
    )

    def __init__(self, game: Game) -> None:
        self.game = game
        # Listed when first asked for, and anew after whatever changes them; None until then.
        self._commands: dict[str, _Action] | None = None
        self._admissible: tuple[str, ...] | None = None
        self._won: bool | None = None
        self.reset()

    # ---------------------------------------------------------------------------------------------- the player's side

    def reset(self) -> str:
        """Start the episode anew.

        Returns:
            The introduction: where the agent is, what it sees, and the task.
        """
        game, start = self.game, self.game.start
        self._here = start.here
        self._contents = list(start.contents)
        self._held = start.held
        self._hands_full = start.hands_full
        self._opened = start.opened
        self._marks = list(start.marks)
        self._spots = list(start.spots)
        self._checked = set(start.checked) if "checked" in game.watched else None
        self._floor: set[tuple[int, int]] = set()  # (object, receptacle) once taken out and not put back
        self._won = None
        self._commands = self._admissible = None
        if game.near[self._here]:
            view = self._look(0, 0, noted=False)
        else:
            names = [
                "a " + name for name, places in zip(game.receptacle_names, game.places, strict=True) for _ in places
            ]
            view = f"You are in the middle of a room. Looking quickly around you, you see {_listing(names)}."
        return f"{_WELCOME}{view}\n\nYour task is to: {game.problem.task}."

    def step(self, command: str) -> str:
        """Play one command.

        Args:
            command: what the player types; white space around it does not count, letter case does.

        Returns:
            The game's answer; "Nothing happens." for anything that is not admissible.
        """
        command = command.strip()
        game = self.game
        target = game.go_to.get(command)
        if target is not None:
            return self._go(target)
        commands = self._commands
        if commands is None:
            commands = self._commands = self._list_commands()
        action = commands.get(command)
        if action is None:
            return NOTHING_HAPPENS
        perform, first, second = action
        return perform(self, first, second)

    def admissible_commands(self) -> tuple[str, ...]:
        """All commands that do something now, sorted; the same tuple until the next step that changes them."""
        if self._admissible is None:
            if self._commands is None:
                self._commands = self._list_commands()
            ordered = sorted(self._commands)
            middle = bisect_left(ordered, "go to ")
            self._admissible = (*ordered[:middle], *self.game.go_block(self._here), *ordered[middle:])
        return self._admissible

    @property
    def won(self) -> bool:
        """Whether the goal holds now; a goal once reached can be undone."""
        if self._won is None:
            self._won = self.game.goal(self)
        return self._won

    def copy(self) -> Engine:
        """An independent engine in the same state."""
        twin = object.__new__(Engine)
        twin.game = self.game
        twin._here = self._here
        twin._contents = self._contents.copy()
        twin._held = self._held
        twin._hands_full = self._hands_full
        twin._opened = self._opened
        twin._marks = self._marks.copy()
        twin._spots = self._spots.copy()
        twin._checked = None if self._checked is None else self._checked.copy()
        twin._floor = self._floor.copy()
        twin._won = self._won
        twin._commands = self._commands  # made anew, never changed in place
        twin._admissible = self._admissible
        return twin

    # ------------------------------------------------------------------------------------------- the searcher's side

    def state_key(self) -> Hashable:
        """A key equal for states from which the same commands lead to the same outcomes (texts of ``look`` aside)."""
        return (
            self._here,
            tuple(self._contents),
            self._held,
            self._hands_full,
            self._opened,
            tuple(self._marks),
            tuple(self._spots),
            None if self._checked is None else frozenset(self._checked),
        )

    @property
    def here(self) -> int:
        """The agent's location as an index into ``game.locations``."""
        return self._here

    @property
    def held(self) -> tuple[int, ...]:
        """Objects in hand, as indices into ``game.objects``."""
        return self._held

    @property
    def hands_full(self) -> bool:
        """Whether nothing more can be taken."""
        return self._hands_full

    def contents(self, receptacle: int) -> tuple[int, ...]:
        """The objects in a receptacle, whether or not it is open."""
        return self._contents[receptacle]

    def is_open(self, receptacle: int) -> bool:
        """Whether a receptacle counts as open; means nothing for one that is not openable."""
        return self._opened >> receptacle & 1 > 0

    def is_accessible(self, receptacle: int) -> bool:
        """Whether things can be taken out of and put into a receptacle by someone standing there."""
        return not self.game.openable[receptacle] or self.is_open(receptacle)

    def marks(self, obj: int) -> int:
        """What an object has become: bits CLEAN, HOT, COOL, SLICED, TOGGLED and ON of ``game``."""
        return self._marks[obj]

    def spots(self, obj: int) -> tuple[int, ...]:
        """The locations an object is said to be at; may be stale."""
        return self._spots[obj]

    # ------------------------------------------------------------------------------------------------- what happens

    def _list_commands(self) -> dict[str, _Action]:
        """What can be done here and now except going elsewhere, by command."""
        game, held = self.game, self._held
        commands: dict[str, _Action] = {"inventory": (Engine._inventory, 0, 0)}
        if game.problem.dialect.help is not None:
            commands["help"] = (Engine._help, 0, 0)
        here = self._here
        commands["look"] = (Engine._look, 0, 0)
        objects, properties = game.object_names, game.properties
        for r in game.near[here]:
            name = game.receptacle_names[r]
            contents = self._contents[r]
            accessible = True
            commands["examine " + name] = (Engine._examine_receptacle, r, 0)
            if game.openable[r]:
                if self._opened >> r & 1:
                    commands["close " + name] = (Engine._close, r, 0)
                else:
                    commands["open " + name] = (Engine._open, r, 0)
                    accessible = False
            take = accessible and not self._hands_full
            for o in contents:
                kind = properties[o]
                if kind & TOGGLEABLE:
                    commands["use " + objects[o]] = (Engine._use, o, 0)
                if take and kind & PICKUPABLE:
                    commands[f"take {objects[o]} from {name}"] = (Engine._take, o, r)
            for o in held:
                if accessible and o in game.accepts[r]:
                    put = game.put_command.format(o=objects[o], r=name)
                    commands[put] = (Engine._put, o, r)
                station = game.stations[r]
                if station:
                    kind = properties[o]
                    if station & SINK and kind & CLEANABLE:
                        commands[f"clean {objects[o]} with {name}"] = (Engine._clean, o, r)
                    if station & MICROWAVE and kind & HEATABLE:
                        commands[f"heat {objects[o]} with {name}"] = (Engine._heat, o, r)
                    if station & FRIDGE and kind & COOLABLE:
                        commands[f"cool {objects[o]} with {name}"] = (Engine._cool, o, r)
        for knife in held:
            if properties[knife] & KNIFE:
                for o, spots in enumerate(self._spots):
                    if here in spots and properties[o] & SLICEABLE:
                        commands[f"slice {objects[o]} with {objects[knife]}"] = (Engine._slice, o, knife)
        for o in held:
            commands["examine " + game.object_names[o]] = (Engine._examine_object, o, 0)
        return commands

    def _changed(self, *predicates: str) -> None:
        if self._won is not None and not self.game.watched.isdisjoint(predicates):
            self._won = None

    def _note(self, checked: str) -> None:
        if self._checked is not None:
            self._checked.add(checked)
            self._won = None

    def _go(self, r: int) -> str:
        game = self.game
        end = next((place for place in game.places[r] if place != self._here), None)
        if end is None:
            return NOTHING_HAPPENS
        self._here = end
        self._commands = self._admissible = None
        self._changed("atlocation")
        by_location = game.problem.dialect.arrival == "location"
        place = game.location_names[end] if by_location else game.receptacle_names[r]
        return f"You arrive at {place}. {self._describe(r)}"

    def _describe(self, r: int) -> str:
        game = self.game
        name = game.receptacle_names[r]
        if not game.openable[r]:
            return f"On the {name}, you see {self._contents_of(r)}."
        if self._opened >> r & 1:
            return f"The {name} is open. In it, you see {self._contents_of(r)}."
        return f"The {name} is closed."

    def _contents_of(self, r: int) -> str:
        articles = self.game.articles
        return _listing([articles[o] for o in self._contents[r]])

    def _examine_receptacle(self, r: int, _: int) -> str:
        self._note(self.game.receptacles[r])
        return self._describe(r)

    def _examine_object(self, o: int, _: int) -> str:
        game = self.game
        self._note(game.objects[o])
        name, kind, marks = game.object_names[o], game.properties[o], self._marks[o]
        if kind & CONTAINER:
            inside = _listing([game.articles[inner] for inner in game.inside.get(o, ())])
            return f"This is a normal {name}. In it, you see {inside}."
        sliced = "sliced " if marks & SLICED else ""
        if marks & CLEAN and marks & (HOT | COOL):
            return f"This is a {'hot' if marks & HOT else 'cool'} and clean {sliced}{name}."
        if sliced and marks & (CLEAN | HOT | COOL):
            word = "clean" if marks & CLEAN else "hot" if marks & HOT else "cool"
            return f"This is a {word} sliced {name}."
        if marks & (CLEAN | HOT | COOL):
            return f"This is a {'hot' if marks & HOT else 'clean' if marks & CLEAN else 'cold'} {name}."
        if kind & TOGGLEABLE and marks & TOGGLED:
            return f"This {name} is on."
        if kind & SLICEABLE and sliced:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."

    def _open(self, r: int, _: int) -> str:
        self._opened |= 1 << r
        self._commands = self._admissible = None
        self._changed("opened")
        self._note(self.game.receptacles[r])
        return f"You open the {self.game.receptacle_names[r]}. {self._describe(r)}"

    def _close(self, r: int, _: int) -> str:
        self._opened &= ~(1 << r)
        self._commands = self._admissible = None
        self._changed("opened")
        return f"You close the {self.game.receptacle_names[r]}."

    def _take(self, o: int, r: int) -> str:
        self._contents[r] = tuple(other for other in self._contents[r] if other != o)
        self._held = (o,) if not self._held else tuple(sorted({*self._held, o}))
        self._hands_full = True
        self._spots[o] = tuple(spot for spot in self._spots[o] if spot != self._here)
        self._floor.add((o, r))
        self._commands = self._admissible = None
        self._changed("inreceptacle", "holds", "holdsany", "objectatlocation")
        return f"You pick up the {self.game.object_names[o]} from the {self.game.receptacle_names[r]}."

    def _put(self, o: int, r: int) -> str:
        game, here = self.game, self._here
        if o not in self._contents[r]:
            contents = list(self._contents[r])
            insort(contents, o)
            self._contents[r] = tuple(contents)
        if here not in self._spots[o]:
            self._spots[o] = tuple(sorted((*self._spots[o], here)))
        self._held = tuple(other for other in self._held if other != o)
        self._hands_full = False
        self._floor.discard((o, r))
        self._commands = self._admissible = None
        self._changed("inreceptacle", "holds", "holdsany", "objectatlocation")
        return game.put_feedback.format(o=game.object_names[o], r=game.receptacle_names[r])

    def _clean(self, o: int, r: int) -> str:
        self._marks[o] |= CLEAN
        self._changed("isclean")
        return self._prepared("clean", o, r)

    def _heat(self, o: int, r: int) -> str:
        self._marks[o] = self._marks[o] & ~COOL | HOT
        self._changed("ishot", "iscool")
        return self._prepared("heat", o, r)

    def _cool(self, o: int, r: int) -> str:
        self._marks[o] = self._marks[o] & ~HOT | COOL
        self._changed("ishot", "iscool")
        return self._prepared("cool", o, r)

    def _prepared(self, verb: str, o: int, r: int) -> str:
        return f"You {verb} the {self.game.object_names[o]} using the {self.game.receptacle_names[r]}."

    def _use(self, o: int, _: int) -> str:
        # The switch itself goes on and off, but the text and the usual goals only know "was switched".
        self._marks[o] = (self._marks[o] ^ ON) | TOGGLED
        self._changed("ison", "istoggled")
        return f"You turn on the {self.game.object_names[o]}."

    def _slice(self, o: int, knife: int) -> str:
        self._marks[o] |= SLICED
        self._changed("issliced")
        return f"You sliced the {self.game.object_names[o]} with the {self.game.object_names[knife]}."

    def _inventory(self, _: int, __: int) -> str:
        self._note(self.game.agent)
        if not self._hands_full:
            return "You are not carrying anything."
        return f"You are carrying: {_listing([self.game.articles[o] for o in self._held])}."

    def _help(self, _: int, __: int) -> str:
        self._note(self.game.agent)
        return self.game.problem.dialect.help or NOTHING_HAPPENS

    def _look(self, _: int, __: int, noted: bool = True) -> str:
        game, here = self.game, self._here
        if noted:
            self._note(game.locations[here])
        near = game.near[here]
        if not near:
            # The original asks which receptacles are at the agent's location before listing "all": none.
            return "You are in the middle of a room. Looking quickly around you, you see nothing."
        floor = []
        if self._floor:
            floor = [game.articles[o] for o, r in sorted(self._floor) if r in near and here in self._spots[o]]
        facing = _listing([game.receptacle_names[r] for r in near])
        return f"You are facing the {facing}. Next to it, you see {_listing(floor)}."


def _listing(names: list[str]) -> str:
    """Names as the game lists them: "a x", "a x, and a y", "a x, a y, and a z", or "nothing"."""
    if len(names) > 1:
        return f"{', '.join(names[:-1])}, and {names[-1]}"
    return names[0] if names else "nothing"
