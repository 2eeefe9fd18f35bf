"""What changes over a run: pure functions of the iteration."""

from __future__ import annotations


def linear(start: float, end: float, over: int, at: int) -> float:
    """From `start` at 0 to `end` at `over`, and `end` from then on.

    >>> [linear(0.5, 0.0, 50, at) for at in (0, 25, 50, 99)]
    [0.5, 0.25, 0.0, 0.0]
    """
    if at >= over:
        return end
    return start + (end - start) * max(at, 0) / over


def is_on(iteration: int, first: int, last: int | None) -> bool:
    """Whether something is on in an iteration (from 1): from `first` to `last`, both included; None: to the end.

    >>> [is_on(i, 2, 3) for i in (1, 2, 3, 4)]
    [False, True, True, False]
    """
    return first <= iteration and (last is None or iteration <= last)
