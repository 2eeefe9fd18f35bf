"""From results to a leaderboard: rows and comparisons as records, and the Markdown and CSV made of them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from opid_gym.bench.results import EpisodeResult
from opid_gym.bench.statistics import Comparison, compare, compare_returns, holm, mean_interval, success_rate
from opid_gym.evaluation import Interval
from opid_gym.files import replacing

ALL = "all"


@dataclass(frozen=True, slots=True)
class Row:
    """An agent in an environment, over all tasks or those of one type.

    Attributes:
        env, agent: labels.
        task_type: or `ALL`.
        tasks, episodes, seeds: how many.
        failed: episodes that the agent failed to play; they count as not solved.
        success, mean_return: with 95 % intervals over tasks. Where the return is 1 for a success and 0 otherwise, both
            are the same number with the same interval.
        length, valid_actions: steps an episode, and the share of them that could be read.
        prompt_tokens, reply_tokens, seconds, cost: an episode, over all its trials.
        trials: most trials of a task.
    """

    env: str
    agent: str
    task_type: str
    tasks: int
    episodes: int
    seeds: int
    failed: int
    success: Interval
    mean_return: Interval
    length: float
    valid_actions: float
    prompt_tokens: float
    reply_tokens: float
    seconds: float
    cost: float
    trials: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two agents compared on the tasks both have played.

    Attributes:
        env, first, second: labels.
        comparison: of their success.
        adjusted: its p-value, by Holm over the environment's pairs.
        returns: difference of the mean returns, the second's less the first's. Where the return is 1 for a success and
            0 otherwise, it is the difference of the success rates with the same interval and test.
        returns_adjusted: its p-value, by Holm likewise.
    """

    env: str
    first: str
    second: str
    comparison: Comparison
    adjusted: float
    returns: Interval
    returns_adjusted: float


def leaderboard(results: Iterable[EpisodeResult], *, by_task_type: bool = False) -> list[Row]:
    """Rows by environment, the best agent first; with `by_task_type`, a row for each type as well."""
    groups: defaultdict[tuple[str, str, str], list[EpisodeResult]] = defaultdict(list)
    for result in results:
        groups[result.env, ALL, result.agent].append(result)
        if by_task_type:
            groups[result.env, result.task_type, result.agent].append(result)
    rows = [_row(env, agent, kind, group) for (env, kind, agent), group in groups.items()]
    return sorted(
        rows, key=lambda row: (row.env, row.task_type != ALL, row.task_type, -row.success.estimate, row.agent)
    )


def _row(env: str, agent: str, task_type: str, group: Sequence[EpisodeResult]) -> Row:
    def mean(value: Callable[[EpisodeResult], float]) -> float:
        return sum(map(value, group)) / len(group)

    steps = sum(result.length for result in group)
    solved, earned = _by_task(group, lambda r: r.success), _by_task(group, lambda r: r.episode_return)
    success = success_rate(list(solved.values()))
    return Row(
        env,
        agent,
        task_type,
        tasks=len({result.task_id for result in group}),
        episodes=len(group),
        seeds=len({result.seed for result in group}),
        failed=sum(result.failure is not None for result in group),
        success=success,
        mean_return=success if earned == solved else mean_interval(list(earned.values())),
        length=mean(lambda r: r.length),
        valid_actions=sum(result.valid_actions for result in group) / max(steps, 1),
        prompt_tokens=mean(lambda r: r.prompt_tokens),
        reply_tokens=mean(lambda r: r.reply_tokens),
        seconds=mean(lambda r: r.seconds),
        cost=mean(lambda r: r.cost),
        trials=max(result.trials for result in group),
    )


def _by_task(group: Iterable[EpisodeResult], value: Callable[[EpisodeResult], float]) -> dict[str, list[float]]:
    tasks: defaultdict[str, list[float]] = defaultdict(list)
    for result in group:
        tasks[result.task_id].append(value(result))
    return tasks


