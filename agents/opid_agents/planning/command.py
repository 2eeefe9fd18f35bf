"""The command `opid-gym plan`. Torch takes seconds to import, so it is imported when the command runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from opid_agents.commands import Changes, JsonOption, RecipeOption, load_recipe
from opid_gym.console import out as printed

if TYPE_CHECKING:
    from opid_agents.planning.estimate import Plan


def plan(
    changes: Changes = None,
    recipe: RecipeOption = "paper-alfworld",
    gpus: Annotated[int, typer.Option(help="Number of GPUs; 0: this machine's CPU, after a calibration.", min=0)] = 1,
    gpu: Annotated[str, typer.Option(help="Kind of the GPUs: a100, h100, h200, l40s or rtx4090.")] = "h100",
    reply_tokens: Annotated[
        int | None, typer.Option(help="Mean tokens of a reply; half of the limit if not given.", min=1)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say before a run what it needs: memory, tokens, seconds of an iteration and GPU-hours, with every assumption."""
    from opid_agents.planning.plan import make_plan

    made = make_plan(load_recipe(recipe, changes), gpus=gpus, kind=gpu, reply_tokens=reply_tokens)
    if as_json:
        print(json.dumps(made.to_dict()))
        return
    _show(made)


def _show(made: Plan) -> None:
    printed.print(f"[bold]{escape(made.recipe)}[/] on {escape(made.machine)}, parallel: {made.parallel}")
    if made.fits is not None:
        memory = Table("memory of a GPU", "GiB", box=None)
        for name, value in made.memory.items():
            memory.add_row(name, f"{value / 2**30:.1f}", style="bold" if name == "peak" else "")
        printed.print(memory)
        if not made.fits:
            printed.print(
                "[bold red]It does not fit.[/] Less is needed with more GPUs, lora.rank=32, fewer model.train_tokens, "
                "or model.gradient_checkpointing=true.",
                soft_wrap=True,
            )
    tokens = Table("tokens of an iteration", "", box=None)
    for name, value in made.tokens.items():
        tokens.add_row(name, f"{value:,.0f}")
    printed.print(tokens)
    seconds = Table("stage", "seconds of an iteration", "hours of all devices, whole run", box=None)
    for name, value in made.seconds.items():
        seconds.add_row(name, f"{value:.3g}", f"{made.hours[name]:.3g}")
    seconds.add_row("all", f"{made.iteration:.3g}", f"{sum(made.hours.values()):.3g}", style="bold")
    printed.print(seconds)
    printed.print("Assumptions:")
    for sentence in made.assumptions:
        printed.print(f"- {escape(sentence)}", soft_wrap=True)
