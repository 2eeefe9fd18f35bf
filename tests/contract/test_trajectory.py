"""Records survive the disk exactly, and a broken file says where it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opid_gym.trajectory import Step, StepHindsight, Trajectory, read_jsonl, write_jsonl

# Any string Python can hold, lone surrogates, NULs and every kind of line end included: models produce them all.
anything = st.text(alphabet=st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["\0", "\u2028\r\n", "\ud800", '{"steps":']
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=5,
)
hindsight = st.builds(
    StepHindsight,
    changed_state=st.booleans(),
    reached=st.lists(anything, max_size=3).map(tuple),
    wasted=st.booleans(),
    better=st.none() | anything,
    decisive=st.booleans(),
    reason=anything,
)
steps = st.builds(
    Step,
    observation=anything,
    action=anything,
    reward=st.floats(allow_nan=False, allow_infinity=False),
    next_observation=anything,
    anchor=anything,
    admissible_actions=st.none() | st.lists(anything, max_size=3).map(tuple),
    reply=st.none() | anything,
    prompt=st.none() | anything,
    valid=st.booleans(),
    invalid_reason=st.none() | anything,
    data=st.dictionaries(anything, json_values, max_size=2),
    hindsight=st.none() | hindsight,
)
trajectories = st.builds(
    Trajectory,
    task_id=anything,
    task_type=anything,
    task=anything,
    steps=st.lists(steps, max_size=3),
    success=st.booleans(),
    truncated=st.booleans(),
    group=st.integers(min_value=0),
    env_id=st.none() | anything,
    metadata=st.dictionaries(anything, json_values, max_size=2),
    workflow=st.none() | st.lists(anything, max_size=3).map(tuple),
)


@given(st.lists(trajectories, max_size=3))
def test_the_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, records: list[Trajectory]) -> None:
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    assert write_jsonl(path, records) == len(records)
    assert list(read_jsonl(path)) == records
    write_jsonl(path, records, append=True)
    assert list(read_jsonl(path)) == records * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "invalid JSON"),
        ("[]", "expected a JSON object"),
        ('{"task_id":"a"}', "list under 'steps'"),
        ('{"task_id":"a","task_type":"b","steps":[]}', "task"),
        (
            '{"task_id":"a","task_type":"b","task":"c","steps":[],"mood":1}',
            r"unknown Trajectory keys \['mood'\]; allowed",
        ),
        ('{"task_id":"a","task_type":"b","task":"c","steps":[{"actoin":1}]}', r"unknown Step keys \['actoin'\]"),
        (
            '{"task_id":"a","task_type":"b","task":"c","steps":[{"observation":"o","action":"a","reward":0,'
            '"next_observation":"n","hindsight":{"changed":true}}]}',
            r"unknown StepHindsight keys \['changed'\]; allowed: \['better'",
        ),
        (
            '{"task_id":"a","task_type":"b","task":"c","steps":[],"workflow":1}',
            "workflow must be a list of texts or null, got 1",
        ),
        ('{"task_id":"a","task_type":"b","task":"c","steps":[3]}', "expected a JSON object, got int"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [Trajectory("a", "b", "c")])
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"t\.jsonl:2: .*{message}"):
        list(read_jsonl(path))
