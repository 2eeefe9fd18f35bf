"""Trajectories for offline use: Parquet files (and back, exactly), and Minari datasets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.spaces import Text

from opid_gym.files import replacing
from opid_gym.named import missing_extra
from opid_gym.trajectory import Step, StepHindsight, Trajectory

if TYPE_CHECKING:
    import minari
    import pyarrow as pa

_ROWS = 10_000  # that are written at once
_EPISODE = ("task_id", "task_type", "task", "success", "truncated", "group", "env_id", "workflow")
_STEP = tuple(f.name for f in fields(Step) if f.name not in ("data", "hindsight"))


def write_parquet(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Write one row a step; `read_parquet`, pandas, polars, DuckDB and Hugging Face datasets read it.

    Columns are the fields of `Step` and, repeated in every row, those of `Trajectory`; ``episode`` and ``step`` count
    from 0; ``data`` and ``metadata`` are JSON texts, ``hindsight`` is a struct. Half characters (lone surrogates),
    which UTF-8 has no form for, become U+FFFD.

    Returns:
        How many episodes were written; those without steps have no rows.

    Raises:
        ImportError: pyarrow is not installed.
    """
    pa = _pyarrow()
    import pyarrow.parquet as pq

    schema = _schema(pa)
    rows: list[dict[str, Any]] = []
    episodes = 0
    with replacing(path) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        for episode, trajectory in enumerate(trajectories):
            rows += _rows(episode, trajectory)
            episodes += bool(trajectory.steps)
            if len(rows) >= _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return episodes


def read_parquet(path: str | Path) -> Iterator[Trajectory]:
    """Read what `write_parquet` wrote, one episode at a time.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file has other columns.
    """
    pa = _pyarrow()
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        missing = sorted(set(_schema(pa).names) - set(file.schema_arrow.names))
        if missing:
            raise ValueError(f"{path} holds no trajectories: columns {missing} are missing")
        rows = (row for batch in file.iter_batches(_ROWS) for row in batch.to_pylist())
        for _, steps in groupby(rows, key=lambda row: row["episode"]):
            yield _trajectory(list(steps))


def write_minari(dataset_id: str, trajectories: Iterable[Trajectory], **about: Any) -> minari.MinariDataset:
    """Write a Minari dataset, which `minari.load_dataset` finds.

    Observations and actions are texts; an episode of n steps has n actions and n + 1 observations. The episode's task,
    task id, task type and success are its metadata. Minari keeps datasets in ``~/.minari`` or
    ``$MINARI_DATASETS_PATH``.

    Args:
        dataset_id: such as ``alfworld/expert-v0``.
        trajectories: what to write; episodes without steps are left out.
        about: further arguments of `minari.create_dataset_from_buffers` (author, description, ...).

    Raises:
        ImportError: minari is not installed.
        ValueError: there are no episodes, or a dataset of this id is there.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError:
        raise missing_extra("writing a Minari dataset", "minari", "export") from None
    played = [trajectory for trajectory in trajectories if trajectory.steps]
    if not played:
        raise ValueError("there are no episodes to write")
    buffers = [
        EpisodeBuffer(
            observations=[*(clean(step.observation) for step in t.steps), clean(t.steps[-1].next_observation)],
            actions=[clean(step.action) for step in t.steps],
            rewards=[step.reward for step in t.steps],
            terminations=[False] * (len(t) - 1) + [not t.truncated],
            truncations=[False] * (len(t) - 1) + [t.truncated],
        )
        for t in played
    ]
    dataset = minari.create_dataset_from_buffers(
        dataset_id,
        buffers,
        observation_space=_text_space(text for buffer in buffers for text in buffer.observations),
        action_space=_text_space(text for buffer in buffers for text in buffer.actions),
        data_format="arrow",
        **about,
    )
    dataset.storage.update_episode_metadata(
        {
            "task": clean(t.task),
            "task_id": clean(t.task_id),
            "task_type": clean(t.task_type),
            "success": t.success,
            "env_id": t.env_id,
        }
        for t in played
    )
    return dataset


def clean(text: str) -> str:
    r"""`text` with half characters (lone surrogates) replaced by U+FFFD.

    >>> clean("a\ud800b")
    'a�b'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _schema(pa: Any) -> pa.Schema:
    text, number = pa.string(), pa.int64()
    types = {
        "episode": number,
        "step": number,
        "task_id": text,
        "task_type": text,
        "task": text,
        "success": pa.bool_(),
        "truncated": pa.bool_(),
        "group": number,
        "env_id": text,
        "workflow": pa.list_(text),
        "metadata": text,
        "observation": text,
        "action": text,
        "reward": pa.float64(),
        "next_observation": text,
        "anchor": text,
        "admissible_actions": pa.list_(text),
        "reply": text,
        "prompt": text,
        "valid": pa.bool_(),
        "invalid_reason": text,
        "data": text,
        "hindsight": pa.struct(
            {
                "changed_state": pa.bool_(),
                "reached": pa.list_(text),
                "wasted": pa.bool_(),
                "better": text,
                "decisive": pa.bool_(),
                "reason": text,
            }
        ),
    }
    return pa.schema(list(types.items()))


def _rows(episode: int, trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    shared = {name: _cell(getattr(trajectory, name)) for name in _EPISODE}
    shared |= {"episode": episode, "metadata": json.dumps(trajectory.metadata)}
    for number, step in enumerate(trajectory.steps):
        own = {name: _cell(value) for name, value in asdict(step).items() if name != "data"}
        yield {**shared, **own, "step": number, "data": json.dumps(step.data)}


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _cell(item) for name, item in value.items()}
    return [clean(text) for text in value] if isinstance(value, tuple) else value


def _trajectory(rows: Sequence[dict[str, Any]]) -> Trajectory:
    first = rows[0]
    steps = []
    for row in rows:
        own = {name: row[name] for name in _STEP}
        if own["admissible_actions"] is not None:
            own["admissible_actions"] = tuple(own["admissible_actions"])
        told = row["hindsight"]
        hindsight = StepHindsight(**(told | {"reached": tuple(told["reached"])})) if told else None
        steps.append(Step(**own, data=json.loads(row["data"]), hindsight=hindsight))
    shared = {name: first[name] for name in _EPISODE}
    if shared["workflow"] is not None:
        shared["workflow"] = tuple(shared["workflow"])
    return Trajectory(**shared, steps=steps, metadata=json.loads(first["metadata"]))


def _text_space(texts: Iterable[str]) -> Text:
    """The smallest space that holds all of them."""
    longest, characters = 1, {" "}
    for text in texts:
        longest = max(longest, len(text))
        characters.update(text)
    return Text(longest, min_length=0, charset="".join(sorted(characters)))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise missing_extra("writing Parquet", "pyarrow", "export") from None
    return pyarrow
