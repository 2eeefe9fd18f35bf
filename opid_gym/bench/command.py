"""The command `opid-gym bench`."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import opid_gym
from opid_gym.bench import harness
from opid_gym.bench.harness import Plan, Shard, Summary, Watch
from opid_gym.bench.report import ALL, Row, comparisons, leaderboard, to_markdown, write_pairs_csv, write_rows_csv
from opid_gym.bench.results import EpisodeResult, read_results
from opid_gym.cli import (
    DEFAULT_ENV,
    JsonOption,
    SetOption,
    SplitOption,
    StepsOption,
    env_arguments,
)
from opid_gym.console import escape, out, progress_bar, talk
from opid_gym.files import write_file
from opid_gym.json_text import parse_json
from opid_gym.panel import find_panel
from opid_gym.roster import Spec, find_agent, parse_spec, registered_agents
from opid_gym.world import describe_source

FAILED = 3  # exit code: everything was played, but an agent failed somewhere


def bench(
    agent: Annotated[
        list[str],
        typer.Option(
            help="Who plays: a name, module:Class, module:function or a model's folder, with options: "
            "'NAME key=value ... label=TEXT'. May be repeated; {env} in a value stands for the environment's label."
        ),
    ],
    env: Annotated[
        list[str], typer.Option(help="What is played: an environment id with options, 'ID key=value ...'; repeatable.")
    ] = [DEFAULT_ENV],  # noqa: B006  (typer copies it)
    split: SplitOption = None,
    episodes: Annotated[
        str, typer.Option(help="'all', or a number of tasks of the split: always the same sample.")
    ] = "all",
    seeds: Annotated[int, typer.Option(help="How many passes over the tasks, with seeds 0, 1, ...", min=1)] = 1,
    num_envs: Annotated[int, typer.Option(help="Games an agent plays at once.", min=1)] = 16,
    max_episode_steps: StepsOption = None,
    set_: SetOption = None,
    panel: Annotated[
        list[str] | None,
        typer.Option(
            help="Play the tasks of a panel (see `opid-gym panel`), NAME or NAME/LIST; repeatable. Instead of --env."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds an agent may take for one call (all games at once).")] = 120.0,
    workers: Annotated[int | None, typer.Option(help="Processes; one for each core if not given.", min=1)] = None,
    trajectories: Annotated[bool, typer.Option(help="Write every episode down in full.")] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Play failed episodes again.")] = False,
    folder: Annotated[Path, typer.Option("--out", help="Folder of results; what is there is not played again.")] = Path(
        "runs/bench"
    ),
    as_json: JsonOption = False,
) -> None:
    """Compare agents: every task once for each seed, a leaderboard with intervals, paired tests and figures.

    Continues where an earlier run stopped. Exit code 3: an agent raised, hung or returned nonsense somewhere; those
    episodes count as not solved and the table says how many.
    """
    if episodes != "all" and not episodes.isdecimal():
        raise ValueError(f"--episodes must be 'all' or a number, got {episodes!r}")
    _check_extras()
    shared = env_arguments(split, max_episode_steps, set_)
    panels = {name: find_panel(name) for name in panel or ()}
    if panels and env != [DEFAULT_ENV]:
        raise ValueError("give --panel or --env, not both: a panel names its environment")
    envs = tuple(
        Spec(chosen.env, chosen.env_arguments(part, shared), name) for name, (chosen, part) in panels.items()
    ) or tuple(Spec(spec.name, {**shared, **spec.options}, spec.label) for spec in map(parse_spec, env))
    plan = Plan(
        agents=tuple(map(parse_spec, agent)),
        envs=envs,
        seeds=tuple(range(seeds)),
        episodes=None if episodes == "all" else int(episodes),
        num_envs=num_envs,
        timeout=timeout,
        keep_trajectories=trajectories,
        panels=panels,
    )
    for spec in plan.agents:
        _check_name(spec)
    with _Screen() as screen:
        try:
            summary = harness.run(
                plan,
                folder,
                workers=workers or os.cpu_count() or 1,
                retry_failed=retry_failed,
                watch=screen,
                command=shlex.join(["opid-gym", *sys.argv[1:]]),
            )
        except KeyboardInterrupt:
            talk.print(f"Stopped; the {screen.done} episodes of this run are kept. The same command goes on.")
            raise
    rows = write_report(folder)
    _tell(folder, rows, summary, as_json)
    if summary.failed or summary.not_run or any(row.failed for row in rows):
        raise typer.Exit(FAILED)


def write_report(folder: Path) -> list[Row]:
    """Write the leaderboard (Markdown, CSV), the comparisons and the figure of all results in a benchmark's folder."""
    results = read_results(folder / harness.RESULTS_FILE)
    rows, pairs = leaderboard(results, by_task_type=True), comparisons(results)
    if not rows:
        return rows
    from opid_gym.bench.figures import bars, save

    noted = parse_json((folder / harness.NOTES_FILE).read_bytes())
    tasks = played_tasks(noted)
    for measure in ("success", "mean_return"):
        save(bars(rows, measure, tasks), folder / measure)
    commands = "\n".join(["```bash", *noted["commands"], "```"])
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    notes = [
        "Intervals are 95 %, over tasks (see `opid_gym.bench.statistics`). Failed episodes count as not solved. "
        "Steps, tokens, seconds and cost are means over episodes; seconds are the agent's own.",
        "",
        f"Made with opid-gym {opid_gym.__version__} on Python {platform.python_version()}, {machine}, by:",
        "",
        commands,
        "",
        "![success](success.png)",
        "",
        "![mean return](mean_return.png)",
    ]
    write_file(folder / "leaderboard.md", to_markdown(rows, pairs, notes, tasks))
    write_rows_csv(folder / "leaderboard.csv", rows)
    write_pairs_csv(folder / "comparisons.csv", pairs)
    return rows


