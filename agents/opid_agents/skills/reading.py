"""Reading a trajectory of a text world: which steps changed something, which states came back, what an action
is about.

Only the trajectory's own text is used. The few words known about commands (what moves, what only looks) fit
household games and most interactive fiction; a command that is not understood is simply kept whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opid_gym.trajectory import Step, Trajectory

MOVING = ("go to", "go", "walk to", "walk", "enter", "approach")
LOOKING = ("look at", "look", "inventory", "examine", "help", "read")
OPENING = ("open", "close")
_TWO_WORDS = (
    "go to",
    "walk to",
    "look at",
    "turn on",
    "turn off",
    "switch on",
    "switch off",
    "pick up",
    "put down",
)
_COMMAND = re.compile(
    rf"(?P<verb>{'|'.join(_TWO_WORDS)}|[a-z]+)"
    r"(?:\s+(?P<target>\S.*?)(?:\s+(?P<link>from|with|into|onto|in/on|to|in|on|under)\s+(?P<place>\S.*))?)?"
)
_REFUSALS = ("nothing happens", "nothing happened", "not understood")
_NUMBER = re.compile(r"\s+\d+\b")


@dataclass(frozen=True, slots=True)
class Command:
    """An action taken apart: ``take mug 1 from desk 1`` is verb ``take``, target ``mug 1``, link ``from``,
    place ``desk 1``.

    `kind` is ``move``, ``look``, ``open`` (or close), or ``act`` for everything else.
    """

    text: str
    verb: str
    target: str | None = None
    link: str | None = None
    place: str | None = None

    @property
    def kind(self) -> Literal["move", "look", "open", "act"]:
        if self.verb in MOVING:
            return "move"
        if self.verb in LOOKING:
            return "look"
        return "open" if self.verb in OPENING else "act"

    @property
    def takes(self) -> bool:
        """The target leaves its place for the hand."""
        return self.link == "from"

    @property
    def puts(self) -> bool:
        """The target leaves the hand for a place."""
        return self.kind == "act" and self.link in ("to", "in", "on", "in/on", "into", "onto")


def read_command(action: str) -> Command | None:
    """Take an action apart; None where it does not read as ``verb [target [link place]]``.

    >>> read_command("heat egg 2 with microwave 1").place
    'microwave 1'
    >>> read_command("click[buy now]") is None
    True
    """
    text = " ".join(action.lower().split())
    match = _COMMAND.fullmatch(text)
    return Command(text, match["verb"], match["target"], match["link"], match["place"]) if match else None


def without_number(text: str) -> str:
    """``cabinet 12`` -> ``cabinet``; the kind of thing instead of the instance."""
    return _NUMBER.sub("", text)


def task_words(task: str) -> frozenset[str]:
    """The words of an instruction, lower-cased."""
    return frozenset(re.findall(r"[a-z]+", task.lower()))


def had_effect(step: Step) -> bool:
    """Whether the action did anything: False if it was unreadable or refused, if the screen stayed exactly as it
    was, or if it only looked around (``look``, ``inventory``; ``examine mug 1`` may show something new)."""
    if not step.valid or step.next_observation.strip().lower().startswith(_REFUSALS):
        return False
    if step.next_observation == step.observation or not is_admissible(step, step.action):
        return False
    command = read_command(step.action)
    return command is None or command.kind != "look" or command.target is not None


def is_admissible(step: Step, action: str) -> bool:
    """Whether the world would have accepted `action` at this step; True where that is not known."""
    if step.admissible_actions is None or action in step.admissible_actions:
        return True
    wanted = _normal(action)
    return any(_normal(allowed) == wanted for allowed in step.admissible_actions)


def same_action(a: str, b: str) -> bool:
    """Equal but for case and spaces."""
    return _normal(a) == _normal(b)


def state_names(trajectory: Trajectory) -> list[str]:
    """A name for the state each action was chosen in: the anchor, else the observation.

    After an action without effect the state is still the one before, whatever the screen says: "Nothing
    happens." names no state.
    """
    names: list[str] = []
    for index, step in enumerate(trajectory.steps):
        if index and not had_effect(trajectory.steps[index - 1]):
            names.append(names[-1])
        else:
            names.append(step.anchor or step.observation)
    return names


def untried_moves(trajectory: Trajectory, limit: int) -> list[str]:
    """Moves the world offered that were never made, in the order they were offered first."""
    made = {_normal(step.action) for step in trajectory.steps}
    offered: dict[str, None] = {}
    for step in trajectory.steps:
        offered.update(dict.fromkeys(step.admissible_actions or ()))
    moves = (action for action in offered if (command := read_command(action)) and command.kind == "move")
    return [action for action in moves if _normal(action) not in made][:limit]


def workflow(trajectory: Trajectory, *, keep_numbers: bool = False) -> list[str]:
    """What a successful trajectory did that mattered, in order, without its detours.

    Kept are the last effective action, and going backwards from it every action on something that a kept
    action or the task names; what was undone again is dropped. Each is preceded by the way to its place, and
    by opening that place if that had been needed. Actions that do not read as household commands are all
    kept, except between two visits of one state.

    Args:
        trajectory: a successful one; of a failed one the result says what its last action needed.
        keep_numbers: False: kinds of things in few words, so that the plan fits other instances ("go to
            shelf", "take mug"). True: the very actions.

    Returns:
        The phrases; [] if no action had an effect.
    """
    effective = [step for step in trajectory.steps if had_effect(step)]
    if not effective:
        return []
    commands = [read_command(step.action) for step in effective]
    if commands[-1] is None or commands[-1].target is None:
        return _without_loops(trajectory)
    acts = _located_acts([command for command in commands if command])
    return _plan(_without_reversals(_relevant(acts, task_words(trajectory.task))), keep_numbers)


@dataclass(frozen=True, slots=True)
class _Act:
    command: Command
    way: Command | None  # the move that led to where it was done
    opening: str | None  # the action that had opened the place it takes from or puts into


def _located_acts(commands: Sequence[Command]) -> list[_Act]:
    acts: list[_Act] = []
    way: Command | None = None
    opened: dict[str, str] = {}
    for index, command in enumerate(commands):
        is_goal = index == len(commands) - 1
        if command.kind == "act" or is_goal:
            opening = opened.get(command.place or "") if command.takes or command.puts else None
            acts.append(_Act(command, way if command.kind != "move" else None, opening))
        elif command.kind == "move":
            way = command
        elif command.kind == "open" and command.target:
            if command.verb == "open":
                opened[command.target] = command.text
            else:
                opened.pop(command.target, None)
    return acts


def _relevant(acts: Sequence[_Act], words: frozenset[str]) -> list[_Act]:
    kept: list[_Act] = []
    needed: set[str] = set()
    for act in reversed(acts):
        target = act.command.target or ""
        if not kept or target in needed or task_words(without_number(target)) & words:
            kept.append(act)
            needed.update(thing for thing in (target, act.command.place) if thing)
    return kept[::-1]


def _without_reversals(acts: list[_Act]) -> list[_Act]:
    """Drop neighbours on one thing that cancel out (take and put back, put and take again) or repeat; the
    last action stays."""
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


def _plan(acts: Sequence[_Act], keep_numbers: bool) -> list[str]:
    phrases: list[str] = []
    way: Command | None = None
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
    return phrases if keep_numbers else [without_number(phrase) for phrase in phrases]


def _without_loops(trajectory: Trajectory) -> list[str]:
    path: list[tuple[str, str]] = []
    for name, step in zip(state_names(trajectory), trajectory.steps, strict=True):
        seen = next((i for i, (state, _) in enumerate(path) if state == name), None)
        if seen is not None:
            del path[seen:]
        if had_effect(step):
            # Whole: in an action that is not understood a number may mean anything ("click[size 10]").
            path.append((name, step.action.strip()))
    return [action for _, action in path]


def _normal(action: str) -> str:
    return " ".join(action.lower().split())
