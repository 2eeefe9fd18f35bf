"""Whatever others wrote: it is read, or refused in words; nothing crashes. `benchmarks/fuzz.py` plays more of it."""

from __future__ import annotations

import contextlib
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_sessions import pack, read_corpus, unpack
from opid_gym.json_text import DEEPEST, check_depth
from tests.fuzzing import mutated_json, targets

TARGETS = targets()
CORPUS = Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz_corpus.zip"
FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", TARGETS)
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_what_goes_wrong_in_a_file_is_refused_in_words(tmp_path: Path, name: str, seed: int) -> None:
    TARGETS[name].play(random.Random(seed), tmp_path)


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"game"}))  # a whole game is long; tests.alfworld reads many
def test_what_is_whole_is_read(tmp_path: Path, name: str) -> None:
    for good in TARGETS[name].good:
        TARGETS[name].read(good, tmp_path)


def test_what_the_guided_campaign_kept_is_read_or_refused(tmp_path: Path) -> None:
    """Inputs that reach all the code that a million reached; of a target that is gone there may be some."""
    corpus = read_corpus(CORPUS)
    assert {name for name, _ in corpus} >= set(TARGETS)
    for name, data in corpus:
        if name in TARGETS:
            with contextlib.suppress(*TARGETS[name].refuses), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                TARGETS[name].read(data, tmp_path)


def test_a_kept_corpus_outlives_another_choice_of_targets(tmp_path: Path) -> None:
    """An input names its target by a number that depends on the choice; in the file it is the name."""
    file, folder = tmp_path / "corpus.zip", tmp_path / "first"
    folder.mkdir()
    (folder / "a").write_bytes(b"\x01look")
    (folder / "b").write_bytes(b"\x05take")  # the fuzzer takes numbers modulo the targets
    (folder / "c").write_bytes(b"")
    assert pack(folder, ["seal", "reply"], {}, file) == 2
    assert sorted(read_corpus(file)) == [("reply", b"look"), ("reply", b"take")]
    first = file.read_bytes()
    others = unpack(file, ["pairs"], tmp_path / "second")
    assert list((tmp_path / "second").iterdir()) == []
    pack(tmp_path / "second", ["pairs"], others, file)
    assert file.read_bytes() == first
    assert unpack(file, ["reply", "pairs"], tmp_path / "third") == {}
    assert sorted(path.read_bytes() for path in (tmp_path / "third").iterdir()) == [b"\x00look", b"\x00take"]


@FEW
@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_values_of_usual_depth_pass(value: Any) -> None:
    check_depth(value)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}, lambda value: [0, {"b": [value]}]])
def test_values_that_are_too_deep_do_not(wrap: Any) -> None:
    value: Any = 0
    for _ in range(DEEPEST + 1):
        value = wrap(value)
    with pytest.raises(ValueError, match="nested too deeply"):
        check_depth(value)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from fastapi.testclient import TestClient

    from opid_gym.interop.server import make_app
    from opid_gym_envs.searchqa.retrievers import make_retriever
    from opid_gym_envs.searchqa.server.app import create_app
    from tests.searchqa.servers import corpus

    retriever = make_retriever("bm25", corpus=corpus(), cache_dir=tmp_path_factory.mktemp("cache"))
    with (
        TestClient(make_app("opid/ALFWorld-v0", size="small"), base_url="http://localhost") as env,
        TestClient(create_app(retriever), base_url="http://localhost") as search,
    ):
        yield {"env": env, "search": search}


BODIES = {
    "/reset": ("env", b'{"session_id": "a", "seed": 3, "task_id": null}'),
    "/step": ("env", b'{"session_id": "a", "action": {"text": "look"}}'),
    "/retrieve": ("search", b'{"queries": ["walrus", "sonnet"], "topk": 2, "return_scores": true}'),
}


@pytest.mark.parametrize("path", BODIES)
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_no_body_is_answered_with_500(clients: Any, path: str, seed: int) -> None:
    server, good = BODIES[path]
    body = mutated_json(good, random.Random(seed))
    answer = clients[server].post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500
    assert len(answer.content) < 100_000
