"""One HTML file with everything in it: style, code and data. It loads nothing, so it works offline and can be sent.

The data is an index, which the page reads when it opens, and one body for each trajectory, which it unpacks when
somebody looks at it. Both are gzipped JSON in base64: text from a world can never be read as markup, and a run of many
steps is a small file. The page's content security policy allows only the style and the script whose hashes it names.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib import resources
from types import NoneType
from typing import Any

import numpy as np

from opid_gym.bench.statistics import success_rate
from opid_gym.trajectory import Step
from opid_gym.viewer.reading import Collection, Run
from opid_gym.world import describe_source

# In the order in which each may use those before it.
_SCRIPTS = ("data", "text", "tokens", "charts", "overview", "list", "trajectory", "app")
_CHANNELS = ("outcome", "skill")
# Colours are strongest at this quantile of the magnitudes, so that one outlier does not make all others pale.
_SCALE_QUANTILE = 0.98


def build_page(collection: Collection) -> str:
    """The page, as HTML in ASCII."""
    style, script = _asset("viewer.css"), "\n".join(_module(name) for name in _SCRIPTS)
    runs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    bodies: list[str] = []
    for number, run in enumerate(collection.runs):
        scale = _Scale()
        for row, body in _rows(number, run):
            for step in body["steps"]:
                scale.add(step.get("tokens", {}))
            bodies.append(_pack(body))
            rows.append(row)
        runs.append({**_describe_run(run), "scale": scale.strongest()})
    index = {"title": collection.title, "problems": collection.problems, "runs": runs, "rows": rows}
    return _fill(
        _asset("viewer.html"),
        title=html.escape(_ascii(collection.title)),
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        index=_pack(index),
        bodies="\n".join(
            f'<script type="text/plain" id="body-{number}">{body}</script>' for number, body in enumerate(bodies)
        ),
    )


def _describe_run(run: Run) -> dict[str, Any]:
    success = {name: _rates(record) for name, record in run.evaluations.items()}
    if run.episodes:
        success["results"] = _count(
            (str(e["task_id"]), str(e.get("task_type", "")), bool(e.get("success")), _number(e.get("episode_return")))
            for e in run.episodes
        )
    else:
        trajectories = run.trajectories.values()
        success["recorded episodes"] = _count(
            (t.task_id, t.task_type, bool(t.success), t.episode_return) for t in trajectories
        )
    return {
        "name": run.name,
        "agent": run.agent,
        "env": run.env,
        "source": describe_source(run.source),
        "recipe": run.recipe,
        "versions": run.versions,
        "metrics": run.metrics,
        "success": {name: rates for name, rates in success.items() if rates},
    }


def _rows(number: int, run: Run) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What the list shows of each trajectory, and what is shown of it when it is chosen."""
    for key, trajectory in run.trajectories.items():
        row = {
            "run": number,
            "key": key,
            "iteration": iteration if isinstance(iteration := trajectory.metadata.get("iteration"), int) else None,
            "task": trajectory.task,
            "task_id": trajectory.task_id,
            "type": trajectory.task_type,
            "success": bool(trajectory.success),
            "truncated": bool(trajectory.truncated),
            "group": trajectory.group,
            "return": round(trajectory.episode_return, 6),
            "length": len(trajectory),
        }
        skills = run.skills.get(key, {})
        body = {
            "steps": [_step(step) for step in trajectory.steps],
            "last": trajectory.steps[-1].next_observation if trajectory.steps else "",
            **{
                name: text for name in ("episode_summary", "episode_skill") if isinstance(text := skills.get(name), str)
            },
            "workflow": [str(phrase) for phrase in trajectory.workflow or ()],
            "env_id": trajectory.env_id,
            "metadata": {
                name: value
                for name, value in trajectory.metadata.items()
                if name not in ("index", "iteration") and isinstance(value, (str, int, float))
            },
        }
        yield row, body


def _step(step: Step) -> dict[str, Any]:
    skills = step.data.get("skills")
    record = {
        "observation": step.observation,
        "action": step.action,
        "reward": step.reward,
        "admissible": step.admissible_actions,
        "reply": step.reply,
        "prompt": step.prompt,
        "invalid": None if step.valid else step.invalid_reason or "no reason given",
        "skills": {k: v for k, v in skills.items() if isinstance(v, str)} if isinstance(skills, dict) else None,
        "tokens": _tokens(step),
        "hindsight": _hindsight(step),
    }
    return {key: value for key, value in record.items() if value not in (None, {})}


