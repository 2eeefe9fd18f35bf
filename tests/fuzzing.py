"""Inputs that went wrong on their way, made from good ones; for the property tests and for `benchmarks/fuzz.py`."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opid_gym.actions import parse_action
from opid_gym.bench.results import EpisodeResult, read_results, repair_results
from opid_gym.files import SEAL, damage
from opid_gym.hindsight import StepHindsight
from opid_gym.roster import parse_options, parse_spec
from opid_gym.trajectory import Step, Trajectory
from opid_gym.viewer.page import build_page
from opid_gym.viewer.reading import read_folder
from opid_gym_envs.alfworld.problem import load_problem
from opid_gym_envs.searchqa.corpus import read_corpus
from opid_gym_envs.searchqa.questions import read_questions
from opid_gym_envs.searchqa.turns import read_action as question_action
from opid_gym_envs.webshop.session import read_action as shop_action

STRANGE_VALUES: list[Any] = [
    *(None, True, False, 0, 5, -1, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "\x00", "Ω" * 300, "[" * 2000, "</information>", "1e5"),
    *([], [[]], [None], ["a", 5], {}, {"a": None}, {"": {}}, [[[[[[[[[[1]]]]]]]]]]),
]
STRANGE_BYTES = [
    *(
        b"",
        b"\x00",
        b"\x00" * 500,
        b"\xff\xfe",
        b"\n",
        b"\r\n",
        b"[",
        b"{" * 3000,
        b"[" * 100_000,
        b'"',
        b"\\",
        b"\\ud800",
    ),
    *(b"NaN", b"-", b"9" * 5000, b"1e999", b"null", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"=", b"&", b",", b":"),
]


def mutated_bytes(good: bytes, rng: random.Random) -> bytes:
    """Good bytes with some pieces cut out, doubled, replaced, zeroed, or with strange ones put in."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice((0, 1, 4, 50, 5000)))
        piece = bytes(data[start:end])
        data[start:end] = rng.choice([b"", piece * 2, bytes(len(piece)), piece[::-1], *STRANGE_BYTES])
    return bytes(data)


def mutated_value(good: Any, rng: random.Random) -> Any:
    """A good value in which some parts were replaced, removed, doubled or renamed."""
    holder = [copy.deepcopy(good)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        container, key = rng.choice(list(_places(holder)))
        what = rng.random()
        if what < 0.7:
            container[key] = copy.deepcopy(rng.choice(STRANGE_VALUES))
        elif isinstance(container, dict):
            value = container.pop(key)
            if what < 0.85:
                container[str(rng.choice(STRANGE_VALUES))] = value
        elif container is not holder:
            container[key : key + 1] = [] if what < 0.85 else [container[key]] * 2
    return holder[0]


def mutated_json(good: bytes, rng: random.Random) -> bytes:
    """A JSON document that went wrong: in its bytes, or in its values."""
    if rng.random() < 0.4:
        return mutated_bytes(good, rng)
    return json.dumps(mutated_value(json.loads(good), rng)).encode()


def mutated_lines(good: bytes, rng: random.Random) -> bytes:
    """JSON Lines of which some went wrong."""
    lines = [mutated_json(line, rng) if rng.random() < 0.5 else line for line in good.splitlines()]
    return b"\n".join(lines) + rng.choice((b"\n", b"", b"\n\n"))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value with every key in it."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, item in items:
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)


@dataclass(frozen=True)
class Target:
    """Something that reads what others wrote.

    Attributes:
        good: inputs that it reads.
        mutate: makes others of them.
        read: reads one; it may write files to a folder.
        refuses: the errors by which it may refuse one.
    """

    good: Sequence[bytes]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[bytes, Path], object]
    refuses: tuple[type[Exception], ...] = (ValueError,)

    def play(self, rng: random.Random, folder: Path) -> bytes:
        """Read a mutated input; returns it.

        Raises:
            Exception: any other error than those of `refuses`.
        """
        data = self.mutate(rng.choice(self.good), rng)
        with contextlib.suppress(*self.refuses), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.read(data, folder)
        return data


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda data, folder: read(data.decode("utf-8", "surrogateescape"))


