"""Looking back at an episode: what each step achieved, read off its text alone.

Nothing here asks the game. What a trajectory says (task, commands, answers) is what any learner may use, so
credit given by these records is never privileged. Works for both generations of wording.
"""

from __future__ import annotations

from opid_gym.hindsight import StepProgress
from opid_gym.trajectory import Trajectory
from opid_gym_envs.alfworld.reading import Reading, Wish, read_observation, read_task, type_of

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
"""Everything `StepProgress.reached` can hold here. Which of them a task has depends on its type; all have the last."""

_DONE = {"clean": "cleaned the target", "heat": "heated the target", "cool": "cooled the target"}
_OPPOSITE = {"heat": "cool", "cool": "heat"}


def hindsight(trajectory: Trajectory) -> list[StepProgress]:
    """What each step of an episode achieved.

    A step changes the state if the agent moved or anything else is different after it. It is wasted if
    nothing is, and the answer tells
    nothing that was not known: "Nothing happens.", a second look, examining what lies open to the eye,
        heating
    what is hot. Sub-goals count once, in the step that first reaches them.

    Args:
        trajectory: a finished episode of an ALFWorld game. If its task is not worded like a template (human
            annotations are not), the only sub-goal told is "won".

    Returns:
        One record for each step, in order; `reached` holds words of `SUBGOALS`.
    """
    memory = _Memory(_wish_of(trajectory))
    progress = []
    for number, step in enumerate(trajectory.steps):
        if number == 0:
            memory.texts.add(step.observation)
        won = trajectory.success and number == len(trajectory.steps) - 1
        progress.append(memory.judge(step.action.strip(), step.next_observation, won))
    return progress


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

    def judge(self, action: str, answer: str, won: bool) -> StepProgress:
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
        return StepProgress(changed, fresh, wasted=not (changed or told or fresh) or news.nothing_happened)

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