def _hindsight(step: Step) -> dict[str, Any]:
    """What there is to say of the step; nothing where it went well and reached nothing in particular."""
    told = step.hindsight
    if told is None:
        return {}
    record = {
        "better": told.better,
        "decisive": bool(told.decisive),
        "wasted": bool(told.wasted),
        "reason": told.reason,
        "reached": [str(goal) for goal in told.reached],
    }
    return {key: value for key, value in record.items() if value}


def _tokens(step: Step) -> dict[str, Any] | None:
    """The step's tokens if they have the form that an algorithm writes: lists of equal length, texts and numbers."""
    tokens = step.data.get("tokens")
    if not isinstance(tokens, Mapping):
        return None
    texts = tokens.get("texts")
    if not isinstance(texts, list) or {*map(type, texts)} - {str}:
        return None
    numbers = {
        name: values
        for name in ("log_probs", *_CHANNELS)
        if isinstance(values := tokens.get(name), list)
        and len(values) == len(texts)
        and {*map(type, values)} <= {int, float, NoneType}
    }
    return {"texts": texts, **numbers}


class _Scale:
    """Finds the magnitude at which each channel's colour is strongest."""

    def __init__(self) -> None:
        self._single: dict[str, list[float | None]] = {name: [] for name in _CHANNELS}
        self._paired: dict[str, list[float | None]] = {name: [] for name in _CHANNELS}

    def add(self, tokens: Mapping[str, Any]) -> None:
        """Take the values of a reply's tokens into account."""
        known = [name for name in _CHANNELS if name in tokens]
        for name in known:
            self._single[name] += tokens[name]
            if len(known) == len(_CHANNELS):
                self._paired[name] += tokens[name]

    def strongest(self) -> dict[str, float]:
        """By channel; one without a value other than 0 is left out."""
        values = {name: np.array(self._single[name], dtype=float) for name in _CHANNELS}
        values["sum"] = np.sum([np.array(self._paired[name], dtype=float) for name in _CHANNELS], axis=0)
        sizes = {name: np.abs(array[np.isfinite(array) & (array != 0)]) for name, array in values.items()}
        return {
            name: float(f"{np.quantile(array, _SCALE_QUANTILE):.2g}") for name, array in sizes.items() if len(array)
        }


def _count(episodes: Iterable[tuple[str, str, bool, float | None]]) -> list[dict[str, Any]]:
    """Success and mean return by task type, and of all, of episodes as task id, task type, outcome and return.

    Episodes of one task are not independent, so intervals are over tasks (`opid_gym.bench.statistics.success_rate`).
    """
    groups: dict[str, dict[str, list[bool]]] = {}
    returns: dict[str, list[float | None]] = {}
    for task_id, task_type, success, earned in episodes:
        for name in {task_type, "all"}:
            groups.setdefault(name, {}).setdefault(task_id, []).append(success)
            returns.setdefault(name, []).append(earned)
    return [
        {
            "type": name,
            "episodes": sum(map(len, tasks.values())),
            "return": _mean(returns[name]),
            **asdict(success_rate([*tasks.values()])),
        }
        for name, tasks in sorted(groups.items(), key=lambda group: (group[0] == "all", group[0]))
    ]


def _rates(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`Evaluation.to_dict` as `_count` gives it."""
    success = evaluation.get("success")
    total = {
        "episodes": evaluation.get("episodes"),
        "return": _number(evaluation.get("mean_return")),
        **(success if isinstance(success, dict) else {}),
    }
    wanted = ("episodes", "estimate", "low", "high")
    return [
        {"type": name, "return": rate.get("return"), **{key: rate[key] for key in wanted}}
        for name, rate in [*evaluation["by_task_type"].items(), ("all", total)]
        if isinstance(rate, dict) and all(isinstance(rate.get(key), (int, float)) for key in wanted)
    ]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _pack(record: Any) -> str:
    try:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(record), separators=(",", ":"))
    # Level 3: the pages are hardly larger than at 9, and made several times faster.
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=3, mtime=0)).decode("ascii")


def _finite(value: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _asset(name: str) -> str:
    return (resources.files("opid_gym.viewer") / "assets" / name).read_text(encoding="utf-8")


def _module(name: str) -> str:
    """A module's code without its imports and exports: in the page all modules are one."""
    return re.sub(r"^import .*\n|^export ", "", _asset(f"{name}.js"), flags=re.MULTILINE)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _fill(template: str, **values: str) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: values[slot[1]], template)
