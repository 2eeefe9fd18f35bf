"""What a panel is, and how it lies on disk: one JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from opid_gym.files import write_file
from opid_gym.named import did_you_mean

_KEYS = ("name", "version", "about", "env", "arguments", "max_episode_steps", "source", "lists")
_BUNDLED = files("opid_gym.panel") / "manifests"


DATA_ARGUMENTS = ("data_dir", "corpus", "dataset", "retriever")
"""Arguments of environments that say where data lies on a machine; they are no part of a panel."""


class PanelError(ValueError):
    """A panel cannot be used; the message names what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TaskList:
    """The tasks of one purpose.

    Attributes:
        split: the world's split they are in.
        tasks: task id -> hash of its expert's transcript (`opid_gym.panel.transcripts`), in the order they are played.
    """

    split: str
    tasks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Panel:
    """Fixed tasks of one world.

    Attributes:
        name: what it is called in commands and results.
        version: goes up when the tasks or their transcripts change; results of different versions are not compared.
        env: registered environment id.
        arguments: further arguments of the environment, without the split and without where data lies.
        max_episode_steps: the episode limit under which results are reported.
        source: ``generated``, ``official`` or ``given``, as the world says.
        lists: ``train``, ``test`` and whatever else there is.
        about: one line for people.
    """

    name: str
    version: int
    env: str
    arguments: Mapping[str, Any]
    max_episode_steps: int
    source: str
    lists: Mapping[str, TaskList]
    about: str = ""

    @property
    def tasks(self) -> int:
        """How many tasks there are, over all lists."""
        return sum(len(part.tasks) for part in self.lists.values())

    @property
    def hash(self) -> str:
        """SHA-256 of the manifest (all but `about`): equal for equal tasks with equal transcripts, on every machine."""
        raw = to_json(self)
        del raw["about"]
        text = json.dumps(raw, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def task_list(self, name: str) -> TaskList:
        """One of the lists.

        Raises:
            PanelError: there is no such list; the message gives those there are.
        """
        try:
            return self.lists[name]
        except KeyError:
            raise PanelError(f"panel {self.name!r} has no list {name!r}; it has: {sorted(self.lists)}") from None

    def list_of(self, split: str) -> str:
        """The name of the list whose tasks are of a split.

        Raises:
            PanelError: there is none.
        """
        for name, part in self.lists.items():
            if part.split == split:
                return name
        splits = {name: part.split for name, part in self.lists.items()}
        raise PanelError(f"panel {self.name!r} has no list of split {split!r}; its lists have the splits {splits}")

    def env_arguments(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the environment that plays one of the lists.

        Args:
            name: the list.
            given: further arguments, which say where data lies.

        Raises:
            PanelError: no such list, or an argument that the panel sets already.
        """
        fixed = {**self.arguments, "split": self.task_list(name).split, "max_episode_steps": self.max_episode_steps}
        if taken := sorted(set(given) & set(fixed)):
            raise PanelError(f"panel {self.name!r} sets {', '.join(taken)}: leave out what it sets ({sorted(fixed)})")
        return {**fixed, **given}

    def stamp(self, name: str) -> dict[str, Any]:
        """What a result says about the tasks behind it: panel, version, list and hash."""
        return {"panel": self.name, "panel_version": self.version, "panel_list": name, "panel_hash": self.hash}


def to_json(panel: Panel) -> dict[str, Any]:
    """JSON values that `from_json` reads."""
    return {
        "name": panel.name,
        "version": panel.version,
        "about": panel.about,
        "env": panel.env,
        "arguments": dict(panel.arguments),
        "max_episode_steps": panel.max_episode_steps,
        "source": panel.source,
        "lists": {name: {"split": part.split, "tasks": dict(part.tasks)} for name, part in panel.lists.items()},
    }


def from_json(raw: object, where: str) -> Panel:
    """Read a manifest.

    Args:
        raw: what `json.loads` made of it.
        where: the file's name, for errors.

    Raises:
        PanelError: a key is missing, unknown or of the wrong form.
    """
    if not isinstance(raw, dict) or set(raw) != set(_KEYS):
        given = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise PanelError(f"{where} is no panel: it must be a JSON object with exactly {list(_KEYS)}, got {given}")
    lists: dict[str, TaskList] = {}
    try:
        for name, part in raw["lists"].items():
            tasks = {str(task): str(value) for task, value in part["tasks"].items()}
            lists[name] = TaskList(str(part["split"]), tasks)
        return Panel(
            name=str(raw["name"]),
            version=int(raw["version"]),
            env=str(raw["env"]),
            arguments=dict(raw["arguments"]),
            max_episode_steps=int(raw["max_episode_steps"]),
            source=str(raw["source"]),
            lists=lists,
            about=str(raw["about"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PanelError(f"{where} is no panel: {type(error).__name__}: {error}") from None


def panel_names() -> list[str]:
    """The panels that come with the package."""
    found = (entry.name for entry in _BUNDLED.iterdir())
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json"))


def load_panel(name: str) -> Panel:
    """A bundled panel by its name, or one of your own by its file (``*.json``).

    Raises:
        PanelError: there is none, or the file is no panel.

    >>> load_panel("households").env
    'opid/ALFWorld-v0'
    """
    if name.endswith(".json"):
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
        except OSError as error:
            raise PanelError(f"cannot read panel {name!r}: {error.strerror}") from None
    elif name in panel_names():
        text = (_BUNDLED / f"{name}.json").read_text(encoding="utf-8")
    else:
        hint = did_you_mean(name, panel_names())
        raise PanelError(f"unknown panel {name!r}; {hint and f'{hint} '}allowed: {panel_names()}, or a file NAME.json")
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise PanelError(f"panel {name!r} is not JSON: {error}") from None
    return from_json(raw, f"panel {name!r}")


def find_panel(text: str) -> tuple[Panel, str]:
    """A panel and one of its lists, as commands take them: ``NAME`` (its list ``test``) or ``NAME/LIST``.

    Raises:
        PanelError: there is no such panel or list.

    >>> panel, part = find_panel("households-small/test_seen")
    >>> panel.task_list(part).split
    'valid_seen'
    """
    name, part = (text, "test") if text.endswith(".json") or "/" not in text else text.rsplit("/", 1)
    panel = load_panel(name)
    panel.task_list(part)
    return panel, part


def save_panel(panel: Panel, path: str | Path) -> None:
    """Write a panel to one JSON file, one task a line."""
    write_file(path, json.dumps(to_json(panel), indent=1, ensure_ascii=False) + "\n")
