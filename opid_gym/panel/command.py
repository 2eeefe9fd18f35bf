"""The command `opid-gym panel`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from opid_gym.cli import JsonOption, SetOption, env_arguments
from opid_gym.console import out, progress_bar, talk
from opid_gym.panel.manifest import DATA_ARGUMENTS, Panel, load_panel, panel_names, save_panel
from opid_gym.panel.transcripts import make_panel
from opid_gym.panel.transcripts import verify as verify_panel

DIFFERENT = 3  # exit code: the games here are not the panel's
_SHOWN = 5


def panel(
    name: Annotated[
        str | None, typer.Argument(help="A bundled panel, or a file NAME.json; without one all are listed.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Play every transcript again and compare.")] = False,
    make: Annotated[
        str | None, typer.Option("--make", metavar="ENV", help="Make the file NAME.json from this environment.")
    ] = None,
    list_: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="LIST=SPLIT[:COUNT]", help="For --make: a list of tasks; may be repeated."),
    ] = None,
    version: Annotated[int, typer.Option(help="For --make: the panel's version.", min=1)] = 1,
    about: Annotated[str, typer.Option(help="For --make: one line for people.")] = "",
    max_episode_steps: Annotated[int, typer.Option(help="For --make: the episode limit.", min=1)] = 50,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fixed lists of tasks with the hashes of their transcripts: list them, prove them, make your own.

    With --verify, exit code 3 says that the games here are not the panel's. Where the data lies is said with --set,
    for example --set data_dir=PATH; it is not part of the panel.
    """
    if name is None:
        _list(as_json)
        return
    where = env_arguments(None, None, set_)
    if make is not None:
        data: dict[str, Any] = {key: where.pop(key) for key in DATA_ARGUMENTS if key in where}
        wanted = dict(_read_list(text) for text in list_ or [])
        if not name.endswith(".json") or not wanted:
            raise ValueError("--make needs a file NAME.json to write and at least one --list LIST=SPLIT[:COUNT]")
        with progress_bar("play", None) as advance:
            made = make_panel(
                Path(name).stem, make, wanted, version=version, arguments=where, data=data, about=about,
                max_episode_steps=max_episode_steps, on_task=lambda: advance(1),
            )  # fmt: skip
        save_panel(made, name)
        _show(made, {}, as_json)
        return
    chosen = load_panel(name)
    if not verify:
        _show(chosen, {}, as_json)
        return
    with progress_bar("play again", chosen.tasks) as advance:
        result = verify_panel(chosen, data=where, on_task=lambda: advance(1))
    different = [f"{item.list}: {item.task_id}: {item.reason}" for item in result.differences]
    _show(chosen, {"verified": result.verified, "differences": different}, as_json)
    if different:
        raise typer.Exit(DIFFERENT)


def _list(as_json: bool) -> None:
    panels = [load_panel(name) for name in panel_names()]
    if as_json:
        print(json.dumps({panel.name: _describe(panel) for panel in panels}))
        return
    for number, panel in enumerate(panels):
        if number:
            out.print()
        _show(panel, {}, as_json)
        out.print(panel.about, soft_wrap=True, markup=False)


def _describe(panel: Panel) -> dict[str, Any]:
    return {
        "name": panel.name,
        "version": panel.version,
        "env": panel.env,
        "source": panel.source,
        "tasks": panel.tasks,
        "lists": {name: len(part.tasks) for name, part in panel.lists.items()},
        "hash": panel.hash,
    }


def _show(panel: Panel, found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**_describe(panel), **found}))
        return
    lists = ", ".join(f"{name} {len(part.tasks)}" for name, part in panel.lists.items())
    out.print(f"{panel.name} version {panel.version}: {panel.env}, {panel.source} games; {lists}", soft_wrap=True)
    out.print(f"hash {panel.hash}", soft_wrap=True)
    if not found:
        return
    out.print(f"{found['verified']} of {panel.tasks} transcripts agree.")
    for line in found["differences"][:_SHOWN]:
        out.print(f"  {line}", soft_wrap=True, markup=False)
    if (more := len(found["differences"]) - _SHOWN) > 0:
        out.print(f"  and {more} more")
    if found["differences"]:
        talk.print("The games here are not the panel's: results are not comparable.")


def _read_list(text: str) -> tuple[str, tuple[str, int | None]]:
    name, equals, rest = text.partition("=")
    split, colon, count = rest.partition(":")
    if not (name and equals and split) or (colon and not count.isdecimal()):
        raise ValueError(f"--list is written LIST=SPLIT or LIST=SPLIT:COUNT, got {text!r}")
    return name, (split, int(count) if colon else None)
