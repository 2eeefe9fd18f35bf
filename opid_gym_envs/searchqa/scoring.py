"""Scores of an answer against the accepted ones, as Search-R1 (arXiv 2503.09516) and SQuAD compute them.

All functions are pure. Only text that the *agent* wrote may be given to them: what a search returned is never scored
(the environment sees to that).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, white space squeezed.

    >>> normalise("The  U.S. dollar!")
    'us dollar'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer is an accepted one, both normalised.

    >>> exact_match("Nairobi.", ["Mombasa", "Nairobi"]), exact_match("It is Nairobi", ["Nairobi"])
    (True, False)
    """
    normal = normalise(answer)
    return any(normalise(gold) == normal for gold in accepted)


def contains_answer(text: str, accepted: Sequence[str]) -> bool:
    """Whether an accepted answer stands anywhere in the text, both normalised ("sub-EM").

    As in Search-R1 it may be part of a longer word. An accepted answer with nothing left after normalising ("A") would
    stand in every text; here it is found nowhere.

    >>> contains_answer("It is Nairobi", ["Nairobi"])
    True
    """
    normal = normalise(text)
    return any(gold in normal for gold in map(normalise, accepted) if gold)


def f1(answer: str, accepted: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall against the best accepted answer (SQuAD, arXiv 1606.05250).

    >>> round(f1("the city of Nairobi", ["Nairobi"]), 3)
    0.5
    """
    return max((_f1(normalise(answer).split(), normalise(gold).split()) for gold in accepted), default=0.0)


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))


@dataclass(frozen=True, slots=True)
class FormatWeights:
    """What form is worth; the defaults are those of Search-R1's runs with a format reward (arXiv 2505.15117).

    Attributes:
        structure: a flawless sequence of turns with a wrong answer gets this, and a correct answer loses it where the
            sequence has flaws.
        retrieval: added to `structure` where a search returned an accepted answer.
        final: a flawed sequence with a wrong answer.
    """

    structure: float = 0.2
    retrieval: float = 0.0
    final: float = 0.1


def format_reward(
    transcript: str,
    answer: str | None,
    accepted: Sequence[str],
    retrieved: Sequence[str] = (),
    weights: FormatWeights = FormatWeights(),
    *,
    reasoning: bool = True,
) -> float:
    """Exact match, with a share for the form of the whole episode: Search-R1's format-aware reward.

    Args:
        transcript: all turns of the agent and the ``<information>`` between them, for `is_well_formed`.
        answer: what the agent answered; None if it never did, which is worth 0.
        accepted: the accepted answers.
        retrieved: the texts that searches returned; only `weights.retrieval` depends on them.
        weights: see `FormatWeights`.
        reasoning: see `is_well_formed`.

    >>> text = "<think>easy</think><answer>Rome</answer>"
    >>> format_reward(text, "Rome", ["Rome"]), format_reward(text, "Rome", ["Paris"])
    (1.0, 0.2)
    >>> format_reward("<answer>Rome</answer>", "Rome", ["Rome"])
    0.8
    """
    if answer is None:
        return 0.0
    well_formed = is_well_formed(transcript, reasoning=reasoning)
    if exact_match(answer, accepted):
        return 1.0 if well_formed else 1.0 - weights.structure
    if not well_formed:
        return weights.final
    found = any(contains_answer(text, accepted) for text in retrieved)
    return weights.structure + (weights.retrieval if found else 0.0)


_TAG = re.compile(r"<(/?)(think|search|information|answer)>")
# One letter a tag, capitals open; a dot is text. The whole episode must have this shape.
_WITH_REASONING = re.compile(r"(T\.?tS\.?sI\.?i)*T\.?tA\.?a")
_WITHOUT_REASONING = re.compile(r"(S\.?sI\.?i)*A\.?a")


def is_well_formed(transcript: str, *, reasoning: bool = True) -> bool:
    """Whether an episode is thought, search, information, ..., thought, answer, and nothing but white space between.

    Args:
        transcript: the agent's turns and the information between them, without a prompt.
        reasoning: each turn begins with ``<think>...</think>``; False: no turn does (agents whose reasoning is cut
            away before the environment sees it).

    >>> is_well_formed("<think>a</think><search>b</search> <information>c</information><think/><answer>d</answer>")
    False
    >>> is_well_formed("<think>a</think> <answer>d</answer>")
    True
    >>> is_well_formed("<think>a</think>Let me see <answer>d</answer>")
    False
    """
    shape = ""
    position = 0
    for tag in _TAG.finditer(transcript):
        shape += "." if transcript[position : tag.start()].strip() else ""
        letter = tag.group(2)[0]
        shape += letter if tag.group(1) else letter.upper()
        position = tag.end()
    shape += "." if transcript[position:].strip() else ""
    return (_WITH_REASONING if reasoning else _WITHOUT_REASONING).fullmatch(shape) is not None
