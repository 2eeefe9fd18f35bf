"""The `opid-gym` command.

Commands that need a learner, a world or a language model live in other packages and are found through the entry-point
group ``opid_gym.commands``; what ``opid-gym serve NAME`` starts through ``opid_gym.serve``; agents by name through
``opid_gym.agents`` and worlds through ``opid_gym.worlds``. This module imports none of them.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import typer
from rich.console import Console
from rich.table import Table

import opid_gym
from opid_gym.agent import Decision
from opid_gym.bench.harness import choose_tasks
from opid_gym.console import escape, out, progress_bar, talk
from opid_gym.evaluation import Evaluation, evaluate
from opid_gym.named import explain_missing
from opid_gym.panel import find_panel, panel_tasks
from opid_gym.registration import make_envs, registered_worlds
from opid_gym.roster import make_agent, parse_options
from opid_gym.trajectory import Trajectory, write_jsonl
from opid_gym.world import World, describe_source

# What a user can cause by a wrong argument or file. Anything else is a bug and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, NotImplementedError, gym.error.Error)

DEFAULT_ENV = "opid/ALFWorld-v0"
ANY_WORDS = {"ignore_unknown_options": True, "allow_extra_args": True}

app = typer.Typer(
    name="opid-gym",
    help="Text environments for training and comparing language agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
serve = typer.Typer(help="Start a server on this machine.", no_args_is_help=True)

AgentOption = Annotated[
    str,
    typer.Option(
        help="Name of an agent, module:Class, or folder of a saved language model; 'NAME key=value' for options."
    ),
]
EnvOption = Annotated[str, typer.Option("--env", help="Registered environment id (see `opid-gym envs`).")]
SplitOption = Annotated[str | None, typer.Option(help="Which tasks, e.g. train, valid_seen or valid_unseen.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Further argument of the environment, as key=value; may be repeated."),
]
StepsOption = Annotated[int | None, typer.Option(help="Episode limit; the benchmark's own if not given.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
TokenOption = Annotated[
    str | None,
    typer.Option(envvar="OPID_GYM_TOKEN", help="Ask clients for this bearer token; needed for other machines."),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Answer other machines without a token.")]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(help="Another name under which clients reach this server without a token; may be repeated."),
]
PanelOption = Annotated[
    str | None,
    typer.Option(
        "--panel",
        help="Play the tasks of a panel (see `opid-gym panel`), NAME or NAME/LIST; its list `test` if none is named. "
        "It sets environment, split and episode limit.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of tables.")]


def main() -> None:
    """Entry point of the `opid-gym` script."""
    sys.path.insert(0, str(Path.cwd()))  # agents and worlds of the user's own are found where the command is run
    for group, commands in (("opid_gym.commands", app), ("opid_gym.serve", serve)):
        for point in sorted(entry_points(group=group)):
            try:
                plugged = point.load()
            except ModuleNotFoundError as error:  # one broken plug-in must not take the other commands away
                commands.command(point.name, context_settings=ANY_WORDS)(explain_errors(_missing(error)))
                continue
            if isinstance(plugged, typer.Typer):  # a command with commands of its own
                for command in plugged.registered_commands:
                    command.callback = explain_errors(command.callback) if command.callback else None
                commands.add_typer(plugged, name=point.name)
            else:
                commands.command(point.name)(explain_errors(plugged))
    if serve.registered_commands:
        app.add_typer(serve, name="serve")
    app()


def explain_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose user errors end in one line and exit code 2, and which ends quietly when interrupted."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            talk.print("\ninterrupted")
            raise typer.Exit(130) from None
        except USER_ERRORS as error:
            if "--debug" in sys.argv:
                raise
            message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if isinstance(error, ModuleNotFoundError):
                message = explain_missing(error)
            talk.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
            raise typer.Exit(2) from None

    return wrapped


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(opid_gym.__version__)
        raise typer.Exit


@app.command("envs")
@explain_errors
def envs_command(as_json: JsonOption = False) -> None:
    """List the environments."""
    if as_json:
        rows = [
            {"id": w.id, "max_episode_steps": w.max_episode_steps, "summary": w.summary} for w in registered_worlds()
        ]
        print(json.dumps(rows))
        return
    table = Table("environment", "steps", "what it is", box=None)
    for world in registered_worlds():
        table.add_row(world.id, str(world.max_episode_steps), world.summary)
    out.print(table)


@app.command("eval")
@explain_errors
def eval_command(
    agent: AgentOption,
    env: EnvOption = DEFAULT_ENV,
    split: SplitOption = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            help="Number of tasks: the same random sample as in `bench`, whatever the seed; all if not given.", min=1
        ),
    ] = None,
    num_envs: Annotated[int, typer.Option(help="Games played at once.", min=1)] = 32,
    max_episode_steps: StepsOption = None,
    seed: SeedOption = 0,
    set_: SetOption = None,
    panel: PanelOption = None,
    trajectories: Annotated[
        Path | None, typer.Option("--trajectories", help="Write the episodes to this .jsonl.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Play the tasks of a split once each and report success by task type, with 95 % intervals."""
    if trajectories is not None:
        trajectories.parent.mkdir(parents=True, exist_ok=True)  # now, and not after all has been played
    arguments = env_arguments(split, max_episode_steps, set_)
    chosen = None
    if panel is not None:
        chosen, part = find_panel(panel)
        env, arguments = chosen.env, chosen.env_arguments(part, arguments)
    envs = make_envs(env, num_envs, **arguments)
    tasks = envs.world.task_ids if chosen is None else panel_tasks(chosen, part, envs.world)
    task_ids = choose_tasks(tasks, episodes)
    player = make_agent(agent, envs, seed=seed)
    settings = {"env": env, "agent": agent, "split": arguments.get("split"), "seed": seed, "env_arguments": arguments}
    if chosen is not None:
        settings |= chosen.stamp(part)
    played: list[Trajectory] = []
    with progress_bar("tasks", len(task_ids)) as advance:

        def on_episode(trajectory: Trajectory) -> None:
            advance(1)
            if trajectories is not None:
                played.append(trajectory)

        result = evaluate(envs, player, task_ids, settings=settings, on_episode=on_episode)
    envs.close()
    if trajectories is not None:
        write_jsonl(trajectories, sorted(played, key=lambda trajectory: trajectory.metadata["index"]))
    if as_json:
        print(result.to_json())
    else:
        about = describe_source(result.settings["source"])
        out.print(result_table(result, title=f"{agent} on {env}"))
        totals = result.to_dict()
        out.print(
            f"{about}: mean return {totals['mean_return']:.3f}, valid actions {totals['valid_action_ratio']:.1%}, "
            f"mean length {totals['mean_length']:.1f} steps",
            soft_wrap=True,
        )


