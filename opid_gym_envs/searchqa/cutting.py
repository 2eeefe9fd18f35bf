"""How much of a search's result is shown: limits in characters and in tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Words and punctuation marks: what a token is where no tokenizer is given.
_WORD = re.compile(r"\w+|[^\w\s]")

Cut = Callable[[str], str]


def make_cut(room: int, characters: int | None = None, tokens: int | None = None, tokenizer: Any = None) -> Cut:
    """A function that gives the longest beginning of a text within all limits.

    Args:
        room: characters there is room for in any case.
        characters: at most so many characters.
        tokens: at most so many tokens.
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
    if tokens is None:
        return lambda text: text[:room]
    ends = _word_ends if tokenizer is None else _token_ends(tokenizer)
    limit = tokens

    def cut(text: str) -> str:
        text = text[:room]
        found = ends(text, limit)
        return text if len(found) <= limit else text[: found[limit - 1]]

    return cut


def _word_ends(text: str, limit: int) -> list[int]:
    """Where the words end; one more than the limit is enough."""
    ends: list[int] = []
    for match in _WORD.finditer(text):
        ends.append(match.end())
        if len(ends) > limit:
            break
    return ends


def _token_ends(tokenizer: Any) -> Callable[[str, int], list[int]]:
    if isinstance(tokenizer, str | Path):
        tokenizer = _open(tokenizer)
    counter = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(counter, "encode_batch"):
        raise TypeError(
            "tokenizer must be the path of a tokenizer.json, a tokenizers.Tokenizer or a fast tokenizer of "
            f"transformers, got {type(tokenizer).__name__}"
        )
    return lambda text, limit: [end for _, end in counter.encode(text, add_special_tokens=False).offsets]


def _open(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"tokenizer={str(path)!r} is not a file")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise ModuleNotFoundError("tokenizer=PATH needs: pip install 'opid-gym[train]'", name="tokenizers") from None
    return Tokenizer.from_file(str(path))
