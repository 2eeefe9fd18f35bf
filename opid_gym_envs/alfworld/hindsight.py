"""Looking back at an episode: what each step achieved and what would have been better, read off its text alone.

Nothing here asks the game. What a trajectory says (task, commands, answers) is what any learner may use, so
credit given by these records is never privileged. Works for both generations of wording.

What would have been better is what a reader of the same text (`opid_gym_envs.alfworld.searching.SearchingExpert`) would
have done who followed the episode up to the observation of that step, and no further.
"""

from __future__ import annotations

import random
from dataclasses import replace

from opid_gym.trajectory import Step, StepHindsight, Trajectory
from opid_gym_envs.alfworld.reading import Reading, Wish, read_observation, read_task, type_of, without_numbers
from opid_gym_envs.alfworld.searching import Advice, Purpose, SearchingExpert

SUBGOALS: tuple[str, ...] = (
    "found the target",
    "took the target",
    "cleaned the target",
    "heated the target",
    "cooled the target",
    "found the place",
    "found the lamp",
    "placed one",
    "took the second",
    "placed both",
    "turned on the lamp",
    "won",
)
"""Everything `StepHindsight.reached` can hold here. Which of them a task has depends on its type; all have the last."""

_DONE = {"clean": "cleaned the target", "heat": "heated the target", "cool": "cooled the target"}
_OPPOSITE = {"heat": "cool", "cool": "heat"}

_REASONS: dict[Purpose, str] = {
    "take": "The {thing} is wanted, was in sight and could be taken.",
    "put": "The {thing} was in the hand and could be put where it belongs, {place}.",
    "treat": "The {thing} was in the hand, and {place} was there to {verb} it with.",
    "light": "The {thing} was within reach and could be turned on.",
    "free": "A wanted thing was in sight, but the hand was full: the {thing} could be put down.",
    "fetch": "The {thing} had been seen before, at {place}.",
    "bring": "The {thing} was in the hand and is needed at {place}.",
    "search": "This could tell nothing new, and {place} had not been looked at.",
    "tidy": "The {thing} in the hand is not wanted and could be put away.",
}
_DECISIVE: tuple[Purpose, ...] = ("take", "put", "treat", "light", "free")


def hindsight(trajectory: Trajectory) -> list[StepHindsight]:
    """What each step of an episode achieved, and what would have been better.

    A step changes the state if the agent moved or anything else is different after it. It is wasted if nothing is, and
    the answer tells nothing that was not known: "Nothing happens.", a second look, examining what lies open to the eye,
    heating what is hot. Sub-goals count once, in the step that first reaches them.

    `better` is told where the reader would have done something else and knew why: the wanted thing was in sight or in
    the hand, or its place was known; or the step itself could tell nothing new (a command that is not admissible, a
    place seen before). Where both only searched on, neither is better. It is decisive where the wanted thing itself
    could be handled at once: taken, put where it belongs, cleaned, heated, cooled, looked at under the lamp; also where
    the hand could be freed for a wanted thing in sight. `better` and `decisive` need the record up to the step's
    observation and its action, and nothing after.

    Args:
        trajectory: a finished episode of an ALFWorld game. If its task is not worded like a template (human
            annotations are not), the only sub-goal told is "won" and nothing is told to have been better; neither is it
            at steps whose admissible actions are not known.

    Returns:
        One record for each step, in order; `reached` holds words of `SUBGOALS`.
    """
    wish = _wish_of(trajectory)
    # One order of search for all rollouts of a task.
    reader = SearchingExpert(trajectory.task, random.Random(trajectory.task_id)) if wish else None
    memory = _Memory(wish)
    told = []
    for number, step in enumerate(trajectory.steps):
        if number == 0:
            memory.texts.add(step.observation)
        won = trajectory.success and number == len(trajectory.steps) - 1
        achieved = memory.judge(step.action.strip(), step.next_observation, won)
        if reader is not None and step.admissible_actions is not None:
            achieved = _advised(achieved, step, reader, won)
        if achieved.wasted and not achieved.reason:
            achieved = replace(achieved, reason="This changed nothing and told nothing new.")
        told.append(achieved)
    return told


def _advised(achieved: StepHindsight, step: Step, reader: SearchingExpert, won: bool) -> StepHindsight:
    """A step's record with what the reader would have done, where that was better."""
    advice = reader.advise(step.observation, step.admissible_actions or ())
    action = step.action.strip()
    if won or advice.purpose == "rest" or _as_good(action, advice, reader.wish):
        return achieved
    aimless = advice.purpose in ("search", "tidy")
    if aimless and action in (step.admissible_actions or ()) and _is_promising(action, reader):
        return achieved
    reason = _REASONS[advice.purpose].format(thing=advice.thing, place=advice.place, verb=reader.wish.verb)
    return replace(achieved, better=advice.action, decisive=advice.purpose in _DECISIVE, reason=reason)


