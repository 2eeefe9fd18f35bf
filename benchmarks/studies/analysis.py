"""What the results of a study say: intervals, paired comparisons, claims, costs, what the teacher foretold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from opid_agents.algorithms import ALGORITHMS

from studies.cells import Cell
from studies.measures import (
    Interval,
    holm,
    improvement,
    improvement_interval,
    interquartile_interval,
    interquartile_mean,
    interval,
    p_value,
)

MEASURES = {
    "final": "held-back tasks",
    "score": "mean return on held-back tasks",
    "rollouts": "rollouts, mean of the run",
}
START = "vanilla"
SEEDS_FOR_A_CLAIM = 10
_DIGITS = 6  # of stored figures: more than anyone reads, fewer than differ from machine to machine
_LEAST_BASE = 0.01  # success or area below which a gain in per cent of it says nothing

Seeds = Mapping[int, Cell]


def analyse(cells: Sequence[Cell], teachers: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Everything the report says, as JSON values: by recipe the algorithms, the comparisons and the failed runs.

    Args:
        cells: all results, those of failed runs too.
        teachers: the teacher's report on the start (``opid-gym teacher --json``) of some recipes.
    """
    by_recipe: dict[str, dict[str, dict[int, Cell]]] = {}
    for cell in cells:
        by_recipe.setdefault(cell.recipe, {}).setdefault(cell.algorithm, {})[cell.seed] = cell
    return {recipe: _analyse(found, (teachers or {}).get(recipe)) for recipe, found in by_recipe.items()}