def played_tasks(noted: Mapping[str, Any]) -> dict[str, str]:
    """What the tasks of each environment are, in words, from a benchmark's notes."""
    return {label: describe_source(about.get("source")) for label, about in noted.get("data", {}).items()}


class _Screen(Watch):
    """A bar of episodes, and a line for each shard that is over."""

    def __init__(self) -> None:
        self.done = 0
        self._left: dict[Shard, int] = {}
        self._counts: defaultdict[Shard, Counter[str]] = defaultdict(Counter)
        self._stack = ExitStack()

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def started(self, to_play: Mapping[Shard, int], already_there: int) -> None:
        total = sum(to_play.values())
        if already_there:
            talk.print(f"{already_there} episodes are there already, {total} are to be played.")
        self._left = dict(to_play)
        self._advance = self._stack.enter_context(progress_bar("episodes", total))

    def finished(self, shard: Shard, result: EpisodeResult) -> None:
        self.done += 1
        self._advance(1)
        counts = self._counts[shard]
        counts.update(solved=result.success, failed=result.failure is not None)
        self._left[shard] -= 1
        if result.failure:
            talk.print(f"[red]failed[/] {escape(f'{shard}, {result.task_id}: {result.failure}')}", soft_wrap=True)
        if not self._left[shard]:
            talk.print(escape(f"{shard}: {counts['solved']} solved, {counts['failed']} failed"), soft_wrap=True)

    def repaired(self, what: str) -> None:
        talk.print(f"[yellow]torn, and made again[/] {escape(what)}", soft_wrap=True)

    def not_run(self, shard: Shard, reason: str) -> None:
        talk.print(f"[red]not run[/] {escape(f'{shard}: {reason}')}", soft_wrap=True)


def _tell(folder: Path, rows: list[Row], summary: Summary, as_json: bool) -> None:
    noted = parse_json((folder / harness.NOTES_FILE).read_bytes())
    if as_json:
        sources = noted.get("data", {})
        shown = [
            {
                "env": row.env,
                "agent": row.agent,
                "episodes": row.episodes,
                "failed": row.failed,
                "success": row.success.estimate,
                "low": row.success.low,
                "high": row.success.high,
                "mean_return": row.mean_return.estimate,
                "valid_actions": row.valid_actions,
                "length": row.length,
                "source": sources.get(row.env, {}).get("source"),
            }
            for row in rows
            if row.task_type == ALL
        ]
        not_run = {str(shard): reason for shard, reason in summary.not_run.items()}
        print(json.dumps({"out": str(folder), "played": summary.played, "not_run": not_run, "leaderboard": shown}))
        return
    for name in dict.fromkeys(row.env for row in rows):
        about = played_tasks(noted).get(name)
        table = Table(
            title=f"{name}: {about}" if about else name,
            title_justify="left",
            box=None,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        table.add_column("agent", overflow="fold")
        for column in ("success", "95 % interval", "return", "valid actions", "steps", "episodes", "failed", "seconds"):
            table.add_column(column, justify="right", no_wrap=column == "95 % interval")
        for row in rows:
            if row.env == name and row.task_type == ALL:
                table.add_row(
                    row.agent,
                    f"{row.success.estimate:.1%}",
                    f"{row.success.low:.1%} to {row.success.high:.1%}",
                    f"{row.mean_return.estimate:.3f}",
                    f"{row.valid_actions:.1%}",
                    f"{row.length:.1f}",
                    str(row.episodes),
                    str(row.failed),
                    f"{row.seconds:.3g}" if row.seconds >= 0.01 else "< 0.01",
                )
        out.print(table)
    talk.print(f"Leaderboard: {folder / 'leaderboard.md'}")


def _check_name(spec: Spec) -> None:
    """Refuse a name that nothing stands behind before anything is played; heavy imports are left to the workers."""
    head = spec.name.partition(":")[0]
    if head not in registered_agents() and "{env}" not in spec.name:
        find_agent(spec)


def _check_extras() -> None:
    """Fail before hours of play, not after."""
    for module in ("scipy", "matplotlib"):
        import_module(module)