def comparisons(results: Iterable[EpisodeResult]) -> list[Pair]:
    """Every pair of agents of an environment, on the tasks that both have played; p-values adjusted for all pairs."""
    outcomes: defaultdict[str, defaultdict[str, list[EpisodeResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        outcomes[result.env][result.agent].append(result)
    pairs = []
    for env, agents in sorted(outcomes.items()):
        solved = {agent: _by_task(group, lambda r: r.success) for agent, group in sorted(agents.items())}
        earned = {agent: _by_task(group, lambda r: r.episode_return) for agent, group in agents.items()}
        made = []
        for first, second in combinations(solved, 2):
            tasks = [task for task in solved[first] if task in solved[second]]
            if tasks:
                success, returns = (
                    [[by_agent[agent][task] for task in tasks] for agent in (first, second)]
                    for by_agent in (solved, earned)
                )
                compared = compare(*success)
                of_returns = (
                    (compared.difference, compared.p_value) if returns == success else compare_returns(*returns)
                )
                made.append((first, second, compared, *of_returns))
        adjusted = holm([comparison.p_value for _, _, comparison, _, _ in made])
        returns_adjusted = holm([p_value for *_, p_value in made])
        pairs += [
            Pair(env, first, second, comparison, p_success, difference, p_returns)
            for (first, second, comparison, difference, _), p_success, p_returns in zip(
                made, adjusted, returns_adjusted, strict=True
            )
        ]
    return pairs


def to_markdown(
    rows: Sequence[Row], pairs: Sequence[Pair], notes: Sequence[str] = (), tasks: Mapping[str, str] | None = None
) -> str:
    """The leaderboard as a page: a table of agents and one of comparisons for each environment.

    Args:
        rows, pairs: as `leaderboard` and `comparisons` make them.
        notes: lines for the beginning of the page.
        tasks: what the tasks of an environment are, in words (`opid_gym.world.describe_source`), by its label.
    """
    parts = ["# Leaderboard", "", *notes]
    for env in dict.fromkeys(row.env for row in rows):
        shown = [row for row in rows if row.env == env and row.task_type == ALL]
        parts += ["", f"## {env}", ""]
        if about := (tasks or {}).get(env):
            parts += [f"Played on {about}.", ""]
        parts += _markdown_table(
            ["agent", "success", "95 % interval", "return", "episodes", "failed", "steps", "valid actions", "tokens in",
             "tokens out", "seconds", "cost"],
            [_cells(row) for row in shown],
        )  # fmt: skip
        typed = [row for row in rows if row.env == env and row.task_type != ALL]
        if typed:
            agents = [row.agent for row in shown]
            cells = {(row.task_type, row.agent): f"{row.success.estimate:.0%}" for row in typed}
            counts = {row.task_type: row.tasks for row in typed}
            parts += ["", "Success by task type:", ""]
            parts += _markdown_table(
                ["task type", "tasks", *agents],
                [[kind, str(n), *(cells.get((kind, agent), "") for agent in agents)] for kind, n in counts.items()],
            )
        paired = [pair for pair in pairs if pair.env == env]
        if paired:
            parts += ["", "Paired by task, the second agent less the first (difference: of success, in points):", ""]
            parts += _markdown_table(
                [
                    "first",
                    "second",
                    "difference",
                    "95 % interval",
                    "Cohen's h",
                    "p (Holm)",
                    "test",
                    "return",
                    "p (Holm)",
                ],
                [_pair_cells(pair) for pair in paired],
            )
    return "\n".join(parts) + "\n"


def _cells(row: Row) -> list[str]:
    runs = f"{row.tasks} x {row.seeds}" if row.tasks * row.seeds == row.episodes else str(row.episodes)
    name = row.agent if row.trials == 1 else f"{row.agent} (up to {row.trials} trials)"
    return [
        name,
        f"{row.success.estimate:.1%}",
        f"{row.success.low:.1%} to {row.success.high:.1%}",
        f"{row.mean_return.estimate:.3f}",
        runs,
        str(row.failed),
        f"{row.length:.1f}",
        f"{row.valid_actions:.1%}",
        f"{row.prompt_tokens:,.0f}" if row.prompt_tokens else "",
        f"{row.reply_tokens:,.0f}" if row.reply_tokens else "",
        f"{row.seconds:.3g}",
        f"{row.cost:.4g}" if row.cost else "",
    ]


def _pair_cells(pair: Pair) -> list[str]:
    difference = pair.comparison.difference
    return [
        pair.first,
        pair.second,
        f"{100 * difference.estimate:+.1f}",
        f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}",
        f"{pair.comparison.effect:+.2f}",
        _p_value(pair.adjusted),
        pair.comparison.test,
        f"{pair.returns.estimate:+.3f} ({pair.returns.low:+.3f} to {pair.returns.high:+.3f})",
        _p_value(pair.returns_adjusted),
    ]


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def write_rows_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a row, numbers in full."""
    plain = [
        "env", "agent", "task_type", "tasks", "seeds", "episodes", "failed", "length", "valid_actions",
        "prompt_tokens", "reply_tokens", "seconds", "cost", "trials",
    ]  # fmt: skip
    header = [*plain, *_interval_header("success"), *_interval_header("mean_return")]
    _write_csv(
        path,
        header,
        (
            [*(getattr(row, name) for name in plain), *_interval(row.success), *_interval(row.mean_return)]
            for row in rows
        ),
    )


def write_pairs_csv(path: Path, pairs: Sequence[Pair]) -> None:
    """One line a comparison, numbers in full."""
    _write_csv(
        path,
        [
            "env",
            "first",
            "second",
            *_interval_header("difference"),
            "cohens_h",
            "p_value",
            "p_holm",
            "test",
            "tasks",
            *_interval_header("return_difference"),
            "return_p_holm",
        ],
        (
            [
                pair.env,
                pair.first,
                pair.second,
                *_interval(pair.comparison.difference),
                pair.comparison.effect,
                pair.comparison.p_value,
                pair.adjusted,
                pair.comparison.test,
                pair.comparison.tasks,
                *_interval(pair.returns),
                pair.returns_adjusted,
            ]
            for pair in pairs
        ),
    )


def _interval_header(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _interval(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
