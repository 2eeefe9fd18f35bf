"""What a successful episode did that mattered, without its detours, in words that fit other rooms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.alfworld.reading import read_observation, without_numbers

_COMMAND = re.compile(
    r"(?P<verb>go to|[a-z]+)(?:\s+(?P<target>\S.*?)(?:\s+(?P<link>from|with|to|in/on)\s+(?P<place>\S.*))?)?"
)
_LOOKING = ("look", "inventory", "examine", "help")


@dataclass(frozen=True, slots=True)
class _Command:
    """``take mug 1 from desk 1`` is verb ``take``, target ``mug 1``, link ``from``, place ``desk 1``."""

    text: str
    verb: str
    target: str | None
    link: str | None
    place: str | None

    @property
    def handles(self) -> bool:
        """Something is done to the target; neither moving, looking nor opening."""
        return self.verb not in ("go to", "open", "close", *_LOOKING)

    @property
    def takes(self) -> bool:
        return self.link == "from"

    @property
    def puts(self) -> bool:
        return self.link in ("to", "in/on")


@dataclass(frozen=True, slots=True)
class _Act:
    command: _Command
    way: _Command | None  # the move that led to where it was done
    opening: str | None  # the command that had opened the place it takes from or puts into


def workflow(trajectory: Trajectory, *, keep_numbers: bool = False) -> list[str]:
    """What a successful episode did that mattered, in order.

    Kept are the last effective command, and going backwards from it every command on something that a kept command or
    the task names; what was undone again is dropped. Each is preceded by the way to its place, and by opening that
    place if that had been needed.

    Args:
        trajectory: a successful one; of a failed one the result says what its last command needed.
        keep_numbers: the very commands, which solve this game again. False: kinds of things instead of instances in
            few words, so that they fit other rooms ("go to shelf", "take mug").

    Returns:
        The phrases; [] if no command had an effect.
    """
    commands = [command for step in trajectory.steps if _had_effect(step) and (command := _read(step.action))]
    if not commands:
        return []
    return _phrases(_without_reversals(_relevant(_located(commands), _words(trajectory.task))), keep_numbers)


def _read(action: str) -> _Command | None:
    text = " ".join(action.lower().split())
    match = _COMMAND.fullmatch(text)
    return _Command(text, match["verb"], match["target"], match["link"], match["place"]) if match else None


def _had_effect(step: Step) -> bool:
    """Whether a command did anything; examining a thing may show something new and counts, looking around does not."""
    if not step.valid or read_observation(step.next_observation).nothing_happened:
        return False
    if step.next_observation == step.observation:
        return False
    command = _read(step.action)
    return command is None or command.verb not in _LOOKING or command.target is not None


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower()))


def _located(commands: Sequence[_Command]) -> list[_Act]:
    acts: list[_Act] = []
    way: _Command | None = None
    opened: dict[str, str] = {}
    for index, command in enumerate(commands):
        is_last = index == len(commands) - 1
        if command.handles or is_last:
            opening = opened.get(command.place or "") if command.takes or command.puts else None
            acts.append(_Act(command, way if command.verb != "go to" else None, opening))
        elif command.verb == "go to":
            way = command
        elif command.verb == "open" and command.target:
            opened[command.target] = command.text
        elif command.verb == "close":
            opened.pop(command.target or "", None)
    return acts


def _relevant(acts: Sequence[_Act], words: frozenset[str]) -> list[_Act]:
    kept: list[_Act] = []
    needed: set[str] = set()
    for act in reversed(acts):
        target = act.command.target or ""
        if not kept or target in needed or _words(without_numbers(target)) & words:
            kept.append(act)
            needed.update(thing for thing in (target, act.command.place) if thing)
    return kept[::-1]


def _without_reversals(acts: list[_Act]) -> list[_Act]:
    """Drop neighbours on one thing that cancel out or repeat; the last act stays.

    Neighbours that cancel out are take and put back, and put and take again.
    """
    acts = list(acts)
    changed = True
    while changed:
        changed = False
        for second in range(1, len(acts)):
            b = acts[second].command
            first = max((i for i in range(second) if acts[i].command.target == b.target), default=None)
            if first is None:
                continue
            a = acts[first].command
            cancels = a.place == b.place and ((a.takes and b.puts) or (a.puts and b.takes)) and second < len(acts) - 1
            if cancels or a.text == b.text:
                acts = [act for i, act in enumerate(acts) if i != first and not (cancels and i == second)]
                changed = True
                break
    return acts


def _phrases(acts: Sequence[_Act], keep_numbers: bool) -> list[str]:
    phrases: list[str] = []
    way: _Command | None = None
    opened: set[str] = set()
    for act in acts:
        command = act.command
        if act.way and act.way != way:
            phrases.append(act.way.text)
            way = act.way
        if act.opening and act.opening not in opened:
            phrases.append(act.opening)
            opened.add(act.opening)
        here = way is not None and command.place is not None and command.place == way.target
        phrases.append(f"{command.verb} {command.target}" if here and not keep_numbers else command.text)
    return phrases if keep_numbers else [without_numbers(phrase) for phrase in phrases]
