"""Search QA as a `World`: which questions there are, and answering many of them at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from opid_gym.spaces import MAX_OBSERVATION_CHARACTERS
from opid_gym.trajectory import StepHindsight, Trajectory
from opid_gym.world import Task, Turn, World
from opid_gym_envs.searchqa.corpus import Passage, read_corpus
from opid_gym_envs.searchqa.cutting import make_cut
from opid_gym_envs.searchqa.excerpts import excerpt
from opid_gym_envs.searchqa.expert import next_action
from opid_gym_envs.searchqa.factbook import load_factbook
from opid_gym_envs.searchqa.hindsight import hindsight, workflow
from opid_gym_envs.searchqa.questions import Question, QuestionFile, read_questions
from opid_gym_envs.searchqa.retrievers import Hit, Retriever, is_address, make_retriever
from opid_gym_envs.searchqa.scoring import contains_answer, exact_match, f1, format_reward, normalise
from opid_gym_envs.searchqa.turns import (
    CLOSING,
    HOW_TO,
    OPENING,
    Action,
    Misunderstood,
    correction,
    in_tags,
    read_action,
    show_passages,
)

FACTBOOK = "factbook"
ANSWERED = "You have answered."

# An observation has room for this much between its tags, whatever a corpus holds.
_ROOM = MAX_OBSERVATION_CHARACTERS - len(OPENING) - len(CLOSING)


@dataclass(slots=True)
class Game:
    """One question being answered.

    Attributes:
        question: which.
        turns: what was said, for the score of its form.
        retrieved: the answers to the searches.
        seen: ids of all passages shown so far.
        searches: queries so far.
        reasoned: some turn came with its reasoning.
        answer: what the agent answered.
        played: turns so far.
    """

    question: Question
    turns: list[str] = field(default_factory=list)
    retrieved: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    searches: list[str] = field(default_factory=list)
    reasoned: bool = False
    answer: str | None = None
    played: int = 0


Reward = Callable[[Game], float]


def _format_reward(game: Game) -> float:
    return format_reward(
        "".join(game.turns), game.answer, game.question.answers, game.retrieved, reasoning=game.reasoned
    )


REWARDS: Mapping[str, Reward] = {
    "em": lambda game: float(exact_match(game.answer or "", game.question.answers)),
    "sub_em": lambda game: float(contains_answer(game.answer or "", game.question.answers)),
    "f1": lambda game: f1(game.answer or "", game.question.answers),
    "em_format": _format_reward,
}
"""What an answer pays, by name; see `opid_gym_envs.searchqa.scoring`."""


LEVELS: Mapping[int, tuple[int, bool]] = {1: (1, True), 2: (1, False), 3: (2, False)}
"""Levels of difficulty: how many facts a question takes, and whether they are told with the question.