def _analyse(algorithms: Mapping[str, Seeds], teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    measures = [measure for measure in MEASURES if not (measure == "score" and _score_is_success(algorithms))]
    comparisons = {measure: _compare(algorithms, measure) for measure in measures}
    found = {
        "algorithms": {name: _describe(seeds, algorithms.get(START, {})) for name, seeds in algorithms.items()},
        "training": {measure: _added(algorithms, measure) for measure in measures},
        "comparisons": comparisons,
        "claims": {measure: _claims(algorithms, comparisons[measure]) for measure in measures},
        "unpaired": _unpaired(algorithms),
        "failed": [
            {"algorithm": cell.algorithm, "seed": cell.seed, "why": cell.failed}
            for seeds in algorithms.values()
            for cell in seeds.values()
            if cell.failed
        ],
    }
    if types := _types(algorithms):
        found["types"] = types
    if teacher is not None:
        found["teacher"] = {"gain": teacher["gain"]["step"], "foretold": _foretold(algorithms, teacher)}
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def controls_of(name: str) -> list[str]:
    """What a gain of an algorithm must be measured against: `grpo`, `gigpo`, and its controls."""
    algorithm = ALGORITHMS.get(name)
    if name == START:
        return []
    if algorithm is None or algorithm.teacher != "scores" or algorithm.swap is not None:
        return ["grpo"]
    constant = f"{name}_constant" if f"{name}_constant" in ALGORITHMS else "opid_constant"
    imitation = ["imitate_advice", *(["srpo_advice"] if name in ("srpo", "srpo_reply") else [])]
    return ["grpo", "gigpo", constant, f"{name}_random_skill", f"{name}_other_task_skill", *imitation]


def known(seeds: Iterable[Cell], measure: str) -> list[float]:
    """Values of a measure, without the runs that have none."""
    return [value for cell in seeds if (value := getattr(cell, measure)) is not None]


def pairs(values: Seeds, others: Seeds, measure: str) -> list[tuple[float, float]]:
    """Values of both algorithms on the seeds that both were run with, in the order of the seeds."""
    found = [
        (getattr(values[seed], measure), getattr(others[seed], measure)) for seed in sorted(values) if seed in others
    ]
    return [(value, other) for value, other in found if value is not None and other is not None]


def summarise(runs: Mapping[str, Sequence[Mapping[str, float | None]]], against: str) -> dict[str, Any]:
    """The interval of each measure of each algorithm, and that of its paired difference to `against`.

    None where a measure was not taken.
    """
    summary: dict[str, Any] = {}
    for name, found in runs.items():
        summary[name] = {}
        for measure in MEASURES:
            both = [(run[measure], base[measure]) for run, base in zip(found, runs[against], strict=True)]
            taken = [(value, base) for value, base in both if value is not None and base is not None]
            summary[name][measure] = (
                None
                if not taken
                else {
                    "value": interval([value for value, _ in taken]),
                    "difference": interval([value - base for value, base in taken]),
                }
            )
    return summary


def _score_is_success(algorithms: Mapping[str, Seeds]) -> bool:
    """Whether returns say nothing that success does not: then one of them is enough."""
    scored = [cell for seeds in algorithms.values() for cell in seeds.values() if cell.score is not None]
    return all(cell.final is not None and abs((cell.score or 0.0) - cell.final) < 1e-9 for cell in scored)


def _unpaired(algorithms: Mapping[str, Seeds]) -> list[int]:
    """Seeds whose algorithms are known to have begun from different weights."""
    starts: dict[int, set[str]] = {}
    for seeds in algorithms.values():
        for seed, cell in seeds.items():
            if cell.start_sha256 is not None:
                starts.setdefault(seed, set()).add(cell.start_sha256)
    return sorted(seed for seed, found in starts.items() if len(found) > 1)


def _over(cells: Iterable[Cell], measure: str) -> Interval | None:
    values = known(cells, measure)
    return interval(values) if values else None


def _describe(seeds: Seeds, start: Seeds) -> dict[str, Any]:
    cells = list(seeds.values())
    final = known(cells, "final")
    bounds = interquartile_interval(final) if final else None
    return {
        **{measure: _over(cells, measure) for measure in MEASURES},
        "interquartile": {"mean": interquartile_mean(final), "bounds": bounds} if final else None,
        "runs": len(cells),
        "starts": sorted({cell.start for cell in cells}),
        "passes": sorted({len(cell.passes) for cell in cells}),
        **{cost: _over(cells, cost) for cost in ("env_steps", "seconds", "cpu_seconds")},
        "cost_of_a_point": {cost: _cost(seeds, start, cost) for cost in ("env_steps", "cpu_seconds")},
    }


def _cost(seeds: Seeds, start: Seeds, cost: str) -> float | None:
    """Mean cost of a run for each point of success that it adds to its start; None: nothing was added or measured."""
    gains = [value - base for value, base in pairs(seeds, start, "final")]
    costs = [value for value in known(seeds.values(), cost) if value > 0]
    if not gains or not costs or fmean(gains) <= 0:
        return None
    return fmean(costs) / (100 * fmean(gains))


def _added(algorithms: Mapping[str, Seeds], measure: str) -> list[dict[str, Any]]:
    """What training adds to the start."""
    start = algorithms.get(START, {})
    rows = [_comparison(name, START, pairs(seeds, start, measure)) for name, seeds in algorithms.items()]
    return _corrected([row for row in rows if row is not None and row["algorithm"] != START])


def _types(algorithms: Mapping[str, Seeds]) -> dict[str, dict[str, Any]]:
    """By task type and algorithm: its success there, and what training adds to the start; {} where nobody knows."""
    start = algorithms.get(START, {})
    names = sorted({name for seeds in algorithms.values() for cell in seeds.values() for name in cell.types})
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = {}
        for algorithm, seeds in algorithms.items():
            values = {seed: cell.types[name] for seed, cell in seeds.items() if name in cell.types}
            added = [
                value - start[s].types[name] for s, value in values.items() if s in start and name in start[s].types
            ]
            if values:
                added_by = interval(added) if added and algorithm != START else None
                found[name][algorithm] = {"success": interval([*values.values()]), "added": added_by}
    return found


def _compare(algorithms: Mapping[str, Seeds], measure: str) -> list[dict[str, Any]]:
    """Paired differences of each algorithm to `grpo` and to its controls, as far as they were run."""
    rows = [
        _comparison(name, other, pairs(algorithms[name], algorithms[other], measure))
        for name in algorithms
        for other in controls_of(name)
        if other != name and other in algorithms
    ]
    return _corrected([row for row in rows if row is not None])


def _comparison(name: str, against: str, both: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    if not both:
        return None
    values, others = [value for value, _ in both], [other for _, other in both]
    differences = [value - other for value, other in both]
    base = fmean(others)
    return {
        "algorithm": name,
        "against": against,
        "difference": interval(differences),
        "relative": fmean(differences) / base if base >= _LEAST_BASE else None,
        "p": p_value(differences),
        "improvement": improvement(values, others),
        "improvement_bounds": improvement_interval(values, others),
    }


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return rows


def _claims(algorithms: Mapping[str, Seeds], rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """For each algorithm: which of its controls it is better than, worse than, not told from, and not compared with.

    Better and worse need ten seeds and a corrected p below 0.05; everything else is open.
    """
    claims: dict[str, dict[str, list[str]]] = {}
    for name in algorithms:
        controls = [other for other in controls_of(name) if other != name]
        if not controls:
            continue
        found: dict[str, list[str]] = {"better": [], "worse": [], "open": [], "missing": []}
        by_other = {row["against"]: row for row in rows if row["algorithm"] == name}
        for other in controls:
            row = by_other.get(other)
            if row is None:
                found["missing"].append(other)
            elif row["difference"]["seeds"] >= SEEDS_FOR_A_CLAIM and row["p_holm"] < 0.05:
                found["better" if row["difference"]["mean"] > 0 else "worse"].append(other)
            else:
                found["open"].append(other)
        claims[name] = found
    return claims


def _foretold(algorithms: Mapping[str, Seeds], teacher: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """In how many seeds the sign of form less `grpo` was that of the gain which the start had from step skills."""
    sign = 1 if teacher["gain"]["step"]["estimate"] > 0 else -1
    found = {}
    for name, seeds in algorithms.items():
        both = pairs(seeds, algorithms.get("grpo", {}), "final")
        if len(controls_of(name)) > 1 and both:
            found[name] = {"right": sum(sign * (value - base) > 0 for value, base in both), "of": len(both)}
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value
