"""Looking back at a visit: what each step achieved, read off the text of the episode alone.

Nothing here asks the shop or the goal. Which product the shopper was after is known only if one was bought in the end;
what was wanted of its options is read from the instruction. Works on the observations of ``text`` and ``text_rich``.
"""

from __future__ import annotations

import json
import re

from opid_gym.hindsight import StepProgress
from opid_gym.trajectory import Trajectory
from opid_gym_envs.webshop.pages import BUY, PREVIOUS, SEPARATOR
from opid_gym_envs.webshop.session import NEVER_OPTIONS, read_action

SUBGOALS = ("found the product", "opened the product", "chose an option", "chose all options", "bought", "won")
"""Everything `StepProgress.reached` can hold. The first two are about the product bought in the end, the options are
those bought with it that the instruction names."""

_MARK = re.compile(r"\s*\[(?:clicked )?button\] (.*) \[(?:clicked )?button_\]")
_RESULTS = re.compile(r"Page -?\d+ \(Total results: \d+\)")
_THANKS = "Thank you for shopping with us!"


def hindsight(trajectory: Trajectory) -> list[StepProgress]:
    """What each step of a visit achieved.

    A step changes the state if it leads to another page, or chooses an option anew (which text mode does not show).
    It is wasted otherwise: whatever the shop does not understand, and clicks on what is chosen already.

    Args:
        trajectory: a finished episode of the shop.

    Returns:
        One record for each step, in order; `reached` holds words of `SUBGOALS`, each in the step that first reaches it.
    """
    bought, options = _purchase(trajectory)
    wanted = {value for value in options if value in trajectory.task.lower()}
    chosen: set[str] = set()  # values chosen since the page of results
    known: set[str] = set()
    progress = []
    for number, step in enumerate(trajectory.steps):
        before, after = _pieces(step.observation), _pieces(step.next_observation)
        name, argument = read_action(step.action)
        argument = argument.lower()
        reached = []
        changed = step.next_observation != step.observation
        if _is_item(before) and _is_item(after) and name == "click" and argument not in NEVER_OPTIONS:
            if argument in (piece.lower() for piece in before) and argument not in chosen:
                changed = True
                chosen.add(argument)
        elif _is_results(after):
            chosen.clear()
            if bought and bought in after:
                reached.append("found the product")
        elif bought and _is_item(after) and argument == bought.lower():
            reached.append("opened the product")
        if chosen & wanted and ("opened the product" in known):
            reached.append("chose an option")
            if chosen >= wanted:
                reached.append("chose all options")
        if number == len(trajectory.steps) - 1 and bought:
            reached += ["bought", "won"] if trajectory.success else ["bought"]
        fresh = tuple(goal for goal in reached if goal not in known)
        known.update(fresh)
        progress.append(StepProgress(changed, fresh, wasted=not changed))
    return progress


def _pieces(observation: str) -> list[str]:
    if SEPARATOR in observation:
        return observation.split(SEPARATOR)
    lines = observation.split("\n")
    return [mark.group(1) if (mark := _MARK.fullmatch(line)) else line for line in lines]


def _is_results(pieces: list[str]) -> bool:
    return any(_RESULTS.fullmatch(piece) for piece in pieces[:6])


def _is_item(pieces: list[str]) -> bool:
    return BUY in pieces and PREVIOUS in pieces


def _purchase(trajectory: Trajectory) -> tuple[str, list[str]]:
    """Id and options of the product bought; "" and none if nothing was."""
    pieces = _pieces(trajectory.steps[-1].next_observation) if trajectory.steps else []
    if not pieces or pieces[0] != _THANKS or "asin" not in pieces or "options" not in pieces:
        return "", []
    return pieces[pieces.index("asin") + 1], list(json.loads(pieces[pieces.index("options") + 1]).values())