@app.command("play")
@explain_errors
def play_command(
    env: EnvOption = DEFAULT_ENV,
    agent: Annotated[str | None, typer.Option(help="Watch this agent instead of playing yourself.")] = None,
    split: SplitOption = None,
    task_id: Annotated[str | None, typer.Option(help="Play this task.")] = None,
    games: Annotated[int, typer.Option(help="How many games.", min=1)] = 1,
    max_episode_steps: StepsOption = None,
    delay: Annotated[float, typer.Option(help="Seconds between an agent's steps.", min=0.0)] = 0.3,
    seed: SeedOption = 0,
    set_: SetOption = None,
) -> None:
    """Play in the terminal, or watch an agent play."""
    arguments = env_arguments(split, max_episode_steps, set_)
    envs = make_envs(env, 1, seed=seed, **arguments)
    player = Person(out, envs.world.action_help) if agent is None else make_agent(agent, envs, seed=seed)
    won = 0
    for _ in range(games):
        options = None if task_id is None else {"task_ids": [task_id]}
        observations, infos = envs.reset(options=options)
        player.reset(infos["_task"])
        out.rule(f"[bold]{escape(infos['task'][0])}[/]")
        length, over, total = 0, False, 0.0
        while not over:
            if agent is not None:
                out.print(escape(observations[0]) + "\n")
            try:
                decision = player.act(observations, infos)[0]
            except EOFError:
                out.print(f"\nleft after {length} {_steps(length)}, not solved: bye")
                return
            if isinstance(decision, str):
                decision = Decision(decision)
            if agent is not None:
                note = "" if decision.valid else f"   [red]({escape(decision.invalid_reason or 'invalid')})[/]"
                out.print(f"[bold cyan]> {escape(decision.action)}[/]{note}")
                time.sleep(delay)
            observations, rewards, terminations, truncations, infos = envs.step([decision.action])
            length += 1
            total += float(rewards[0])
            over = bool(terminations[0] or truncations[0])
        won += bool(infos["won"][0])
        out.print(escape(observations[0]) + "\n")
        outcome = "[bold green]solved[/]" if infos["won"][0] else "[bold red]not solved[/]"
        limit = ", the limit" if truncations[0] and not terminations[0] else ""
        out.print(f"{outcome} in {length} {_steps(length)}{limit}; return {total:g}")
    if games > 1:
        out.print(f"{won} of {games} games solved")
    envs.close()


