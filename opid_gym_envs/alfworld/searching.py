"""An expert that knows no more than the player: it reads, searches where things usually are, and never cheats.

Its choices depend on the text alone, so a policy that reads the same text can imitate them; demonstrations by
a planner that knows what is in every drawer (`opid_gym_envs.alfworld.expert.solve`) walk straight to things
nobody has seen yet, which cannot be learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from opid_gym_envs.alfworld.catalogue import APPLIANCE, CAN_CONTAIN, OPENABLE, TYPE_NAMES, likelihood
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.reading import Wish, read_observation, read_task, type_of

_RECEPTACLE_TYPES = frozenset(name.lower() for name in CAN_CONTAIN)

Purpose = Literal["take", "put", "treat", "light", "free", "fetch", "bring", "search", "tidy", "rest"]


@dataclass(frozen=True, slots=True)
class Advice:
    """A command and what it is for.

    Attributes:
        action: the command.
        purpose: ``take`` the wanted thing, ``put`` it where it belongs, ``treat`` it (clean, heat, cool), ``light`` the
            lamp; ``free`` the hand while a wanted thing is in sight; go and ``fetch`` what was seen somewhere;
            ``bring`` what is in the hand to where it is needed; ``search``; ``tidy`` away what is not wanted; ``rest``,
            as there is nothing left to do.
        thing: what it is about; "" where nothing is known yet.
        place: the receptacle it leads to; "" where there is none.
    """

    action: str
    purpose: Purpose
    thing: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class _Offered:
    """What the commands that a game would accept tell of it."""

    commands: frozenset[str]
    receptacles: tuple[str, ...]
    held: str | None


@lru_cache(maxsize=4096)
def _read_commands(admissible: tuple[str, ...]) -> _Offered:
    receptacles: list[str] = []
    held = None
    for command in admissible:
        verb, _, name = command.partition(" ")
        if command.startswith("go to "):
            receptacles.append(command.removeprefix("go to "))
        elif verb == "examine" and type_of(name) in _RECEPTACLE_TYPES:
            receptacles.append(name)
        elif verb == "examine":  # of things, only the one in the hands can be examined
            held = name
    return _Offered(frozenset(admissible), tuple(receptacles), held)


class SearchingExpert:
    """Plays one episode from its text.

    It goes through the receptacles in the order of how likely the wanted thing is there for the effort
    (opening costs a step), opens what is closed, remembers all it has seen and looks nowhere twice. `act`
    keeps no record of what it advised, so it may also be asked for advice along an episode that somebody else
    plays.

    Args:
        task: the task in words; the wording must be one of the templates.
        rng: where it draws its whims from: equally promising places are searched in an order that differs
            from episode to episode. Equal generators give equal play.

    Raises:
        ValueError: the task is worded in another way.

    >>> expert = SearchingExpert("put a mug in desk", random.Random(0))
    >>> expert.act("You are in the middle of a room. ...", ["go to desk 1", "go to shelf 1", "look"])
    'go to shelf 1'
    """

    def __init__(self, task: str, rng: random.Random) -> None:
        self.wish: Wish = read_task(task)
        self._rng = rng
        self._whims: dict[str, float] = {}  # receptacle -> factor on how promising it looks
        self._contents: dict[str, list[str]] = {}  # receptacle -> what was last seen in it
        self._closed: set[str] = set()
        self._held: str | None = None
        self._treated: set[str] = set()
        self._unfit: set[str] = set()  # things that turned out not to serve the task
        self._refused: set[tuple[str, str]] = set()  # (thing, receptacle) where it could not be put

    def act(self, observation: str, admissible: Sequence[str]) -> str:
        """The next command.

        Args:
            observation: the game's last text; call this once for each text, the first included.
            admissible: the commands the game would accept now.

        Returns:
            One of `admissible`; "look" if there is nothing left to do.
        """
        return self.advise(observation, admissible).action

    def advise(self, observation: str, admissible: Sequence[str]) -> Advice:
        """As `act`, with what the command is for."""
        offered = _read_commands(tuple(admissible))
        commands = offered.commands
        self._observe(observation, offered)
        here = [name for name in self._whims if f"examine {name}" in commands]
        found: Advice | None
        if self._held is None:
            found = self._fetch(commands, here) or self._search(self.wish.object_type, commands, here)
        elif type_of(self._held) == self.wish.object_type and self._held not in self._unfit:
            found = self._deliver(self._held, commands, here) or self._put_away(self._held, commands, here)
        else:
            found = self._put_away(self._held, commands, here)
        return found or Advice("look", "rest")

    def has_seen(self, receptacle: str) -> bool:
        """Whether a text told what is in or on this receptacle."""
        return receptacle in self._contents

    def _observe(self, observation: str, offered: _Offered) -> None:
        for name in offered.receptacles:
            self._meet(name)
        if offered.held is not None:
            self._held = offered.held
        news = read_observation(observation)
        for receptacle, things in news.seen.items():
            self._contents[receptacle] = list(things)
            self._closed.discard(receptacle)
        self._closed.update(news.closed)
        if news.taken:
            self._held, receptacle = news.taken
            if self._held in self._contents.get(receptacle, ()):
                self._contents[receptacle].remove(self._held)
        if news.put:
            self._held, (thing, receptacle) = None, news.put
            self._contents.setdefault(receptacle, []).append(thing)
        if news.treated and news.treated[0] == self.wish.verb:
            self._treated.add(news.treated[1])

    def _meet(self, receptacle: str) -> None:
        if receptacle not in self._whims:
            self._whims[receptacle] = 0.75 + 0.5 * self._rng.random()

    def _known(self) -> list[tuple[str, str]]:
        """(receptacle, wanted thing seen there), but for where things are already where they belong."""
        settled = self._target(None) if self.wish.count > 1 else None
        return [
            (receptacle, thing)
            for receptacle, things in self._contents.items()
            if receptacle != settled
            for thing in things
            if type_of(thing) == self.wish.object_type and thing not in self._unfit
        ]

    def _fetch(self, commands: frozenset[str], here: list[str]) -> Advice | None:
        """Get a wanted thing whose place is known."""
        for receptacle, thing in sorted(self._known(), key=lambda pair: pair[0] not in here):
            if f"take {thing} from {receptacle}" in commands:
                return Advice(f"take {thing} from {receptacle}", "take", thing, receptacle)
            if receptacle not in here or f"open {receptacle}" in commands:
                return self._approach(receptacle, commands, here, "fetch", thing)
        return None

    def _deliver(self, thing: str, commands: frozenset[str], here: list[str]) -> Advice | None:
        """Do what is still to be done with the wanted thing in the hands."""
        wish = self.wish
        if wish.task_type == "look_at_obj_in_light":
            return self._light(commands, here)
        if wish.verb and thing not in self._treated:
            appliance = APPLIANCE[wish.task_type].lower()
            options = [name for name in self._whims if type_of(name) == appliance]
            for name in options:
                if f"{wish.verb} {thing} with {name}" in commands:
                    return Advice(f"{wish.verb} {thing} with {name}", "treat", thing, name)
            if not any(name in here for name in options):
                return self._approach(options[0], commands, here, "bring", thing) if options else None
            self._unfit.add(thing)  # the appliance is here and does not take it
            return None
        target = self._target(here)
        if target is None:
            return None
        command = _placing(thing, target, commands)
        if command:
            return Advice(command, "put", thing, target)
        if target not in here or f"open {target}" in commands:
            return self._approach(target, commands, here, "bring", thing)
        self._unfit.add(thing)  # the target is here and open and does not take it
        return None

    def _light(self, commands: frozenset[str], here: list[str]) -> Advice | None:
        """Bring the thing to a lamp and turn that on."""
        lamps = [
            (receptacle, thing)
            for receptacle, things in self._contents.items()
            for thing in things
            if type_of(thing) == self.wish.target_type
        ]
        for receptacle, lamp in lamps:
            if receptacle in here and f"use {lamp}" in commands:
                return Advice(f"use {lamp}", "light", lamp, receptacle)
        if lamps:
            return self._approach(lamps[0][0], commands, here, "fetch", lamps[0][1])
        return self._search(self.wish.target_type, commands, here)

    def _target(self, here: list[str] | None) -> str | None:
        """The receptacle to put things in: where wanted things are already, else here, else one that is open."""

        def merit(receptacle: str) -> tuple[int, bool, bool, float]:
            inside = sum(type_of(thing) == self.wish.object_type for thing in self._contents.get(receptacle, ()))
            return (inside, receptacle in (here or ()), receptacle in self._contents, self._whims[receptacle])

        options = [name for name in self._whims if type_of(name) == self.wish.target_type]
        return max(options, key=merit, default=None)

    def _search(self, type_: str, commands: frozenset[str], here: list[str]) -> Advice | None:
        """Look somewhere new for a thing of this type."""
        unseen = [name for name in self._whims if name not in self._contents]
        for name in unseen:
            if name in here:
                action = f"open {name}" if f"open {name}" in commands else f"examine {name}"
                return Advice(action, "search", place=name)
        wanted = TYPE_NAMES.get(type_, type_)

        def promise(receptacle: str) -> float:
            kind = TYPE_NAMES.get(type_of(receptacle), "")
            # What is in its target already needs no fetching. Unlikely places still come before giving up.
            pointless = type_of(receptacle) == self.wish.target_type and self.wish.verb is None
            chance = 0.01 if pointless else max(likelihood(kind, wanted), 0.01)
            return chance * self._whims[receptacle] / (2 if kind in OPENABLE else 1)

        return self._approach(max(unseen, key=promise), commands, here, "search", "") if unseen else None

    def _put_away(self, thing: str, commands: frozenset[str], here: list[str]) -> Advice | None:
        """Empty the hands: here if possible, else where such a thing fits."""
        for name in here:
            command = _placing(thing, name, commands)
            if command:
                in_sight = any(receptacle in here for receptacle, _ in self._known())
                return Advice(command, "free" if in_sight else "tidy", thing, name)
        for name in here:
            if f"open {name}" in commands:
                return Advice(f"open {name}", "tidy", thing, name)
        self._refused.update((thing, name) for name in here)
        options = [name for name in self._whims if (thing, name) not in self._refused]
        kind = TYPE_NAMES.get(type_of(thing), "")

        def merit(receptacle: str) -> tuple[bool, bool]:
            return (likelihood(TYPE_NAMES.get(type_of(receptacle), ""), kind) > 0, receptacle not in self._closed)

        return self._approach(max(options, key=merit), commands, here, "tidy", thing) if options else None

    def _approach(
        self, receptacle: str, commands: frozenset[str], here: list[str], purpose: Purpose, thing: str
    ) -> Advice | None:
        """One step towards having the receptacle open before oneself."""
        if receptacle in here:
            action = f"open {receptacle}" if f"open {receptacle}" in commands else f"examine {receptacle}"
            return Advice(action, purpose, thing, receptacle)
        action = f"go to {receptacle}"
        return Advice(action, purpose, thing, receptacle) if action in commands else None


def _placing(thing: str, receptacle: str, commands: frozenset[str]) -> str | None:
    for command in (f"move {thing} to {receptacle}", f"put {thing} in/on {receptacle}"):
        if command in commands:
            return command
    return None


def demonstrate(engine: Engine, rng: random.Random, *, max_steps: int = 50) -> list[tuple[str, str]]:
    """Play the engine's game from its start with a searching expert.

    Args:
        engine: reset and left in the state the episode ends in; `engine.won` says how it went.
        rng: see `SearchingExpert`.
        max_steps: give up after so many commands.

    Returns:
        The episode as (observation, command answered to it) pairs.

    Raises:
        ValueError: the task is not worded like a template.
    """
    observation = engine.reset()
    expert = SearchingExpert(engine.game.problem.task, rng)
    episode: list[tuple[str, str]] = []
    while not engine.won and len(episode) < max_steps:
        command = expert.act(observation, engine.admissible_commands())
        episode.append((observation, command))
        observation = engine.step(command)
    return episode
