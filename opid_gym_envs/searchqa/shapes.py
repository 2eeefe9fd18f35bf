"""Which keys of a row hold a question, its golden answers, a passage: one table for reading, documentation and errors.

A *place* is a key, or keys joined by dots for values inside values (``reward_model.ground_truth.target``). A text that
holds JSON or a Python list, as cells of CSV do, counts as what it holds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any

from opid_gym.json_text import parse_json

# What Search-R1, and who follows it, write before the question in a prompt.
_PROMPT = re.compile(r".*\bQuestion:\s*(.+?)\s*", re.DOTALL)


def _value_at(place: str) -> Callable[[Any], Any]:
    if place == "prompt":
        return _asked_in_prompt
    keys = place.split(".")
    if len(keys) == 1:
        return methodcaller("get", place)

    def get(row: Any) -> Any:
        value = row.get(keys[0])
        for key in keys[1:]:
            if isinstance(value, str):
                value = _inside(value)
            if isinstance(value, list):
                value = [item.get(key) for item in value if isinstance(item, Mapping)]
            elif isinstance(value, Mapping):
                value = value.get(key)
            else:
                return None
        return value

    return get


def _texts(value: Any) -> list[str] | None:
    """Texts in a value; None if it is neither a text nor a list of texts."""
    if value is None:
        return None
    if isinstance(value, str):
        inside = _inside(value) if value[:1] == "[" else None
        value = inside if isinstance(inside, list) else [value]
    if not isinstance(value, list):
        return None
    for item in value:
        if not isinstance(item, str):
            value = [item for item in value if item is not None]
            return value if value and all(isinstance(item, str) for item in value) else None
    return value


def _inside(text: str) -> Any:
    """What JSON or a Python literal in a text says; None if it is neither."""
    if text[:1] not in ("[", "{"):
        return None
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _asked_in_prompt(row: Any) -> str | None:
    """The question in the last user message of ``prompt``, or in its text."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        prompt = _inside(prompt) or prompt
    if isinstance(prompt, list):
        messages = [message for message in prompt if isinstance(message, Mapping)]
        asked = [message for message in messages if message.get("role") == "user"] or messages
        prompt = asked[-1].get("content") if asked else None
    if not isinstance(prompt, str):
        return None
    match = _PROMPT.fullmatch(prompt)
    return match.group(1) if match else prompt


