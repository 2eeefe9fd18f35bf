"""What commands write in the terminal: results to standard output, everything said along the way to standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

out = Console(highlight=False)
talk = Console(stderr=True, highlight=False)

__all__ = ["escape", "out", "progress_bar", "progress_bars", "talk"]


def progress_bars(*, show: bool | None = None, console: Console = talk) -> Progress:
    """Progress bars on standard error that vanish when they are done.

    Args:
        show: whether they are shown; None: if standard error is a terminal.
        console: where they are drawn.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (console.is_terminal if show is None else show),
    )


@contextmanager
def progress_bar(what: str, total: int | None, *, console: Console = talk) -> Iterator[Callable[[int], None]]:
    """One progress bar on standard error; yields a function that advances it.

    Args:
        what: what is counted.
        total: the count at the end; None or 0: not known.
        console: where it is drawn.

    >>> with progress_bar("games", 3) as advance:
    ...     advance(1)
    """
    with progress_bars(console=console) as bars:
        task = bars.add_task(what, total=total or None)
        yield lambda count: bars.advance(task, count)
