"""Looking back at an episode: what each turn achieved and what would have been better, read off its text alone.

Which passages a question takes is known for some data sets, and is not used here: it is not in the text, and credit
given by it would be privileged. What the text does tell is which passages a search showed for the first time, which of
them hold the answer that was then paid for, and which a later search took up.
"""

from __future__ import annotations

import re
from dataclasses import replace

from opid_gym.trajectory import StepHindsight, Trajectory
from opid_gym_envs.searchqa.excerpts import content_words, sentences, shared_words
from opid_gym_envs.searchqa.retrievers.words import STOP_WORDS
from opid_gym_envs.searchqa.scoring import normalise
from opid_gym_envs.searchqa.turns import Action, Misunderstood, read_action, read_passages

# Where a value ends: at a remark, a second item, a measure after a name, or the full stop.
_VALUE_END = re.compile(r"\s*(?:\(|;|\[|, (?!\d)| and |\.$)| -?\d[\d,.]*(?:%| k?m\b)")

_PART = re.compile("[,:]")  # a field's name ends, or the name of one of its parts begins

SUBGOALS = ("found the subject", "found a lead", "found the answer", "won")
"""Everything `StepHindsight.reached` can hold here."""


def hindsight(trajectory: Trajectory) -> list[StepHindsight]:
    """What each turn of an episode achieved, and what would have been better.

    - A search changes the state if it shows a passage for the first time. One that shows none is wasted: it repeats an
      earlier one or finds nothing. So is a turn that was not understood.
    - *found the subject*: an article is shown whose title the question names.
    - *found a lead*: a word is first shown that the question does not have and a later search has.
    - *found the answer*: in an episode that was won, the answer is first shown. A lost episode does not tell what the
      answer would have been.
    - *won*: the answer was right.

    Better was:

    - to answer, where the answer that was paid for in the end had been shown before and yet another search was made
      (the one advice that needs what came later);
    - to search for what a passage shown leads to: the article's title with the question's words that no query has used.
      Said of an answer that was not paid for and stands in no passage shown, of a search that repeats an earlier one,
      and of a turn that was not understood.

    - to answer with what was shown, where a sentence "FIELD: VALUE" has more of the question's words than any other
      field and the answer given is not in it: its value. Of the articles that the question names, where any is shown.
      Not told where the question offers the answer that was given (is it this or that?), or once a search went on to
      another article, for then the words left to match are few.

    All are decisive, but for the search instead of another search.

    Args:
        trajectory: a finished episode of search QA.

    Returns:
        One record for each step, in order; `reached` holds words of `SUBGOALS`, each once.
    """
    said = [read_action(step.action) for step in trajectory.steps]
    reader = _Reader(trajectory.task)
    queries = [_words(action) for action in said]
    question = normalise(trajectory.task)
    last = said[-1] if said else None
    right = last.text if trajectory.success and isinstance(last, Action) else ""
    answer = normalise(right)
    shown: set[tuple[str, str]] = set()
    known = set(question.split())  # words seen or said so far
    reached: set[str] = set()
    progress = []
    if trajectory.steps:  # level 1 shows a passage with the question
        first = set(read_passages(trajectory.steps[0].observation.partition("\n")[2]))
        reader.read(first, frozenset())
        shown |= first
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
        record = StepHindsight(useful, new, wasted=not useful)
        paid = step.reward > 0 or trajectory.success
        progress.append(reader.judge(action, record, paid=paid, answer=right if answer else ""))
        reader.read(passages, queries[number])
        shown |= passages
        known |= words
        reached.update(new)
    return progress


def workflow(trajectory: Trajectory) -> list[str]:
    """The searches that brought a right answer nearer, and answering; [] of an episode without any such search."""
    told = hindsight(trajectory)
    said = [read_action(step.action) for step in trajectory.steps]
    searches = [
        f"search {action.text}"
        for action, record in zip(said, told, strict=True)
        if isinstance(action, Action) and action.kind == "search" and record.reached
    ]
    return [*searches, "answer from what was found"] if searches else []


