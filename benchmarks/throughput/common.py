"""What all environments are measured with."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Transcript = list[tuple[str, tuple[str, ...]]]  # observation and admissible actions, from the reset on


@dataclass(frozen=True)
class Arguments:
    """What the command line says beyond the environment's name.

    Attributes:
        against_stock: also run the original.
        seconds: roughly how long the original may run.
        stock_dir: a checkout of the original, where it is not a package.
        largest: the largest size to measure.
    """

    against_stock: bool = False
    seconds: float = 60.0
    stock_dir: Path | None = None
    largest: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """What is measured of one environment.

    Attributes:
        speed: both sides' figures and their ratios.
        memory: peak memory of 128 games; run in a process of its own.
        by_size: cost for games of growing size.
        by_num_envs: cost for growing batches.
    """

    speed: Callable[[Arguments], dict[str, Any]]
    memory: Callable[[], dict[str, Any]]
    by_size: Callable[[Arguments], list[dict[str, Any]]]
    by_num_envs: Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True)
class Sample:
    """CPU seconds of one visit to one game."""

    first_reset: float
    resets: tuple[float, ...]
    steps: float  # for the whole episode
    count: int


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, number of cores, Python, operating system."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version(), "system": sys.platform}


def cpu_name() -> str:
    """The processor's name, as Linux or the platform gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds that the process spends on `work`, and what it returns."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def peak_megabytes() -> float:
    """The most memory that this process has held so far, in megabytes of 2**20 bytes."""
    # Linux counts into ru_maxrss what the parent process held; its own high-water mark does not.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Medians over samples: microseconds a step, steps a second, milliseconds a reset; and counts."""
    step = median(sample.steps / sample.count for sample in samples)
    return {
        "step_us": round(step * 1e6, 2),
        "steps_per_s": round(1 / step, 1),
        "first_reset_ms": round(median(sample.first_reset for sample in samples) * 1e3, 3),
        "reset_ms": round(median(seconds for sample in samples for seconds in sample.resets) * 1e3, 4),
        "steps": sum(sample.count for sample in samples),
        "visits": len(samples),
    }


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """How many times longer the original takes than ours."""
    found = {}
    for suffix in ("", "_vector"):
        ours, stock = figures["ours" + suffix], figures["stock"]
        for name, key in (("steps", "step_us"), ("first_resets", "first_reset_ms"), ("resets", "reset_ms")):
            found[f"{name}_ratio{suffix}"] = round(stock[key] / ours[key], 1)
    return found
