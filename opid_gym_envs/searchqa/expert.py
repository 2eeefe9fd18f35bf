"""The expert: finds the passages that a question takes, one after the other, and then answers.

It knows the accepted answers and which passages tell them (`Question.supports`); what it searches for is what somebody
would who reasons from the question and from what was found so far (`Question.queries`), so its games can be imitated.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from opid_gym_envs.searchqa.questions import Question


def next_action(question: Question, searches: Collection[str], seen: Collection[str], turns_left: int = 4) -> str:
    """What to do next.

    Args:
        question: the question; one whose passages are not known is searched for as it is, once.
        searches: queries so far.
        seen: ids of the passages shown so far.
        turns_left: turns left, this one included; the last one is for the answer.
    """
    queries: Sequence[Sequence[str]] = question.queries or ((question.text,),)
    supports: Sequence[str | None] = question.supports or (None,) * len(queries)
    for support, ways in zip(supports, queries, strict=True):
        untried = [query for query in ways if query not in searches]
        if support not in seen and untried and turns_left > 1:
            return f"search[{untried[0]}]"
    return f"answer[{question.answers[0]}]"
