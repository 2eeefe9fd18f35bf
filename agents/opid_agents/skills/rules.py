"""Rules of a task type: what the successes of several tasks have in common.

The workflow of one success is full of facts about one instance: the key lay under the mat, the colour was red. What
successes of *different* tasks of the same type did alike is what the type takes. So a phrase becomes part of the rule
if most of the solved tasks have it, after the words that the task itself names were replaced: "take key" of a task
about a key and "take coin" of one about a coin are the same step, "go to mat" is luck.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import fsum

from opid_gym.trajectory import Trajectory

_WORD = re.compile(r"[^\W_]+")


def common_rules(successes: Sequence[Trajectory], *, wanted: str = "it") -> dict[str, tuple[str, ...]]:
    """The rule of each task type that several tasks were solved of.

    A phrase belongs to it if at least half of the solved tasks have it; of a task that was solved several times, each
    success counts as a part of one. Phrases stand in the order of their mean place.

    Args:
        successes: episodes that succeeded, of any tasks, with their workflows.
        wanted: stands for the words that a task itself names; see `without_own_words`.

    Returns:
        Phrases by task type; a type of which fewer than two tasks were solved has none, nor has one whose tasks have
        nothing in common.

    >>> won = [Trajectory(f"task {thing}", "pick", f"take some {thing}") for thing in ("key", "coin")]
    >>> won[0].workflow, won[1].workflow = ("go to mat", "take key"), ("take coin",)
    >>> common_rules(won)
    {'pick': ('take it',)}
    """
    tasks: defaultdict[str, defaultdict[str, list[Trajectory]]] = defaultdict(lambda: defaultdict(list))
    for trajectory in successes:
        if trajectory.workflow:
            tasks[trajectory.task_type][trajectory.task_id].append(trajectory)
    rules = {name: _common(list(of_type.values()), wanted) for name, of_type in sorted(tasks.items())}
    return {name: rule for name, rule in rules.items() if rule}


def without_own_words(phrase: str, task: str, wanted: str) -> str:
    """A phrase without the words at its end that the task names; its first word stays.

    >>> without_own_words("take key", "hang some key on hook", "it")
    'take it'
    >>> without_own_words("take from mat", "hang some key on hook", "it")
    'take from mat'
    """
    own = {_stem(word) for word in _WORD.findall(task.lower())}
    words = list(_WORD.finditer(phrase))
    kept = len(words)
    while kept > 1 and _stem(words[kept - 1].group().lower()) in own:
        kept -= 1
    return phrase if kept == len(words) else f"{phrase[: words[kept - 1].end()]} {wanted}"


def _common(tasks: Sequence[Sequence[Trajectory]], wanted: str) -> tuple[str, ...]:
    """What most of some tasks have in common, given the successes of each."""
    if len(tasks) < 2:
        return ()
    # A phrase may come twice, as where two things are to be taken: each time is counted for itself.
    share: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    places: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for successes in tasks:
        for trajectory in successes:
            for phrase, place in _phrases(trajectory, wanted).items():
                share[phrase].append(1 / len(successes))
                places[phrase].append(place)
    common = [phrase for phrase, parts in share.items() if 2 * fsum(parts) >= len(tasks) and fsum(parts) > 1]
    common.sort(key=lambda phrase: (fsum(places[phrase]) / len(places[phrase]), phrase))
    return tuple(phrase for phrase, _ in common)


def _phrases(trajectory: Trajectory, wanted: str) -> Mapping[tuple[str, int], float]:
    """(phrase, how many times before) -> its place, from 0 to 1."""
    seen: Counter[str] = Counter()
    found = {}
    workflow = trajectory.workflow or ()
    for number, phrase in enumerate(workflow):
        general = without_own_words(phrase, trajectory.task, wanted)
        found[general, seen[general]] = number / len(workflow)
        seen[general] += 1
    return found


def _stem(word: str) -> str:
    return word.rstrip("s")
