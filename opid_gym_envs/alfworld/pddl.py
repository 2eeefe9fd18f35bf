"""Reading the Lisp-like text of PDDL: one function from text to nested tuples.

The reader follows the conventions of the planner behind the original game: a semicolon starts a comment, case does not
matter (everything comes back lower-cased), any white space separates, and a question mark starts a new word.
"""

from __future__ import annotations

import re
from typing import Any

# A nested tuple of words; typed loosely because Python's type system has no comfortable recursive tuples.
Expression = Any

MAX_DEPTH = 200
"""Deeper nesting is refused: no game needs it, and what walks through the result may recurse."""

_COMMENT = re.compile(r";[^\n]*")


class PddlError(ValueError):
    """The text is not one well-formed parenthesised expression; the message says where it goes wrong."""


def read_pddl(text: str) -> tuple[Expression, ...]:
    """Turn PDDL text into nested tuples of lower-case words.

    Args:
        text: one parenthesised expression, e.g. ``"(define (domain alfred) ...)"``.

    Returns:
        Nested tuples: ``read_pddl("(a (B ?c))") == ("a", ("b", "?c"))``.

    Raises:
        PddlError: empty text, unbalanced or absurdly nested parentheses, text after the end, or non-ASCII text outside
            comments.
    """
    text = _COMMENT.sub("", text).lower()
    if not text.isascii():
        bad = next(character for character in text if not character.isascii())
        raise PddlError(f"non-ASCII character {bad!r} outside a comment")
    stack: list[list[Expression]] = []
    top: list[Expression] = []
    words: dict[str, str] = {}  # one string per word, however often it occurs: games stay small in memory
    for token in text.replace("(", " ( ").replace(")", " ) ").replace("?", " ?").split():
        if token == "(":
            stack.append(top)
            top = []
            if len(stack) > MAX_DEPTH:
                raise PddlError(f"parentheses nested more than {MAX_DEPTH} deep")
        elif token == ")":
            if not stack:
                raise PddlError("a ')' without its '('")
            done = tuple(top)
            top = stack.pop()
            top.append(done)
        else:
            top.append(words.setdefault(token, token))
    if stack:
        raise PddlError(f"{len(stack)} '(' without ')': the text ends too early")
    if len(top) != 1 or not isinstance(top[0], tuple):
        found = "nothing" if not top else f"{len(top)} items beginning with {str(top[0])[:40]!r}"
        raise PddlError(f"need exactly one parenthesised expression, found {found}")
    return top[0]


def read_typed_list(items: tuple[Expression, ...]) -> list[tuple[str, str]]:
    """Read ``a b - t c - u d`` as ``[(a, t), (b, t), (c, u), (d, "object")]``.

    Raises:
        PddlError: a dash with no type after it, or an item that is not a word.
    """
    pairs: list[tuple[str, str]] = []
    waiting: list[str] = []
    position = 0
    while position < len(items):
        item = items[position]
        if not isinstance(item, str):
            raise PddlError(f"a typed list holds words, found {item!r:.60}")
        if item == "-":
            if position + 1 >= len(items) or not isinstance(items[position + 1], str):
                raise PddlError("a typed list ends in '-' with no type after it")
            pairs.extend((name, items[position + 1]) for name in waiting)
            waiting = []
            position += 2
        else:
            waiting.append(item)
            position += 1
    pairs.extend((name, "object") for name in waiting)
    return pairs