def _as_good(action: str, advice: Advice, wish: Wish) -> bool:
    """Whether an action does the same as the advice, with the same thing or another one of its type."""
    if action == advice.action:
        return True
    # The second of two things has to go where the first one is.
    any_place = advice.purpose in ("take", "treat", "bring") or (advice.purpose == "put" and wish.count == 1)
    return any_place and without_numbers(action) == without_numbers(advice.action)


def _is_promising(action: str, reader: SearchingExpert) -> bool:
    """Whether an action looks somewhere new, or frees the hand."""
    if action.startswith("go to "):
        return not reader.has_seen(action.removeprefix("go to "))
    return action.startswith(("open ", "move ", "put "))


def _wish_of(trajectory: Trajectory) -> Wish | None:
    try:
        return read_task(trajectory.task)
    except ValueError:
        return None


class _Memory:
    """What the text so far has told."""

    def __init__(self, wish: Wish | None) -> None:
        self.wish = wish
        self.texts: set[str] = set()  # answers since the state last changed, and those that never change
        self.contents: dict[str, set[str]] = {}
        self.closed: set[str] = set()
        self.marks: set[tuple[str, str]] = set()  # (verb, thing) that holds now
        self.reached: set[str] = set()

    def judge(self, action: str, answer: str, won: bool) -> StepHindsight:
        """Take in one step and say what it was worth."""
        news = read_observation(answer)
        new = answer not in self.texts
        told = self._tells_news(news) or (new and not news.seen and not news.closed and news.carrying is None)
        changed = self._changes(action, news)
        reached = list(self._subgoals(news))
        if changed:
            self.texts.clear()
        self.texts.add(answer)
        if won:
            reached.append("won")
        fresh = tuple(goal for goal in dict.fromkeys(reached) if goal not in self.reached)
        self.reached.update(fresh)
        return StepHindsight(changed, fresh, wasted=not (changed or told or fresh) or news.nothing_happened)

    def _tells_news(self, news: Reading) -> bool:
        return any(self.contents.get(r) != set(things) for r, things in news.seen.items()) or any(
            r not in self.closed for r in news.closed
        )

    def _changes(self, action: str, news: Reading) -> bool:
        """Whether the step changed the world; also brings the memory up to date."""
        if news.nothing_happened:
            return False
        changed = action.startswith(("go to ", "open ", "close "))
        for receptacle, things in news.seen.items():
            self.contents[receptacle] = set(things)
            self.closed.discard(receptacle)
        self.closed.update(news.closed)
        if news.taken or news.put:
            changed = True
            thing, receptacle = news.taken or news.put or ("", "")
            inside = self.contents.setdefault(receptacle, set())
            inside.discard(thing) if news.taken else inside.add(thing)
        mark = (
            news.treated or (news.switched_on and ("use", news.switched_on)) or (news.sliced and ("slice", news.sliced))
        )
        if mark and mark not in self.marks:
            changed = True
            self.marks.add(mark)
            self.marks.discard((_OPPOSITE.get(mark[0], ""), mark[1]))
        return changed

    def _subgoals(self, news: Reading) -> list[str]:
        wish = self.wish
        if wish is None:
            return []
        found = []
        light = wish.task_type == "look_at_obj_in_light"
        for receptacle in (*news.seen, *news.closed):
            if type_of(receptacle) == wish.target_type:
                found.append("found the place")
        for thing in (thing for things in news.seen.values() for thing in things):
            if type_of(thing) == wish.object_type:
                found.append("found the target")
            if light and type_of(thing) == wish.target_type:
                found.append("found the lamp")
        if news.taken and type_of(news.taken[0]) == wish.object_type:
            found.append("took the target")
            if "placed one" in self.reached:
                found.append("took the second")
        if news.treated and news.treated[0] == wish.verb and type_of(news.treated[1]) == wish.object_type:
            found.append(_DONE[wish.verb])
        if light and news.switched_on and type_of(news.switched_on) == wish.target_type:
            found.append("turned on the lamp")
        if wish.count == 2 and news.put and type_of(news.put[0]) == wish.object_type:
            receptacle = news.put[1]
            if type_of(receptacle) == wish.target_type:
                inside = sum(type_of(thing) == wish.object_type for thing in self.contents[receptacle])
                found += ["placed one", "placed both"][: min(inside, 2)]
        return found
