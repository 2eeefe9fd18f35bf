"""Results of a study, as they are stored: one record for each algorithm and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

from opid_gym import __version__
from opid_gym.files import write_file

RESULT, TABLE = "result.json", "results.jsonl"


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one algorithm on one seed.

    Attributes:
        recipe, algorithm, seed: which cell.
        start: ``bundled``, ``made`` by the recipe's warm start, or the name of a folder that was given.
        changes: to the recipe, as given.
        passes: success on all held-back tasks, one number for each evaluation; empty: the run failed.
        types: success by task type, mean over the evaluations; empty: the run failed, or is an older one.
        score: mean return on all held-back tasks, mean over the evaluations; None: the run failed, or is an older one.
        tasks: number of held-back tasks.
        rollouts: mean success while training, the normalised area under the learning curve; None: nothing was played.
        curve: success of each iteration's rollouts.
        env_steps: of the environment, in training.
        seconds: of training, wall clock, beside whatever else the machine did.
        cpu_seconds: of the run, its first evaluation included; None: it was interrupted, or is an older one.
        failed: why there is no result; None: there is one.
        version: of the package.
        start_sha256: of the starting policy's weights; None: an older run.
        panel_hash: of the panel whose tasks were played; None: the recipe names none.
    """

    recipe: str
    algorithm: str
    seed: int
    start: str
    changes: list[str] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    types: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    tasks: int | None = None
    rollouts: float | None = None
    curve: list[float] = field(default_factory=list)
    env_steps: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    failed: str | None = None
    version: str = __version__
    start_sha256: str | None = None
    panel_hash: str | None = None

    @property
    def final(self) -> float | None:
        """Success on the held-back tasks, mean over the evaluations."""
        return fmean(self.passes) if self.passes else None

    @property
    def key(self) -> tuple[str, str, int]:
        """Recipe, algorithm and seed."""
        return self.recipe, self.algorithm, self.seed

    def to_json(self) -> str:
        """One line; what is not known is left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in (None, {})})


def find(folder: Path) -> dict[tuple[str, str, int], Cell]:
    """All results under a folder by their keys: those of its ``results.jsonl``, and newer ones in folders of cells."""
    table = folder / TABLE
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    lines += [file.read_text(encoding="utf-8") for file in sorted(folder.rglob(RESULT))]
    cells = [Cell(**json.loads(line)) for line in lines]
    return {cell.key: cell for cell in cells}


def collect(folder: Path) -> list[Cell]:
    """All results under a folder, sorted.

    Raises:
        SystemExit: there are none.
    """
    cells = find(folder)
    if not cells:
        raise SystemExit(f"no results in {str(folder)!r}: neither cells ({RESULT}) nor a {TABLE}")
    return [cells[key] for key in sorted(cells)]


def store(folder: Path, cells: Sequence[Cell]) -> None:
    """Write the ``results.jsonl`` of a study."""
    write_file(folder / TABLE, "".join(cell.to_json() + "\n" for cell in cells))
