"""Search QA as a `World`: which questions there are, and answering many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from opid_gym.env import MAX_OBSERVATION_CHARACTERS
from opid_gym.hindsight import StepProgress
from opid_gym.trajectory import Trajectory
from opid_gym.world import Task, Turn, World
from opid_gym_envs.searchqa.cutting import make_cut
from opid_gym_envs.searchqa.expert import next_action
from opid_gym_envs.searchqa.factbook import load_factbook
from opid_gym_envs.searchqa.hindsight import hindsight
from opid_gym_envs.searchqa.questions import Question, find_questions, read_questions
from opid_gym_envs.searchqa.retrievers import Hit, Retriever, make_retriever
from opid_gym_envs.searchqa.scoring import contains_answer, exact_match, f1, format_reward
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


class SearchQA(World):
    """Questions to answer by searching.

    The observation is the question, then what each search found (see `opid_gym_envs.searchqa.turns`). Answering ends
    the episode and pays; everything else pays nothing, and an episode that runs out of turns ends with nothing. A turn
    that is not understood counts as one and is answered with what is wrong. ``won`` is an exact match, whatever the
    reward. All queries of a batch of games go to the retriever in one call.

    Args:
        dataset: ``"factbook"`` (embedded), or a file or folder of questions (see `questions.read_questions`).
        split: of the factbook ``train``, ``dev`` or ``test``, of a folder the file of that name; None: ``train``.
        corpus: passages to search: a file (see `opid_gym_envs.searchqa.corpus`), an index folder, or a list of
            `Passage`. None: the factbook's.
        retriever: a name of `opid_gym_envs.searchqa.retrievers.ENGINES`, the address of a search server (which has a
            corpus of its own), or a `Retriever`.
        topk: passages that a search returns.
        reward: a name of `REWARDS`.
        max_observation_characters: what is shown of the passages of one search; None: everything.
        max_observation_tokens: the same in tokens (Search-R1: 500); None: everything.
        tokenizer: what a token is (see `opid_gym_envs.searchqa.cutting`). None: words and punctuation marks.
        max_query_characters: longer queries are refused.
        bad_rows: of a file of questions: ``"error"``, or ``"skip"`` to leave them out.
        sources: play only questions of these data sets; None: all.

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
    ) -> None:
        if reward not in REWARDS:
            raise ValueError(f"reward must be one of {sorted(REWARDS)}, got {reward!r}")
        _check_positive("topk", topk)
        _check_positive("max_query_characters", max_query_characters)
        if max_observation_characters is not None:
            _check_positive("max_observation_characters", max_observation_characters)
        if max_observation_tokens is not None:
            _check_positive("max_observation_tokens", max_observation_tokens)
        questions, corpus = _load(dataset, split, corpus, retriever, bad_rows)
        self._questions = {question.id: question for question in _of_sources(questions, sources)}
        self.task_ids = tuple(self._questions)
        self.topk = topk
        self.max_query_characters = max_query_characters
        self._reward = REWARDS[reward]
        self._cut = make_cut(_ROOM, max_observation_characters, max_observation_tokens, tokenizer)
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
            self._games[slot] = Game(question)
            begun.append((Task(task_id, question.source, question.text), Turn(question.text)))
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

    def hindsight(self, trajectory: Trajectory) -> list[StepProgress]:
        """See `opid_gym_envs.searchqa.hindsight`."""
        return hindsight(trajectory)

    def close(self) -> None:
        """Close the retriever, unless it was given ready-made."""
        if self._owned:
            self.retriever.close()

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
            observation = show_passages(passages, self._cut)
            game.turns.append(f"{OPENING}{CLOSING}")
            game.retrieved.append(observation)
            game.searches.append(action.text)
            game.seen.update(passage.id for passage in passages)
            return Turn(observation, extras={"passage_ids": tuple(passage.id for passage in passages)})
        game.answer = action.text
        return Turn(
            ANSWERED,
            reward=self._reward(game),
            terminated=True,
            won=exact_match(action.text, game.question.answers),
            extras={"accepted_answers": game.question.answers},
        )


def _load(
    dataset: str | Path, split: str | None, corpus: Any, retriever: str | Retriever, bad_rows: str
) -> tuple[tuple[Question, ...], Any]:
    """The questions, and the corpus for a retriever that needs one."""
    searchable = corpus is not None or not isinstance(retriever, str) or "://" in retriever
    if dataset == FACTBOOK:
        book = load_factbook()
        return book.questions(split or "train"), corpus if searchable else book.corpus
    if not searchable:
        raise ValueError(
            f"dataset={str(dataset)!r} needs corpus=FILE to search, or a retriever that has one (the address of a "
            "search server, or a Retriever)"
        )
    questions = read_questions(find_questions(dataset, split), bad_rows=bad_rows).questions
    if not questions:
        raise ValueError(f"dataset={str(dataset)!r} holds no questions")
    return questions, corpus


def _of_sources(questions: Sequence[Question], sources: Sequence[str] | None) -> Sequence[Question]:
    if sources is None:
        return questions
    known = sorted({question.source for question in questions})
    unknown = sorted(set(sources) - set(known))
    if unknown or not sources:
        raise ValueError(f"sources must be among {known}, got {list(sources)}")
    return [question for question in questions if question.source in sources]


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
