"""A trace of one iteration, for Chrome's and Perfetto's trace viewers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@contextmanager
def traced(path: Path) -> Iterator[None]:
    """Write what happens meanwhile to `path`, by `torch.profiler`: operations on the CPU, and on a GPU if there is one.

    Args:
        path: of the trace, in Chrome's JSON format; compressed if it ends with ``.gz``.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        yield
    found.export_chrome_trace(str(path))
