"""Sentences of both generations are understood, and others are let be."""

from __future__ import annotations

import pytest

from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.problem import TASK_TYPES
from opid_gym_envs.alfworld.reading import Reading, Wish, read_observation, read_task, type_of


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_generated_tasks_are_understood_as_meant(task_type: str) -> None:
    for seed in range(20):
        problem = generate(seed, task_type=task_type, size="small")
        _, thing, _, target, _ = problem.id.split("/")[-2].split("-")
        assert read_task(problem.task) == Wish(task_type, thing.lower(), target.lower())
        assert read_task(f" {problem.task}. ") == read_task(problem.task)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Nothing happens.", Reading(nothing_happened=True)),
        ("You arrive at fridge 1. The fridge 1 is closed.", Reading(closed=("fridge 1",))),
        ("You arrive at loc 12. On the bed 1, you see nothing.", Reading(seen={"bed 1": ()})),
        (
            "You arrive at countertop 2. On the countertop 2, you see a mug 1, a pan 3, and a cup 12.",
            Reading(seen={"countertop 2": ("mug 1", "pan 3", "cup 12")}),
        ),
        (
            "You open the drawer 10. The drawer 10 is open. In it, you see a pen 2, and a pencil 1.",
            Reading(opened="drawer 10", seen={"drawer 10": ("pen 2", "pencil 1")}),
        ),
        ("You close the safe 1.", Reading(closed=("safe 1",))),
        ("You pick up the mug 1 from the coffeemachine 1.", Reading(taken=("mug 1", "coffeemachine 1"))),
        ("You move the mug 1 to the desk 1.", Reading(put=("mug 1", "desk 1"))),
        ("You put the mug 1 in/on the desk 1.", Reading(put=("mug 1", "desk 1"))),
        ("You heat the egg 1 using the microwave 1.", Reading(treated=("heat", "egg 1"))),
        ("You turn on the desklamp 1.", Reading(switched_on="desklamp 1")),
        ("You sliced the apple 2 with the knife 1.", Reading(sliced="apple 2")),
        ("You are carrying: a mug 1.", Reading(carrying=("mug 1",))),
        ("You are not carrying anything.", Reading(carrying=())),
        ("There's nothing special about mug 1.", Reading()),
        ("You are facing the shelf 1. Next to it, you see nothing.", Reading()),
        ("", Reading()),
        ("Ein ganz anderer Satz \x00.", Reading()),
    ],
)
def test_observations(text: str, reading: Reading) -> None:
    assert read_observation(text) == reading


def test_the_introduction_tells_the_task() -> None:
    text = "Looking quickly around you, you see a bed 1.\n\nYour task is to: put two cd in safe."
    assert read_observation(text) == Reading(task="put two cd in safe")


def test_types_of_names() -> None:
    assert [type_of(name) for name in ("mug 1", "toiletpaper 12", "mug")] == ["mug", "toiletpaper", "mug"]