1. One fact, told in a passage that stands in the first observation: reading.
2. One fact, to be searched for.
3. Two facts, each to be searched for: one leads to the other, or they are compared.
"""


class SearchQA(World):
    """Questions to answer by searching a corpus of passages.

    The observation is the question, then what each search found (see `opid_gym_envs.searchqa.turns`). Answering ends
    the episode and pays; everything else pays nothing, and an episode that runs out of turns ends with nothing. A turn
    that is not understood counts as one and is answered with what is wrong. ``won`` is an exact match, whatever the
    reward. All queries of a batch of games go to the retriever in one call.

    Args:
        dataset: ``"factbook"`` (embedded), or a file or folder of questions (see `questions.read_questions`).
        split: of the factbook ``train``, ``dev`` or ``test``, of a folder the files called after it; None: ``train``.
        corpus: passages to search: a file or folder (see `opid_gym_envs.searchqa.corpus`), an index folder, or a list
            of `Passage`. None: the factbook's.
        retriever: a name of `opid_gym_envs.searchqa.retrievers.ENGINES`, the address of a search server (which has a
            corpus of its own), or a `Retriever`.
        topk: number of passages that a search returns.
        reward: a name of `REWARDS`.
        max_observation_characters: maximum characters shown of the passages of one search; None: no limit.
        max_observation_tokens: the same in tokens (Search-R1: 500); None: no limit.
        tokenizer: what a token is (see `opid_gym_envs.searchqa.cutting`). None: words and punctuation marks.
        max_query_characters: maximum characters of a query; longer ones are refused.
        bad_rows: of a file of questions: ``"error"``, or ``"skip"`` to leave them out with a warning.
        sources: play only questions of these data sets; None: all.
        level: play only questions of this level (`LEVELS`), of those whose passages are known; None: all questions.
        excerpt_characters: show of each passage only the part of this length that a query asks about (see
            `opid_gym_envs.searchqa.excerpts`); None: the passage from its beginning.

    Attributes:
        source: ``"generated"`` (the factbook's questions), ``"official"`` (published sets, each of them whole) or
            ``"given"`` (any other file).
        data: the file or folder of the questions; None for the factbook.
        skipped: how many rows of it were left out.

    Raises:
        ValueError: an argument is not allowed, or the files hold no question; the message names it.
        FileNotFoundError: there is no such file.
    """

    default_max_episode_steps: ClassVar[int] = 4
    action_help: ClassVar[str] = HOW_TO

    def __init__(
        self,
        dataset: str | Path = FACTBOOK,
        split: str | None = None,
        corpus: Any = None,
        retriever: str | Retriever = "bm25",
        topk: int = 3,
        reward: str = "em",
        max_observation_characters: int | None = None,
        max_observation_tokens: int | None = None,
        tokenizer: Any = None,
        max_query_characters: int = 1_000,
        bad_rows: str = "error",
        sources: Sequence[str] | None = None,
        level: int | None = None,
        excerpt_characters: int | None = None,
    ) -> None:
        if reward not in REWARDS:
            raise ValueError(f"reward must be one of {sorted(REWARDS)}, got {reward!r}")
        _check_positive("topk", topk)
        _check_positive("max_query_characters", max_query_characters)
        if max_observation_characters is not None:
            _check_positive("max_observation_characters", max_observation_characters)
        if max_observation_tokens is not None:
            _check_positive("max_observation_tokens", max_observation_tokens)
        if excerpt_characters is not None:
            _check_positive("excerpt_characters", excerpt_characters)
        if level is not None and level not in LEVELS:
            raise ValueError(f"level must be one of {list(LEVELS)}, got {level!r}")
        read, corpus = _load(dataset, split, corpus, retriever, bad_rows)
        self.source = "generated" if dataset == FACTBOOK else "official" if read.whole else "given"
        self.data = None if dataset == FACTBOOK else str(dataset)
        self.skipped = read.skipped
        if read.skipped:
            warnings.warn(f"{dataset}: {read.skipped:,} rows are not questions and were left out", stacklevel=2)
        questions = _of_sources(read.questions, sources)
        self._excerpt_characters = excerpt_characters
        self._at_hand: dict[str, str] = {}  # question -> passages in its first observation
        self.topk = topk
        self.max_query_characters = max_query_characters
        self._reward = reward
        self._cut = make_cut(_ROOM, max_observation_characters, max_observation_tokens, tokenizer)
        if level is not None:
            questions = self._of_level(questions, level, corpus)
        self._questions = {question.id: question for question in questions}
        self.task_ids = tuple(self._questions)
        self._owned = isinstance(retriever, str)
        self.retriever = make_retriever(retriever, corpus=corpus)
        self._games: dict[int, Game] = {}

    def question(self, task_id: str) -> Question:
        """The question behind a task id, with its accepted answers.

        Raises:
            KeyError: there is none of that id.
        """
        if task_id not in self._questions:
            count, first = len(self.task_ids), self.task_ids[0]
            raise KeyError(f"unknown task id {task_id!r}; this world has {count}, the first is {first!r}")
        return self._questions[task_id]

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """See `World.start`."""
        begun = []
        for slot, task_id in zip(slots, task_ids, strict=True):
            question = self.question(task_id)
            observation = self._at_hand.get(task_id)
            self._games[slot] = Game(question, seen=set() if observation is None else {question.supports[0]})
            first = question.text if observation is None else f"{question.text}\n{observation}"
            begun.append((Task(task_id, question.source, question.text), Turn(first)))
        return begun

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """See `World.step`.

        Raises:
            opid_gym_envs.searchqa.retrievers.RetrieverError: a search could not be done; no game has changed.
        """
        read = [self._read(action) for action in actions]
        queries = dict.fromkeys(
            action.text for action in read if isinstance(action, Action) and action.kind == "search"
        )
        found: dict[str, list[Hit]] = {}
        if queries:
            found = dict(zip(queries, self.retriever.search(list(queries), self.topk), strict=True))
        return [
            self._turn(self._games[slot], said, action, found)
            for slot, said, action in zip(slots, actions, read, strict=True)
        ]

    def expert_actions(self, slots: Sequence[int]) -> list[str]:
        """See `opid_gym_envs.searchqa.expert`."""
        games = [self._games[slot] for slot in slots]
        turns = self.default_max_episode_steps
        return [next_action(game.question, game.searches, game.seen, turns - game.played) for game in games]

    def hindsight(self, trajectory: Trajectory) -> list[StepHindsight]:
        """See `opid_gym_envs.searchqa.hindsight`."""
        return hindsight(trajectory)

    def workflow(self, trajectory: Trajectory) -> list[str]:
        """See `opid_gym_envs.searchqa.hindsight.workflow`."""
        return workflow(trajectory) if trajectory.success else []

    def close(self) -> None:
        """Close the retriever, unless it was given ready-made."""
        if self._owned:
            self.retriever.close()

    def _show(self, passages: Sequence[Passage], query: str) -> str:
        if self._excerpt_characters is not None:
            length = self._excerpt_characters
            passages = [replace(p, text=excerpt(p.text, query, length, title=p.title)) for p in passages]
        return show_passages(passages, self._cut)

    def _of_level(self, questions: Sequence[Question], level: int, corpus: Any) -> list[Question]:
        """The questions of a level; those of level 1 get the passage that they are shown."""
        hops, shown = LEVELS[level]
        chosen = [q for q in questions if (len(q.supports) == 1 if hops == 1 else len(q.supports) > 1)]
        if shown and chosen:
            needed = {question.supports[0] for question in chosen}
            found = {passage.id: passage for passage in _passages(corpus) if passage.id in needed}
            for question in chosen:
                if (passage := found.get(question.supports[0])) is not None:
                    query = question.queries[0][0] if question.queries else question.text
                    observation = self._show([passage], query)
                    if f" {normalise(question.answers[0])} " in f" {normalise(observation)} ":
                        self._at_hand[question.id] = observation
            chosen = [question for question in chosen if question.id in self._at_hand]
        if not chosen:
            raise ValueError(
                f"there are no questions of level {level}: it takes questions whose passages are known, and level 1 "
                "also a corpus= with these passages"
            )
        return chosen

    def _read(self, said: str) -> Action | Misunderstood:
        action = read_action(said)
        if isinstance(action, Action) and action.kind == "search" and len(action.text) > self.max_query_characters:
            return Misunderstood(
                f"the query has {len(action.text)} characters, at most {self.max_query_characters} are allowed"
            )
        return action

    def _turn(self, game: Game, said: str, action: Action | Misunderstood, found: Mapping[str, list[Hit]]) -> Turn:
        game.played += 1
        if isinstance(action, Misunderstood):
            game.turns.append(action.reason)  # stands outside of all tags, so the form is lost
            return Turn(correction(action.reason))
        game.turns.append(in_tags(said))
        game.reasoned |= said.lstrip().startswith("<think>")
        if action.kind == "search":
            passages = [hit.passage for hit in found[action.text]]
            observation = self._show(passages, action.text)
            game.turns.append(f"{OPENING}{CLOSING}")
            game.retrieved.append(observation)
            game.searches.append(action.text)
            game.seen.update(passage.id for passage in passages)
            return Turn(observation, extras={"passage_ids": tuple(passage.id for passage in passages)})
        game.answer = action.text
        return Turn(
            ANSWERED,
            reward=REWARDS[self._reward](game),
            terminated=True,
            won=exact_match(action.text, game.question.answers),
            extras={"accepted_answers": game.question.answers},
        )


def _load(
    dataset: str | Path, split: str | None, corpus: Any, retriever: str | Retriever, bad_rows: str
) -> tuple[QuestionFile, Any]:
    """The questions, and the corpus for a retriever that needs one."""
    searchable = corpus is not None or not isinstance(retriever, str) or is_address(retriever)
    if dataset == FACTBOOK:
        book = load_factbook()
        return QuestionFile(book.questions(split or "train")), corpus if searchable else book.corpus
    if not searchable:
        raise ValueError(
            f"dataset={str(dataset)!r} needs corpus=FILE to search, or a retriever that has one (the address of a "
            "search server, or a Retriever)"
        )
    read = read_questions(dataset, split, bad_rows=bad_rows)
    if not read.questions:
        left_out = f"; {read.skipped:,} rows are not questions" if read.skipped else ""
        raise ValueError(f"dataset={str(dataset)!r} holds no questions{left_out}")
    return read, corpus


def _of_sources(questions: Sequence[Question], sources: Sequence[str] | None) -> Sequence[Question]:
    if sources is None:
        return questions
    known = sorted({question.source for question in questions})
    unknown = sorted(set(sources) - set(known))
    if unknown or not sources:
        raise ValueError(f"sources must be among {known}, got {list(sources)}")
    return [question for question in questions if question.source in sources]


def _passages(corpus: Any) -> Iterable[Passage]:
    """The passages of a corpus that is a list or a file; none of one that cannot be read here."""
    if isinstance(corpus, str | Path):
        return read_corpus(corpus)
    return corpus if isinstance(corpus, Sequence) else ()


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
