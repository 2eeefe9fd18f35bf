"""Concrete actions to choose among, in any world, for agents that choose and do not write.

Where the world lists its actions these are the candidates. Where actions, or parts of them, are free text, candidates
are made from what the agent has read, by rules that know the command forms of the bundled worlds and nothing of the
answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CANDIDATES = 24

# A listed action with a part to fill in: search[<query>], answer[...].
_BLANK = re.compile(r"^(\w+)\[(?:<.*>|\.\.\.)?\]$")
# Amazon's product numbers.
_PRODUCT = re.compile(r"^click\[([a-z0-9]{10})\]$")
_NAME = re.compile(r"\b(?:[A-Z][\w'’.-]*\w|\d[\d,.]*\d)(?:(?: of| and| the)? (?:[A-Z][\w'’.-]*\w|\d[\d,.]*\d))*")
_WORD = re.compile(r"[\w'-]+")
# Words that say little about what is looked for.
_FILLER = frozenset(
    re.findall(
        r"\w+",
        """
        a an and are as at be below buy by can do does dollars find for from get give has have how i in is it its less
        like looking lower me my name need of on one or please price some than that the their then there this to under
        want was were what when where which who whose will with would you
        """,
    )
)


def candidates(observation: str, info: Mapping[str, Any]) -> list[str]:
    """Actions to choose among, at least one; see the module.

    In worlds that ask questions, answers come first as soon as something was read that is not in the question.

    >>> candidates("You are in a hall.", {"task": "leave", "admissible_actions": ("go north", "look")})
    ['go north', 'look']
    >>> info = {"task": "What is the capital of Kenya?", "admissible_actions": None}
    >>> for action in candidates('1. "Kenya" The capital is Nairobi, a city.', info):
    ...     print(action)
    answer[Nairobi]
    answer[Kenya]
    search[What is the capital of Kenya?]
    search[capital Kenya]
    search[Kenya]
    """
    listed: Sequence[str] | None = info["admissible_actions"]
    if listed is None:
        new, old = _answers(observation, info["task"])
        searches = _searches(info["task"])
        return [*new, *old, *searches][:MAX_CANDIDATES] if new else [*searches, *old][:MAX_CANDIDATES]
    if not any(action.endswith("]") for action in listed):
        return list(listed)
    made: list[str] = []
    for action in listed:
        blank = _BLANK.match(action)
        if blank is None:
            made.append(action)
        elif blank[1] == "search":
            made += _searches(info["task"])
        else:
            made += [f"{blank[1]}[{text}]" for text in _phrases(observation)]
    return made


def describe(observation: str, action: str) -> str:
    """What an action means: clicking a product's number is clicking what the page says beside it.

    >>> describe("Back [SEP] B08XF6YVY0 [SEP] Red Shoe [SEP] $9.5", "click[b08xf6yvy0]")
    'click Red Shoe $9.5'
    >>> describe("Back [SEP] B08XF6YVY0 [SEP] Red Shoe [SEP] $9.5", "click[back]")
    'click[back]'
    """
    number = _PRODUCT.match(action)
    if number is None:
        return action
    fields = observation.split(" [SEP] ")
    beside = [i for i, text in enumerate(fields) if text.lower() == number[1]]
    return " ".join(["click", *fields[beside[0] + 1 : beside[0] + 3]]) if beside else action


def _searches(task: str) -> list[str]:
    keywords = " ".join(word for word in _WORD.findall(task) if word.lower() not in _FILLER)
    names = [name for name in _phrases(task) if name.split()[0].lower() not in _FILLER]
    queries = [" ".join(task.split()), keywords, *names]
    return [f"search[{query}]" for query in dict.fromkeys(queries) if query]


def _answers(observation: str, task: str) -> tuple[list[str], list[str]]:
    """Names and numbers in what was read: those the question does not have, and those it has."""
    asked = task.lower()
    new: list[str] = []
    old: list[str] = []
    for name in _phrases(observation):
        (old if name.lower() in asked else new).append(f"answer[{name}]")
    # Room is left for the searches.
    return new[: MAX_CANDIDATES * 2 // 3], old


def _phrases(text: str) -> list[str]:
    found = (match[0].removeprefix("The ") for match in _NAME.finditer(text))
    return list(dict.fromkeys(name for name in found if name.lower() not in _FILLER))
