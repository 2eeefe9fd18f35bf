"""A Gymnasium text space for any Unicode string.

`gymnasium.spaces.Text` lists its characters one by one, which no environment that shows real text can do.
`UnicodeText` is a `Text` whose membership test is length alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.spaces import Text
from gymnasium.vector.utils import create_shared_memory

# Generous on purpose: a space must contain every value that the environment emits or accepts, and it accepts any string
# that a model may produce.
MAX_OBSERVATION_CHARACTERS = 2**20
MAX_ACTION_CHARACTERS = 2**24
# What `sample` draws from: plain text with a little of everything that breaks careless code; each character once.
SAMPLE_CHARACTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'\"<>[]{}/\\\n\téßñ中文🙂"
SAMPLE_LENGTH = 32


class UnicodeText(Text):
    r"""Strings of any characters, at most `max_length` of them.

    Samples are short (at most `SAMPLE_LENGTH` characters); membership is not limited to what `sample` draws.

    >>> space = UnicodeText(1_000)
    >>> "naïve 🙂\x00" in space, "a" * 1_001 in space, 7 in space
    (True, False, False)
    """

    def __init__(self, max_length: int, *, min_length: int = 0, seed: int | np.random.Generator | None = None):
        super().__init__(max_length, min_length=min_length, charset=SAMPLE_CHARACTERS, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string of allowed length."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random string; `mask` and `probability` are those of `gymnasium.spaces.Text`."""
        if mask is None and probability is None:
            longest = max(self.min_length, min(self.max_length, SAMPLE_LENGTH))
            mask = (int(self.np_random.integers(self.min_length, longest + 1)), None)
        return super().sample(mask=mask, probability=probability)

    @property
    def is_np_flattenable(self) -> bool:
        """False: characters outside the sampling set have no index."""
        return False

    def __repr__(self) -> str:
        return f"UnicodeText({self.min_length}, {self.max_length})"

    def __eq__(self, other: object, /) -> bool:
        return (
            isinstance(other, UnicodeText)
            and self.min_length == other.min_length
            and self.max_length == other.max_length
        )

    __hash__ = None  # type: ignore[assignment]


@create_shared_memory.register(UnicodeText)
def _no_shared_memory(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    # Text's shared memory would be an index into the character set, max_length wide. AsyncVectorEnv turns this error
    # into its advice to pass shared_memory=False.
    raise CustomSpaceError(f"{space} cannot live in shared memory; pass shared_memory=False")
