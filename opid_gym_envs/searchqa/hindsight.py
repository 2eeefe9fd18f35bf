"""Looking back at an episode: what each turn achieved, read off its text alone.

Which passages a question takes is known for some data sets, and is not used here: it is not in the text, and credit
given by it would be privileged. What the text does tell is which passages a search showed for the first time, which of
them hold the answer that was then paid for, and which a later search took up.
"""

from __future__ import annotations

from opid_gym.hindsight import StepProgress
from opid_gym.trajectory import Trajectory
from opid_gym_envs.searchqa.retrievers.words import STOP_WORDS
from opid_gym_envs.searchqa.scoring import normalise
from opid_gym_envs.searchqa.turns import Action, Misunderstood, read_action, read_passages

SUBGOALS = ("found the subject", "found a lead", "found the answer", "won")
"""Everything `StepProgress.reached` can hold here."""


def hindsight(trajectory: Trajectory) -> list[StepProgress]:
    """What each turn of an episode achieved.

    - A search changes the state if it shows a passage for the first time. One that shows none is wasted: it repeats an
      earlier one or finds nothing. So is a turn that was not understood.
    - *found the subject*: an article is shown whose title the question names.
    - *found a lead*: a word is first shown that the question does not have and a later search has.
    - *found the answer*: in an episode that was won, the answer is first shown. A lost episode does not tell what the
      answer would have been.
    - *won*: the answer was right.

    Args:
        trajectory: a finished episode of search QA.

    Returns:
        One record for each step, in order; `reached` holds words of `SUBGOALS`, each once.
    """
    said = [read_action(step.action) for step in trajectory.steps]
    queries = [_words(action) for action in said]
    question = normalise(trajectory.task)
    last = said[-1] if said else None
    answer = normalise(last.text) if trajectory.success and isinstance(last, Action) else ""
    shown: set[tuple[str, str]] = set()
    known = set(question.split())  # words seen or said so far
    reached: set[str] = set()
    progress = []
    for number, (step, action) in enumerate(zip(trajectory.steps, said, strict=True)):
        goals = []
        kind = action.kind if isinstance(action, Action) else None
        passages = set(read_passages(step.next_observation)) - shown if kind == "search" else set()
        known |= queries[number]
        texts = [normalise(f"{title} {text}") for title, text in passages]
        words = {word for text in texts for word in text.split()} - known
        if any(f" {normalise(title.partition(':')[0])} " in f" {question} " for title, _ in passages):
            goals.append("found the subject")
        if any(words & later for later in queries[number + 1 :]):
            goals.append("found a lead")
        if answer and any(f" {answer} " in f" {text} " for text in texts):
            goals.append("found the answer")
        if trajectory.success and number == len(said) - 1:
            goals.append("won")
        new = tuple(goal for goal in goals if goal not in reached)
        useful = bool(passages) or kind == "answer"
        progress.append(StepProgress(useful, new, wasted=not useful))
        shown |= passages
        known |= words
        reached.update(new)
    return progress


def _words(action: Action | Misunderstood) -> frozenset[str]:
    """The words of a query that mean something; none of anything else."""
    if not isinstance(action, Action) or action.kind != "search":
        return frozenset()
    return frozenset(normalise(action.text).split()) - STOP_WORDS