class _Reader:
    """What has been shown and asked so far, and where it leads."""

    def __init__(self, question: str) -> None:
        self.question = normalise(question)
        self.unused = dict.fromkeys(word for word in normalise(question).split() if word not in STOP_WORDS)
        self.words = frozenset(self.unused)
        self.asked = content_words(question)
        self.texts: list[str] = []
        self.sentences: list[tuple[str, str]] = []  # subject of the article, sentence
        self.titles: dict[str, int] = {}  # subject of an article -> words of the question in its passages
        self.queries: set[frozenset[str]] = set()

    def read(self, passages: set[tuple[str, str]], query: frozenset[str]) -> None:
        """Take in what a turn asked and what it was shown."""
        for title, text in sorted(passages):
            normal = normalise(f"{title} {text}")
            self.texts.append(normal)
            subject = title.partition(":")[0].strip()
            self.sentences += [(subject, sentence) for sentence in sentences(text)]
            shared = len(self.words.intersection(normal.split()))
            self.titles[subject] = max(shared, self.titles.get(subject, 0))
        for word in query:
            self.unused.pop(word, None)
        if query:
            self.queries.add(query)

    def judge(self, action: Action | Misunderstood, record: StepHindsight, *, paid: bool, answer: str) -> StepHindsight:
        """A turn's record with what would have been better; `answer` is what was paid for in the end, or ""."""
        lead = self._lead()
        if isinstance(action, Misunderstood):
            return replace(record, better=lead, reason=f"This was not understood: {action.reason}.")
        if action.kind == "answer":
            told = self._told()
            given = normalise(action.text)
            offered = " or " in self.question and f" {given} " in f" {self.question} "
            if not paid and told and not offered and f" {given} " not in f" {normalise(told[0])} ":
                reason = "The sentence with most of the question's words says something else."
                return replace(record, better=f"answer[{told[1]}]", decisive=True, reason=reason)
            if paid or self._shows(action.text):
                return record
            reason = "No passage that was shown has this answer."
            return replace(record, better=lead, decisive=lead is not None, reason=reason)
        if answer and self._shows(answer):
            return replace(
                record,
                better=f"answer[{answer}]",
                decisive=True,
                reason="The answer had been shown in a passage before.",
            )
        if _words(action) in self.queries:
            return replace(record, better=lead, reason="This repeats an earlier search.")
        return replace(record, reason="This search showed nothing new.") if record.wasted else record

    def _shows(self, text: str) -> bool:
        normal = normalise(text)
        return bool(normal) and any(f" {normal} " in f" {shown} " for shown in self.texts)

    def _told(self) -> tuple[str, str] | None:
        """The sentence "FIELD: VALUE" that has most of the question's words, and its value.

        None unless one field has more of them than all others. Where it has several parts, such as "Median age, total"
        and "Median age, male", the first is what was asked for. The value ends where a remark or the second of a list
        begins.
        """
        named = {subject for subject in self.titles if self._names(subject)}
        if any(
            frozenset(normalise(title).split()) <= query for title in {*self.titles} - named for query in self.queries
        ):
            return None
        fields = [
            sentence
            for subject, sentence in self.sentences
            if ": " in sentence and "note" not in sentence.partition(": ")[0] and (subject in named or not named)
        ]
        scores = [shared_words(sentence, self.asked) for sentence in fields]
        best = [field for field, score in zip(fields, scores, strict=True) if score == max(scores)]
        if not best or max(scores) < 1 or len({_PART.split(field)[0] for field in best}) > 1:
            return None
        sentence = best[0]
        value = sentence.partition(": ")[2]
        end = _VALUE_END.search(value)
        value = (value[: end.start()] if end else value).strip(' "')
        return (sentence, value) if content_words(value) - self.asked else None  # what the question names is no answer

    def _names(self, subject: str) -> bool:
        """Whether the question names an article."""
        return f" {normalise(subject)} " in f" {self.question} "

    def _lead(self) -> str | None:
        """A search for the question's unused words, in the article that has most of its other words."""
        if not self.unused:
            return None
        subject = max(self.titles, key=lambda title: self.titles[title], default="")
        query = " ".join([subject, *(word for word in self.unused if word not in normalise(subject).split())]).strip()
        words = frozenset(normalise(query).split()) - STOP_WORDS
        return None if words in self.queries or not words else f"search[{query}]"


def _words(action: Action | Misunderstood) -> frozenset[str]:
    """The words of a query that mean something; none of anything else."""
    if not isinstance(action, Action) or action.kind != "search":
        return frozenset()
    return frozenset(normalise(action.text).split()) - STOP_WORDS
