"""Lets the site show the examples in our docstrings as code: Griffe knows them only below a heading "Examples"."""

from __future__ import annotations

import re
from typing import Any

import griffe

# Lines from a prompt to the next empty line, with their indentation.
_EXAMPLE = re.compile(r"^([ \t]*)>>> .*(?:\n(?![ \t]*$).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts fences around doctests."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Griffe has read an object."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
