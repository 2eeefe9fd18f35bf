"""The command `opid-gym sb3`. Torch takes seconds to import, so it is imported when the command runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opid_gym.cli import (
    DEFAULT_ENV,
    JsonOption,
    SeedOption,
    SetOption,
    SplitOption,
    StepsOption,
    env_arguments,
)
from opid_gym.console import out as console
from opid_gym.console import progress_bar, talk
from opid_gym.roster import Spec, parse_options, parse_spec

if TYPE_CHECKING:
    from opid_gym.evaluation import Evaluation

sb3 = typer.Typer(help="Stable-Baselines3 agents.", no_args_is_help=True)


@sb3.callback()
def _group() -> None:
    """Stable-Baselines3 agents that choose among candidate actions by their embeddings."""


@sb3.command("train")
def train_command(
    algo: Annotated[str, typer.Option(help="ppo, dqn or recurrent-ppo.")] = "ppo",
    env: Annotated[str, typer.Option(help="Where it is trained: 'ID key=value ...'.")] = DEFAULT_ENV,
    split: SplitOption = None,
    max_episode_steps: StepsOption = None,
    set_: SetOption = None,
    steps: Annotated[int, typer.Option(help="Environment steps of training.", min=1)] = 100_000,
    encoder: Annotated[
        str, typer.Option(help="words[:DIMENSION], minilm, or the folder of a sentence-transformers model.")
    ] = "words:256",
    max_actions: Annotated[int, typer.Option(help="Candidates it can choose among.", min=1)] = 32,
    hidden: Annotated[
        str | None, typer.Option(help="Regular expression of actions that are not offered; a default if not given.")
    ] = None,
    num_envs: Annotated[int, typer.Option(help="Games trained in at once.", min=1)] = 8,
    arguments: Annotated[
        list[str] | None, typer.Option("--arg", help="Argument of the algorithm, as key=value; may be repeated.")
    ] = None,
    eval_split: Annotated[
        str | None, typer.Option(help="Split of the tests during training; that of training if not given.")
    ] = None,
    eval_episodes: Annotated[int, typer.Option(help="Tasks of a test.", min=1)] = 100,
    evaluations: Annotated[int, typer.Option(help="Tests during training, besides one before it.", min=1)] = 5,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option(help="Folder of the agent.")] = Path("runs/sb3"),
    as_json: JsonOption = False,
) -> None:
    """Train an agent; play with it as --agent sb3:DIR. Writes its learning curve beside it."""
    from opid_agents.sb3 import CURVE_FILE, SB3Settings, train
    from opid_gym.bench.figures import learning_curves, save

    given = parse_spec(env)
    world = Spec(given.name, {**env_arguments(split, max_episode_steps, set_), **given.options}, given.label)
    settings = SB3Settings(
        algo, world, steps, encoder, max_actions, num_envs=num_envs, seed=seed, arguments=parse_options(arguments or ())
    )
    if hidden is not None:
        settings = replace(settings, hidden=hidden)
    tested = Spec(world.name, {**world.options, "split": eval_split}) if eval_split else world

    def show(done: int, result: Evaluation) -> None:
        talk.print(f"{done:>8} steps: success {result.success} on {len(result.episodes)} tasks")

    with progress_bar("steps", steps) as advance:
        result = train(
            settings,
            out,
            eval_env=tested,
            eval_episodes=eval_episodes,
            evaluations=evaluations,
            on_steps=advance,
            on_evaluation=show,
        )
    rows = _rows(out / CURVE_FILE)
    save(learning_curves({algo: [_curve(rows)]}, x_label="environment steps", title=world.label), out / "curve")
    if as_json:
        print(json.dumps({"out": str(out), "curve": rows}))
        return
    console.print(f"{algo}: success {result.success}. Play with it: opid-gym bench --agent sb3:{out} ...")


@sb3.command("curves")
def curves_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of trained agents.")],
    out: Annotated[Path, typer.Option(help="Write OUT.png and OUT.svg.")],
    title: Annotated[str, typer.Option(help="Over the picture.")] = "",
) -> None:
    """Draw learning curves; agents that differ in nothing but their seed are one curve with an interval."""
    from opid_agents.sb3 import CURVE_FILE, SB3Settings
    from opid_gym.bench.figures import learning_curves, save

    alike: list[tuple[SB3Settings, list[Path]]] = []
    for folder in folders:
        settings = replace(SB3Settings.load(folder), seed=0)
        for known, paths in alike:
            if known == settings:
                paths.append(folder)
                break
        else:
            alike.append((settings, [folder]))
    names = [settings.algo for settings, _ in alike]
    labelled = {
        settings.algo if names.count(settings.algo) == 1 else f"{settings.algo}, {paths[0]}": [
            _curve(_rows(path / CURVE_FILE)) for path in paths
        ]
        for settings, paths in alike
    }
    save(learning_curves(labelled, x_label="environment steps", title=title), out)
    talk.print(f"{out}.png, {out}.svg")


def _rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _curve(rows: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(row["steps"], row["success"]) for row in rows]