def _view(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> None:
        inside = folder / "run"
        inside.mkdir(exist_ok=True)
        _file(inside, "metrics.jsonl", b'{"iteration": 1, "loss": 0.5}\n')  # what must be kept
        _file(inside, name, data)
        try:
            collection = read_folder(inside)
            assert name == "metrics.jsonl" or any(run.metrics for run in collection.runs)
            build_page(collection)
        finally:
            shutil.rmtree(inside)

    return read


def _repair(data: bytes, folder: Path) -> None:
    path = _file(folder, "episodes.jsonl", data)
    results, _ = repair_results(path)
    assert read_results(path) == results
    assert repair_results(path) == (results, [])


def _is_damaged(data: bytes, folder: Path) -> None:
    _file(folder, SEAL, data)
    damage(folder)


def targets() -> dict[str, Target]:
    """All readers, parsers and request bodies, by name."""
    from opid_gym_envs.searchqa.server.dialects import read_request

    step = Step("a room", "look", 0.5, "the room", "room", ("look", "go"), "<action>look</action>", "prompt")
    step.hindsight = StepHindsight(True, ("found",), better="go", decisive=True, reason="it was there")
    step.data = {"tokens": {"texts": ["a", "b"], "log_probs": [-0.1, None], "skill": [0.5, 1]}, "skills": {"step": "x"}}
    trajectory = Trajectory("t1", "put", "Put it.", [step, step], success=True, workflow=("look",))
    trajectory.metadata = {"agent": "a", "env": "e", "seed": 0, "trial": 0, "iteration": 3}
    line = trajectory.to_json().encode()
    result = EpisodeResult("a", "e", 0, "t1", "put", success=True, episode_return=1.0, length=3).to_json().encode()
    rate = {"episodes": 3, "estimate": 0.5, "low": 0.1, "high": 0.9}
    evaluation = json.dumps({"by_task_type": {"put": rate}, "success": rate, "episodes": 3}).encode()
    skills = b'{"trajectory": 0, "episode_skill": "look", "episode_summary": "it looked"}'
    questions = [
        b'{"id": "q1", "question": "Who?", "golden_answers": ["He", "She"], "metadata": {"type": "bridge"}}',
        b'{"prompt": [{"role": "user", "content": "Question: Who?"}], '
        b'"reward_model": {"ground_truth": {"target": "He"}}}',
        b'{"question": "Who?", "answer": {"value": "He", "aliases": ["She"]}}',
    ]
    passages = [
        b'{"id": "0", "contents": "\\"Aaron\\"\\nA prophet."}',
        b'{"id": 7, "title": "Babel", "text": "A tower."}',
        b'{"_id": "x", "title": "Chad", "text": "A country.", "metadata": {}}',
    ]
    games = [json.dumps({"pddl_domain": "(define (domain d))", "pddl_problem": PROBLEM, "grammar": ""}).encode()]
    seal_ = b'{"format": 1, "files": {"a": {"size": 3, "sample": "00", "sha256": "11"}}}'
    reply = b"<think>I look <b>at</b> it.</think>\n<action>go to shelf 1</action> and <action>look</action>"
    request = b'{"queries": ["who?", "what?"], "topk": 3, "return_scores": true}'
    return {
        "trajectory": Target([line], mutated_json, _text(Trajectory.from_json)),
        "result": Target([result], mutated_json, _text(EpisodeResult.from_json)),
        "results": Target([b"\n".join([result] * 3)], mutated_lines, _repair),
        "view trajectories": Target([b"\n".join([line] * 3)], mutated_lines, _view("trajectories.jsonl")),
        "view skills": Target([skills], mutated_lines, _view("skills.jsonl")),
        "view metrics": Target([b'{"iteration": 1, "loss": 0.5}'], mutated_lines, _view("metrics.jsonl")),
        "view results": Target([b"\n".join([result] * 3)], mutated_lines, _view("episodes.jsonl")),
        "view evaluation": Target([evaluation], mutated_json, _view("evaluation.json")),
        "view recipe": Target([b'{"seed": 0, "algorithm": {"name": "opid"}}'], mutated_json, _view("recipe.json")),
        "options": Target([b'size=small types=["a"] text="a b" x=1e5'], mutated_bytes, _text(parse_spec)),
        "pairs": Target([b"size=[1,2]", b"name='5'"], mutated_bytes, _text(lambda text: parse_options([text]))),
        "reply": Target([reply], mutated_bytes, _text(parse_action)),
        "reply, admissible": Target(
            [reply], mutated_bytes, _text(lambda text: parse_action(text, admissible=["look", "go to shelf 1"]))
        ),
        "seal": Target([seal_], mutated_json, _is_damaged),
        "questions": Target(
            questions, mutated_lines, lambda data, folder: read_questions(_file(folder, "test.jsonl", data))
        ),
        "questions, csv": Target(
            [b"question,answers\nWho?,\"['He', 'She']\"\nWhat?,It\n"],
            mutated_bytes,
            lambda data, folder: read_questions(_file(folder, "test.csv", data)),
        ),
        "passages": Target(
            passages, mutated_lines, lambda data, folder: list(read_corpus(_file(folder, "corpus.jsonl", data)))
        ),
        "shop's action": Target([b"search[red mug]", b"click[buy now]"], mutated_bytes, _text(shop_action)),
        "question's action": Target(
            [b"<search>who?</search>", b"search[who?]", b"<answer>he</answer>"], mutated_bytes, _text(question_action)
        ),
        "game": Target(games, mutated_json, lambda data, folder: load_problem(_file(folder, "game.tw-pddl", data))),
        "search request": Target([request], mutated_json, lambda data, folder: read_request(data, 3)),
    }


def chosen(words: Iterable[str]) -> dict[str, Target]:
    """The targets for which words ask: with ``--target=NAME``, repeated, these alone, with ``--but=NAME`` all others.

    A name stands for all that begin with it.
    """
    every = targets()
    for option, wanted in (("--target=", True), ("--but=", False)):
        if names := tuple(word.removeprefix(option) for word in words if word.startswith(option)):
            every = {name: target for name, target in every.items() if name.startswith(names) == wanted}
    return every


PROBLEM = """(define (problem p) (:domain d) (:objects a - agent mug_1 - object shelf_1 - receptacle MugType - otype)
(:init (inReceptacle mug_1 shelf_1) (objectType mug_1 MugType))
(:goal (and (exists (?o - object) (objectType ?o MugType)))))"""
