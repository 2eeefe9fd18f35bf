"""An expert that knows no more than the player: it reads, searches where things usually are, and never
cheats.

Its choices depend on the text alone, so a policy that reads the same text can imitate them; demonstrations by
a planner that knows what is in every drawer (`opid_gym_envs.alfworld.expert.solve`) walk straight to things
nobody has seen yet, which cannot be learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from opid_gym_envs.alfworld.catalogue import APPLIANCE, CAN_CONTAIN, OPENABLE, TYPE_NAMES, likelihood
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.reading import Wish, read_observation, read_task, type_of

_RECEPTACLE_TYPES = frozenset(name.lower() for name in CAN_CONTAIN)


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
        commands = set(admissible)
        self._observe(observation, admissible)
        here = [name for name in self._whims if f"examine {name}" in commands]
        if self._held is None:
            return self._fetch(commands, here) or self._search(self.wish.object_type, commands, here) or "look"
        if type_of(self._held) == self.wish.object_type and self._held not in self._unfit:
            return self._deliver(self._held, commands, here) or self._put_away(self._held, commands, here) or "look"
        return self._put_away(self._held, commands, here) or "look"

    def _observe(self, observation: str, admissible: Sequence[str]) -> None:
        for command in admissible:
            verb, _, name = command.partition(" ")
            if command.startswith("go to "):
                self._meet(command.removeprefix("go to "))
            elif verb == "examine" and type_of(name) in _RECEPTACLE_TYPES:
                self._meet(name)
            elif verb == "examine":  # of things, only the one in the hands can be examined
                self._held = name
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

    def _fetch(self, commands: set[str], here: list[str]) -> str | None:
        """Get a wanted thing whose place is known."""
        settled = self._target(None) if self.wish.count > 1 else None
        known = [
            (receptacle, thing)
            for receptacle, things in self._contents.items()
            if receptacle != settled
            for thing in things
            if type_of(thing) == self.wish.object_type and thing not in self._unfit
        ]
        for receptacle, thing in sorted(known, key=lambda pair: pair[0] not in here):
            if f"take {thing} from {receptacle}" in commands:
                return f"take {thing} from {receptacle}"
            if receptacle not in here or f"open {receptacle}" in commands:
                return self._approach(receptacle, commands, here)
        return None

    def _deliver(self, thing: str, commands: set[str], here: list[str]) -> str | None:
        """Do what is still to be done with the wanted thing in the hands."""
        wish = self.wish
        if wish.task_type == "look_at_obj_in_light":
            return self._light(commands, here)
        if wish.verb and thing not in self._treated:
            appliance = APPLIANCE[wish.task_type].lower()
            options = [name for name in self._whims if type_of(name) == appliance]
            for name in options:
                if f"{wish.verb} {thing} with {name}" in commands:
                    return f"{wish.verb} {thing} with {name}"
            if not any(name in here for name in options):
                return self._approach(options[0], commands, here) if options else None
            self._unfit.add(thing)  # the appliance is here and does not take it
            return None
        target = self._target(here)
        if target is None:
            return None
        command = _placing(thing, target, commands)
        if command or target not in here or f"open {target}" in commands:
            return command or self._approach(target, commands, here)
        self._unfit.add(thing)  # the target is here and open and does not take it
        return None

    def _light(self, commands: set[str], here: list[str]) -> str | None:
        """Bring the thing to a lamp and turn that on."""
        lamps = [
            (receptacle, thing)
            for receptacle, things in self._contents.items()
            for thing in things
            if type_of(thing) == self.wish.target_type
        ]
        for receptacle, lamp in lamps:
            if receptacle in here and f"use {lamp}" in commands:
                return f"use {lamp}"
        if lamps:
            return self._approach(lamps[0][0], commands, here)
        return self._search(self.wish.target_type, commands, here)

    def _target(self, here: list[str] | None) -> str | None:
        """The receptacle to put things in: where wanted things are already, else here, else one that is open."""

        def merit(receptacle: str) -> tuple[int, bool, bool, float]:
            inside = sum(type_of(thing) == self.wish.object_type for thing in self._contents.get(receptacle, ()))
            return (inside, receptacle in (here or ()), receptacle in self._contents, self._whims[receptacle])

        options = [name for name in self._whims if type_of(name) == self.wish.target_type]
        return max(options, key=merit, default=None)

    def _search(self, type_: str, commands: set[str], here: list[str]) -> str | None:
        """Look somewhere new for a thing of this type."""
        unseen = [name for name in self._whims if name not in self._contents]
        for name in unseen:
            if name in here:
                return f"open {name}" if f"open {name}" in commands else f"examine {name}"
        wanted = TYPE_NAMES.get(type_, type_)

        def promise(receptacle: str) -> float:
            kind = TYPE_NAMES.get(type_of(receptacle), "")
            # What is in its target already needs no fetching. Unlikely places still come before giving up.
            pointless = type_of(receptacle) == self.wish.target_type and self.wish.verb is None
            chance = 0.01 if pointless else max(likelihood(kind, wanted), 0.01)
            return chance * self._whims[receptacle] / (2 if kind in OPENABLE else 1)

        return self._approach(max(unseen, key=promise), commands, here) if unseen else None

    def _put_away(self, thing: str, commands: set[str], here: list[str]) -> str | None:
        """Empty the hands: here if possible, else where such a thing fits."""
        for name in here:
            command = _placing(thing, name, commands)
            if command:
                return command
        for name in here:
            if f"open {name}" in commands:
                return f"open {name}"
        self._refused.update((thing, name) for name in here)
        options = [name for name in self._whims if (thing, name) not in self._refused]
        kind = TYPE_NAMES.get(type_of(thing), "")

        def merit(receptacle: str) -> tuple[bool, bool]:
            return (likelihood(TYPE_NAMES.get(type_of(receptacle), ""), kind) > 0, receptacle not in self._closed)

        return self._approach(max(options, key=merit), commands, here) if options else None

    def _approach(self, receptacle: str, commands: set[str], here: list[str]) -> str | None:
        """One step towards having the receptacle open before oneself."""
        if receptacle in here:
            return f"open {receptacle}" if f"open {receptacle}" in commands else f"examine {receptacle}"
        return f"go to {receptacle}" if f"go to {receptacle}" in commands else None


def _placing(thing: str, receptacle: str, commands: set[str]) -> str | None:
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