@dataclass(frozen=True, slots=True)
class QuestionShape:
    """A form in which projects keep questions.

    Attributes:
        projects: whose it is.
        question: places of the question, the first that is filled counts; at ``prompt``, the last user message.
        answers: places of golden answers; the first must be filled, the others add to it.
    """

    projects: str
    question: tuple[str, ...]
    answers: tuple[str, ...]
    _question: tuple[Callable[[Any], Any], ...] = field(init=False, repr=False, compare=False)
    _answers: tuple[Callable[[Any], Any], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_question", tuple(map(_value_at, self.question)))
        object.__setattr__(self, "_answers", tuple(map(_value_at, self.answers)))

    def read(self, row: Mapping[str, Any]) -> tuple[str, list[str]] | None:
        """Question and golden answers of a row; None if it has another shape."""
        answers = _texts(self._answers[0](row))
        if not answers:
            return None
        for get in self._question:
            text = get(row)
            if text:
                break
        if not isinstance(text, str) or not (text := text.strip()):
            return None
        for get in self._answers[1:]:
            if more := _texts(get(row)):
                answers = [*answers, *more]
        return text, answers


@dataclass(frozen=True, slots=True)
class PassageShape:
    """A form in which projects keep passages.

    Attributes:
        projects: whose it is.
        text: key of the text.
        title: key of the title; None: the text's first line, if it has several.
    """

    projects: str
    text: str
    title: str | None


_ASKED = ("question", "extra_info.question", "env_kwargs.question", "prompt")
QUESTION_SHAPES = (
    QuestionShape("FlashRAG, Search-R1", ("question", "prompt"), ("golden_answers",)),
    QuestionShape("Search-R1, OPID, verl", _ASKED, ("reward_model.ground_truth.target",)),
    QuestionShape("verl", _ASKED, ("reward_model.ground_truth",)),
    QuestionShape("verl-agent", _ASKED, ("env_kwargs.ground_truth.target",)),
    QuestionShape("verl-agent", _ASKED, ("env_kwargs.ground_truth",)),
    QuestionShape("SkyRL", _ASKED, ("reward_spec.ground_truth.target",)),
    QuestionShape("SkyRL", _ASKED, ("reward_spec.ground_truth",)),
    QuestionShape("PopQA", ("question",), ("possible_answers",)),
    QuestionShape("TriviaQA on the Hugging Face hub", ("question",), ("answer.value", "answer.aliases")),
    QuestionShape("TriviaQA as published", ("Question",), ("Answer.Value", "Answer.Aliases")),
    QuestionShape("HotpotQA, 2WikiMultihopQA, MuSiQue, NQ-open", ("question",), ("answer", "answer_aliases")),
    QuestionShape("Bamboogle", ("Question",), ("Answer",)),
    QuestionShape("SQuAD on the Hugging Face hub", ("question",), ("answers.text",)),
    QuestionShape("DPR, WebQuestions", ("question",), ("answers",)),
    QuestionShape("KILT", ("input",), ("output.answer",)),
)
QUESTION_IDS = ("id", "_id", "question_id", "QuestionId", "qid")
QUESTION_COLUMNS_WITHOUT_HEADER = ("question", "answers")

PASSAGE_SHAPES = (
    PassageShape("Search-R1, pyserini", "contents", None),
    PassageShape("FlashRAG, BEIR, DPR, Wikipedia on the Hugging Face hub", "text", "title"),
    PassageShape("MS MARCO 2.1", "segment", "title"),
    PassageShape("LangChain, LlamaIndex and others", "content", "title"),
    PassageShape("collections of passages", "passage", "title"),
)
PASSAGE_IDS = ("id", "_id", "docid", "doc_id", "passage_id", "pid")
PASSAGE_COLUMNS_WITHOUT_HEADER = ("id", "text", "title")


def _first_keys(places: Iterable[str]) -> frozenset[str]:
    return frozenset(place.partition(".")[0] for place in places)


QUESTION_COLUMNS = frozenset(("data_source", "extra_info", *QUESTION_IDS)) | _first_keys(
    place for shape in QUESTION_SHAPES for place in (*shape.question, *shape.answers)
)
PASSAGE_COLUMNS = frozenset(("title", *PASSAGE_IDS, *(shape.text for shape in PASSAGE_SHAPES)))


def read_question(row: Any, guess: QuestionShape = QUESTION_SHAPES[0]) -> tuple[str, list[str], QuestionShape]:
    """Question and golden answers of a row, and the shape it has.

    Args:
        row: of a file.
        guess: a shape to try first: that of the row before.

    Raises:
        ValueError: it has none of `QUESTION_SHAPES`; the message says what it has, and what is accepted.

    >>> read_question({"Question": "Who?", "Answer": {"Value": "He", "Aliases": ["Him"]}})[:2]
    ('Who?', ['He', 'Him'])
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    for shape in (guess, *QUESTION_SHAPES):
        found = shape.read(row)
        if found is not None:
            return *found, shape
    asked = dict.fromkeys(place for shape in QUESTION_SHAPES for place in shape.question)
    answered = dict.fromkeys(shape.answers[0] for shape in QUESTION_SHAPES)
    raise ValueError(
        f"no question with golden answers in {_seen(row)}: a question is read from {_any_of(asked)}, and golden "
        f"answers (a text or a list of texts) from {_any_of(answered)}"
    )


def read_passage(row: Any) -> tuple[str | None, str | None, str]:
    """Id, title and text of a row; the title is None where the text's first line may be one.

    Raises:
        ValueError: it has none of `PASSAGE_SHAPES`; the message says what it has, and what is accepted.

    >>> read_passage({"_id": 7, "title": None, "text": "A tower."})
    ('7', '', 'A tower.')
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    for shape in PASSAGE_SHAPES:
        text = row.get(shape.text)
        if isinstance(text, str):
            break
    else:
        raise ValueError(
            f"no passage in {_seen(row)}: a text is read from {_any_of(shape.text for shape in PASSAGE_SHAPES)}, and a "
            "title from 'title'"
        )
    title = None
    if shape.title is not None:
        title = row.get(shape.title)
        if title is None:
            title = ""
        elif not isinstance(title, str):
            raise ValueError(f"{shape.title!r} must be a text, got {title!r:.80}")
    return row_id(row, PASSAGE_IDS), title, text


def row_id(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The name that a row gives itself under one of the keys; None if it has none.

    Raises:
        ValueError: the name is neither a text nor a whole number.
    """
    for key in keys:
        value = row.get(key)
        if isinstance(value, str):
            return value
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{key!r} must be a string or a number, got {value!r:.80}")
            return str(value)
    return None


def shapes_as_markdown() -> str:
    """The two tables of the documentation."""
    lines = ["| questions of | question | golden answers |", "|---|---|---|"]
    for shape in QUESTION_SHAPES:
        lines.append(f"| {shape.projects} | {_code(shape.question, ' or ')} | {_code(shape.answers, ' and ')} |")
    lines += ["", "| passages of | text | title |", "|---|---|---|"]
    for form in PASSAGE_SHAPES:
        title = f"`{form.title}`, may be missing or null" if form.title else "the first line, if there are several"
        lines.append(f"| {form.projects} | `{form.text}` | {title} |")
    return "\n".join(lines) + "\n"


def _code(places: Sequence[str], between: str) -> str:
    return between.join(f"`{place}`" for place in places)


def _any_of(places: Iterable[str]) -> str:
    *most, last = [repr(place) for place in places]
    return f"{', '.join(most)} or {last}"


def _seen(row: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key}: {value!r:.40}" for key, value in list(row.items())[:8])
    return f"{{{shown}{', ...' if len(row) > 8 else ''}}}"
