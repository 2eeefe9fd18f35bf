"""Generated games: the promised sizes, the promised splits, and the same games everywhere."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

import pytest

from opid_gym_envs.alfworld import catalogue
from opid_gym_envs.alfworld.catalogue import ROOMS, TASK_ROOMS
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import SPLITS, GeneratedSplit, generate, goal_formula, make_layout, scenes
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, Problem
from tests.processes import printed

RECEPTACLES = {"real": range(20, 41), "small": range(6, 11)}
OBJECTS = {"real": range(40, 61), "small": range(8, 15)}
PLACES = [(task_type, room) for task_type in TASK_TYPES for room in TASK_ROOMS[task_type]]
ALL_SCENES = [scene for room in ROOMS.values() for scene in room.scenes]

# What the games of `digest` came to when the generator was last changed. A new value means that every published
# result on generated games is about other games: then raise the number in the generator's `_STREAM`, too.
DIGEST = "7d6965c46cd896ff42e4dc1c51bbd2f815872456a08e8ce75e58816d468f3ec3"


def named(problem: Problem, predicate: str) -> list[tuple[str, ...]]:
    return [fact[1:] for fact in problem.facts if fact[0] == predicate]


def table(problem: Problem, predicate: str) -> dict[str, str]:
    """A two-place predicate as a mapping."""
    return {fact[0]: fact[1] for fact in named(problem, predicate)}


def digest() -> str:
    games = [generate(("digest", i), size=size) for i in range(12) for size in ("small", "real")]
    games += [game for split in SPLITS for game in GeneratedSplit(split, count=12)]
    text = "\n".join(repr((g.id, g.task, g.task_type, g.facts, g.goal)) for g in games)
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("size", ["real", "small"])
@pytest.mark.parametrize(("task_type", "room"), PLACES)
def test_every_kind_of_game_has_the_promised_size_and_is_still_to_be_won(size: str, task_type: str, room: str) -> None:
    for seed in range(12):
        problem = generate(seed, task_type=task_type, room=room, size=size)
        assert problem.task_type == task_type
        assert len(named(problem, "receptacletype")) in RECEPTACLES[size]
        assert len(named(problem, "objecttype")) in OBJECTS[size]
        assert len(problem.facts) == len(set(problem.facts))
        engine = Engine(Game.compile(problem))
        assert not engine.won
        assert engine.step("look") == "You are in the middle of a room. Looking quickly around you, you see nothing."


def test_things_lie_only_where_such_things_may_be_put() -> None:
    for seed in range(60):
        problem = generate(seed)
        kind = table(problem, "objecttype") | table(problem, "receptacletype")
        may = set(named(problem, "cancontain"))
        spot = table(problem, "receptacleatlocation")
        lies = table(problem, "objectatlocation")
        for thing, receptacle in named(problem, "inreceptacle"):
            assert lies[thing] == spot[receptacle]
            lamp = kind[thing] in ("desklamptype", "floorlamptype")
            assert lamp or (kind[receptacle], kind[thing]) in may
            assert ((thing,) in named(problem, "pickupable")) != lamp


def test_the_wanted_thing_has_to_be_searched() -> None:
    """The same kitchen and the same wish: the place differs from game to game, and nobody could know it."""
    found: Counter[str] = Counter()
    for seed in range(400):
        problem = generate(seed, task_type="pick_heat_then_place_in_recep", layout=12)
        wanted = problem.goal[1][2][2][2][2]
        if wanted == "mugtype":
            kinds = table(problem, "objecttype")
            found.update({place for thing, place in named(problem, "inreceptacle") if kinds[thing] == wanted})
    assert len(found) >= 8
    assert found.most_common(1)[0][1] < 0.5 * found.total()


def test_tasks_come_in_both_wordings() -> None:
    for task_type, wordings in catalogue.TASK_TEMPLATES.items():
        patterns = [re.compile(w.format(obj=r"\w+", recep=r"\w+", lamp=r"\w+lamp")) for w in wordings]
        used = Counter(
            next(i for i, pattern in enumerate(patterns) if pattern.fullmatch(generate(s, task_type=task_type).task))
            for s in range(40)
        )
        assert min(used[0], used[1]) >= 5


def test_real_rooms_have_shared_spots_and_cabinets_without_doors_and_small_ones_do_not() -> None:
    def traits(size: str) -> tuple[int, int]:
        shared = doorless = 0
        for scene in ALL_SCENES:
            furniture = make_layout(scene, size).furniture
            shared += len(furniture) - len({item.location for item in furniture})
            doorless += sum(item.type in catalogue.OPENABLE and not item.openable for item in furniture)
        return shared, doorless

    assert min(traits("real")) > 50
    assert traits("small") == (0, 0)


def test_a_dialect_changes_the_words_and_nothing_else() -> None:
    new, old = (generate(5, dialect=dialect) for dialect in (Dialect.MOVE, Dialect.PUT))
    assert (new.id, new.task, new.facts, new.goal) == (old.id, old.task, old.facts, old.goal)
    assert (new.dialect, old.dialect) == (Dialect.MOVE, Dialect.PUT)


# ---------------------------------------------------------------------------------------- the same everywhere


def test_games_are_the_ones_that_were_published() -> None:
    assert digest() == DIGEST


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_another_process_makes_the_same_games(hash_seed: str) -> None:
    assert printed("from tests.alfworld.test_generator import digest; print(digest())", hash_seed) == digest()


def test_seeds_may_be_tuples_and_differ() -> None:
    games = [generate(seed) for seed in (0, 1, (0, 1), ("a", 0), ("a", 1))]
    assert len({game.facts for game in games}) == len(games)
    assert generate(("a", 1)) == generate(("a", 1))


# ----------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("size", ["real", "small"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_the_official_numbers_and_stable_ids(split: str, size: str) -> None:
    games = GeneratedSplit(split, size=size)
    assert len(games) == {"train": 3553, "valid_seen": 140, "valid_unseen": 134}[split]
    assert len(set(games.task_ids)) == len(games)
    assert Counter(task_id.split("/")[-2].split("-")[0] for task_id in games.task_ids) == Counter(SPLITS[split])
    folder = split if size == "real" else f"small/{split}"
    pattern = re.compile(rf"{folder}/(\w+)-(\w+)-None-(\w+)-(\d+)/trial_(\d{{6}})")
    for index, task_id in enumerate(games.task_ids):
        match = pattern.fullmatch(task_id)
        assert match is not None
        assert int(match[5]) == index
    assert GeneratedSplit(split, size=size, count=30).task_ids == games.task_ids[:30]


def test_an_id_names_its_game() -> None:
    for size in ("real", "small"):
        games = GeneratedSplit("valid_unseen", size=size)
        again = GeneratedSplit("valid_unseen", size=size)
        for task_id in games.task_ids[:40]:
            problem = games.problem(task_id)
            task_type, thing, _, target, _ = task_id.split("/")[-2].split("-")
            assert problem == again.problem(task_id)
            assert problem.id == task_id
            assert problem.task_type == task_type
            assert problem.goal == goal_formula(task_type, thing, target)
            assert problem.task.split()[-1] in (target.lower(), f"{thing.lower()}")
            assert re.search(rf"\b{thing.lower()}\b.*\b{target.lower()}\b", problem.task)


def test_unseen_layouts_are_in_no_other_split() -> None:
    for size in ("real", "small"):
        layouts: dict[str, set[tuple[tuple[str, ...], ...]]] = {}
        for split in SPLITS:
            layouts[split] = {
                tuple(sorted((*named(p, "receptacletype"), *named(p, "receptacleatlocation"), *named(p, "openable"))))
                for p in GeneratedSplit(split, size=size, count=140)
            }
        assert not layouts["valid_unseen"] & (layouts["train"] | layouts["valid_seen"])
        # Not even a single piece of furniture stands where one stood in training.
        trained = {item.id for room in ROOMS for s in scenes("train", room) for item in make_layout(s, size).furniture}
        unseen = {
            item.id for room in ROOMS for s in scenes("valid_unseen", room) for item in make_layout(s, size).furniture
        }
        assert len(unseen & trained) <= 0.01 * len(unseen)


def test_seen_layouts_are_those_of_training_with_other_things_in_them() -> None:
    def parts(split: str) -> tuple[set[Any], set[Any]]:
        rooms, contents = set(), set()
        for problem in GeneratedSplit(split, size="small", count=1200 if split == "train" else None):
            rooms.add(tuple(sorted((*named(problem, "receptacletype"), *named(problem, "receptacleatlocation")))))
            contents.add(tuple(sorted(named(problem, "inreceptacle"))))
        return rooms, contents

    train_rooms, train_contents = parts("train")
    seen_rooms, seen_contents = parts("valid_seen")
    assert seen_rooms <= train_rooms
    assert len(train_rooms) == 108
    assert not seen_contents & train_contents
    assert {scene for room in ROOMS for scene in scenes("valid_seen", room)} == {
        scene for room in ROOMS for scene in scenes("train", room)
    }


def test_beginnings_of_splits_are_balanced() -> None:
    for split in SPLITS:
        assert {g.task_type for g in GeneratedSplit(split, size="small", count=12)} == set(TASK_TYPES)


def test_task_types_filter_without_renaming() -> None:
    everything = GeneratedSplit("train", count=200)
    looking = GeneratedSplit("train", count=200, task_types=["look_at_obj_in_light"])
    assert looking.task_ids == tuple(i for i in everything.task_ids if "/look_at_obj_in_light-" in i)
    assert len(looking) > 5
    assert {game.task_type for game in looking} == {"look_at_obj_in_light"}
    with pytest.raises(KeyError, match="no task 'train/pick_"):
        looking.problem(next(i for i in everything.task_ids if "/pick_" in i))


# --------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_type": "wash"}, "task_type must be one of 'pick_and_place_simple', .*; got 'wash'"),
        ({"room": "garage"}, "room must be one of 'kitchen', .*; got 'garage'"),
        ({"size": "huge"}, "size must be one of 'real', 'small'; got 'huge'"),
        ({"layout": 31}, "unknown layout 31; scene numbers are 1-30 \\(kitchen\\), 201-230"),
        ({"layout": 12, "room": "bedroom"}, "layout 12 is a kitchen, so it cannot be combined with room='bedroom'"),
        (
            {"task_type": "pick_heat_then_place_in_recep", "room": "bathroom"},
            "cannot be asked in a bathroom; rooms where it can: kitchen",
        ),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(0, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split must be one of 'train', 'valid_seen', 'valid_unseen'; got 'test'"),
        ({"split": "train", "size": "tiny"}, "size must be one of"),
        ({"split": "train", "count": -1}, "count must be 0 or more, got -1"),
        ({"split": "train", "task_types": ["look"]}, "task_types must be one of .*; got 'look'"),
    ],
)
def test_mistakes_in_a_split_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratedSplit(**arguments)  # type: ignore[arg-type]


def test_goals_of_unknown_types_are_refused() -> None:
    with pytest.raises(ValueError, match="task_type must be one of"):
        goal_formula("pick_up", "Mug", "Desk")
