"""How much of a search's result is shown: limits in characters and in tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opid_gym.named import missing_extra

# Words and punctuation marks: what a token is where no tokenizer is given.
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Cut:
    """Gives the longest beginning of a text within its limits.

    Attributes:
        characters: maximum number of characters.
        tokens: maximum number of tokens; None: no limit.
        tokenizer: what a token is, a `tokenizers.Tokenizer`; None: words and punctuation marks.
    """

    characters: int
    tokens: int | None = None
    tokenizer: Any = None

    def __call__(self, text: str) -> str:
        """The beginning of the text."""
        text = text[: self.characters]
        if self.tokens is None:
            return text
        if self.tokenizer is None:
            ends = _word_ends(text, self.tokens)
        else:
            ends = [end for _, end in self.tokenizer.encode(text, add_special_tokens=False).offsets]
        return text if len(ends) <= self.tokens else text[: ends[self.tokens - 1]]


def make_cut(room: int, characters: int | None = None, tokens: int | None = None, tokenizer: Any = None) -> Cut:
    """A function that gives the longest beginning of a text within all limits.

    Args:
        room: maximum number of characters in any case.
        characters: maximum number of characters; None: no limit of its own.
        tokens: maximum number of tokens; None: no limit.
        tokenizer: what a token is: the path of a ``tokenizer.json``, a `tokenizers.Tokenizer` or a fast tokenizer of
            `transformers`. None: words and punctuation marks.

    Raises:
        ValueError: a tokenizer that has no tokens to count.
        FileNotFoundError: there is no such file.
        TypeError: none of the three.

    >>> make_cut(100, tokens=3)("Doc 1: Kenya"), make_cut(100, characters=4)("Doc 1: Kenya")
    ('Doc 1:', 'Doc ')
    """
    if tokens is None and tokenizer is not None:
        raise ValueError("tokenizer= only says what max_observation_tokens counts: give both")
    room = min(room, characters or room)
    return Cut(room, tokens, None if tokenizer is None else _counter(tokenizer))


def _word_ends(text: str, limit: int) -> list[int]:
    """Where the words end; one more than the limit is enough."""
    ends: list[int] = []
    for match in _WORD.finditer(text):
        ends.append(match.end())
        if len(ends) > limit:
            break
    return ends


def _counter(tokenizer: Any) -> Any:
    if isinstance(tokenizer, str | Path):
        tokenizer = _open(tokenizer)
    counter = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(counter, "encode_batch"):
        raise TypeError(
            "tokenizer must be the path of a tokenizer.json, a tokenizers.Tokenizer or a fast tokenizer of "
            f"transformers, got {type(tokenizer).__name__}"
        )
    return counter


def _open(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"tokenizer={str(path)!r} is not a file")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise missing_extra("tokenizer=PATH", "tokenizers", "train") from None
    return Tokenizer.from_file(str(path))