def _steps(count: int) -> str:
    return "step" if count == 1 else "steps"


class Person:
    """The agent protocol for somebody at a keyboard.

    Args:
        console: to read from and write to.
        action_help: how to act (`opid_gym.world.World.action_help`), said when help is asked for.
    """

    def __init__(self, console: Console, action_help: str) -> None:
        self._console = console
        self._action_help = action_help

    def reset(self, mask: Any) -> None:
        """A new game: say how to get help."""
        self._console.print("[dim]Type an action or its number; ? lists the actions possible here, Ctrl-D ends.[/]\n")

    def act(self, observations: Sequence[str], infos: Any) -> list[str]:
        """Ask until there is a command."""
        self._console.print(escape(observations[0]) + "\n")
        while True:
            command = self._console.input("[bold cyan]> [/]").strip()
            actions = infos["admissible_actions"][0]
            if command == "?":
                self._list(actions)
            elif actions is not None and command.isdecimal():
                if 1 <= int(command) <= len(actions):
                    self._console.print(f"[dim]{escape(actions[int(command) - 1])}[/]")
                    return [actions[int(command) - 1]]
                self._console.print(f"[yellow]{command} is not a number from 1 to {len(actions)}; ? lists them[/]")
            elif command:
                if actions is not None and command not in actions:
                    self._console.print("[dim](not one of the actions possible here; ? lists them)[/]")
                return [command]

    def _list(self, actions: Sequence[str] | None) -> None:
        if actions is not None:
            width = len(str(len(actions)))
            for number, action in enumerate(actions, 1):
                self._console.print(f"[dim]{number:>{width}}[/]  {escape(action)}", soft_wrap=True)
        if actions is None or self._action_help != World.action_help:
            self._console.print(escape(self._action_help), soft_wrap=True)


def env_arguments(split: str | None, max_episode_steps: int | None, pairs: Sequence[str] | None) -> dict[str, Any]:
    """The keyword arguments of an environment from the command line's options.

    Raises:
        ValueError: a ``--set`` is not of the form key=value.
    """
    arguments = parse_options(pairs or (), "--set")
    if split is not None:
        arguments["split"] = split
    if max_episode_steps is not None:
        arguments["max_episode_steps"] = max_episode_steps
    return arguments


def result_table(result: Evaluation, title: str) -> Table:
    """Success by task type, with intervals, as a table."""
    table = Table("task type", "episodes", "success", "95 % interval", title=title, title_justify="left", box=None)
    counts = result.to_dict()["by_task_type"]
    rows = [*result.by_task_type().items(), ("all", result.success)]
    for name, interval in rows:
        count = counts[name]["episodes"] if name != "all" else len(result.episodes)
        table.add_row(
            name,
            str(count),
            f"{interval.estimate:.1%}",
            f"{interval.low:.1%} to {interval.high:.1%}",
            style="bold" if name == "all" else "",
        )
    return table


def _missing(problem: ModuleNotFoundError) -> Callable[[], None]:
    """What stands in for a command that cannot be loaded: it says why, whatever it is asked."""

    def missing() -> None:
        raise problem

    missing.__doc__ = f"Not available: {escape(str(problem))}."
    return missing


if __name__ == "__main__":
    main()
