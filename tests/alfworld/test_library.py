"""Which games there are: given files, folders of official data, generated games."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import opid_gym
from opid_gym_envs.alfworld.env import ALFWorld
from opid_gym_envs.alfworld.export import export_game
from opid_gym_envs.alfworld.generator import GeneratedSplit
from opid_gym_envs.alfworld.problem import TASK_TYPES, GameFileError
from tests.alfworld.households import extract_games

gym.register_envs(opid_gym)


@pytest.fixture(autouse=True)
def no_data_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of 14 trials, at least two of each type."""
    folder = tmp_path_factory.mktemp("made")
    for problem in GeneratedSplit("valid_seen", size="small", count=14):
        export_game(problem, folder)
    return folder / "small" / "valid_seen"


@pytest.fixture
def data(tmp_path: Path, made: Path) -> Path:
    """A folder as stock's download makes it."""
    shutil.copytree(made, tmp_path / "alfworld" / "json_2.1.1" / "valid_seen")
    return tmp_path / "alfworld"


def trials(data: Path) -> list[Path]:
    return sorted(path.parent for path in data.rglob("game.tw-pddl"))


def rewrite(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def names(*folders: Path) -> tuple[str, ...]:
    return tuple(sorted("/".join(folder.parts[-3:]) for folder in folders))


# ----------------------------------------------------------------------------------------------------- official data


def test_official_games_say_where_they_come_from(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (data, data / "json_2.1.1"):
        world = ALFWorld(data_dir=folder, split="valid_seen")
        assert list(world.task_ids) == list(names(*trials(data)))
        assert (world.source, world.data, world.skipped) == ("official", str(data / "json_2.1.1"), {})
    monkeypatch.setenv("ALFWORLD_DATA", str(data))
    assert ALFWorld(split="valid_seen").source == "official"


def test_trials_that_stock_leaves_out_are_left_out_and_listed(data: Path) -> None:
    """Movable receptacles by path or by annotation, sliced ones by path, and what has no game that can be solved."""
    movable, by_type, sliced, other, no_file, no_key, unsolvable, *played = trials(data)

    def moved(trial: Path, task: str) -> Path:
        return Path(shutil.move(trial, trial.parents[1] / task / trial.name))

    (data / "json_2.1.1" / "valid_seen" / "pick_and_place_with_movable_recep-Egg-Bowl-Fridge-1").mkdir()
    (data / "json_2.1.1" / "valid_seen" / "pick_cool_then_place_in_recep-AppleSliced-None-Fridge-1").mkdir()
    movable = moved(movable, "pick_and_place_with_movable_recep-Egg-Bowl-Fridge-1")
    sliced = moved(sliced, "pick_cool_then_place_in_recep-AppleSliced-None-Fridge-1")
    rewrite(by_type / "traj_data.json", task_type="pick_and_place_with_movable_recep")
    rewrite(other / "traj_data.json", task_type="make_breakfast")
    (no_file / "game.tw-pddl").unlink()
    rewrite(no_key / "game.tw-pddl", solvable=None)
    rewrite(unsolvable / "game.tw-pddl", solvable=False)
    lost = played.pop()
    (lost / "traj_data.json").unlink()
    # Stock does not look into what it leaves out, so damage there stops nobody.
    (movable / "game.tw-pddl").write_text("{")
    (by_type / "game.tw-pddl").write_text("{")
    world = ALFWorld(data_dir=data, split="valid_seen")
    assert list(world.task_ids) == list(names(*played))
    assert world.skipped == {
        "movable receptacle": names(movable, by_type),
        "no game.tw-pddl": names(no_file),
        "no traj_data.json": names(lost),
        "not marked as solvable": names(no_key, unsolvable),
        "not one of the six task types": names(other),
        "sliced object": names(sliced),
    }


def test_the_same_games_as_stock(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock's own collector on a folder with everything it leaves out."""
    monkeypatch.setenv("ALFWORLD_DATA", str(data))  # importing stock sets it, which must not outlive the test
    stock = pytest.importorskip(
        "alfworld.agents.environment.alfred_tw_env",
        reason="stock ALFWorld is not installed (pip install 'opid-gym[stock]')",
    )
    by_path, by_type, no_file, no_key, unsolvable, no_annotation, *_ = trials(data)
    (by_path.parents[1] / "movable").mkdir()
    shutil.move(by_path, by_path.parents[1] / "movable" / by_path.name)
    rewrite(by_type / "traj_data.json", task_type="pick_and_place_with_movable_recep")
    (no_file / "game.tw-pddl").unlink()
    rewrite(no_key / "game.tw-pddl", solvable=None)
    rewrite(unsolvable / "game.tw-pddl", solvable=False)
    (no_annotation / "traj_data.json").unlink()
    root = data / "json_2.1.1" / "valid_seen"
    for numbers in ([1, 2, 3, 4, 5, 6], [5], [4, 6]):
        config = {
            "env": {"goal_desc_human_anns_prob": 0, "task_types": numbers},
            "dataset": {"eval_id_data_path": str(root), "num_eval_games": -1},
        }
        theirs = stock.AlfredTWEnv(config, train_eval="eval_in_distribution").game_files
        ours = ALFWorld(data_dir=data, split="valid_seen", task_types=[TASK_TYPES[number - 1] for number in numbers])
        assert list(ours.task_ids) == list(names(*(Path(path).parent for path in theirs)))


def test_an_empty_split_says_what_was_left_out(data: Path) -> None:
    for trial in trials(data):
        rewrite(trial / "game.tw-pddl", solvable=False)
    with pytest.raises(ValueError, match=r"no playable game under .*: 14 trials were left out \(14 not marked as sol"):
        ALFWorld(data_dir=data, split="valid_seen")
    (data / "json_2.1.1" / "train").mkdir()
    with pytest.raises(ValueError, match=r"no playable game under .*train: no folder below it has a game\.tw-pddl"):
        ALFWorld(data_dir=data)


def test_the_type_is_read_from_the_annotation_and_other_games_are_not_opened(data: Path) -> None:
    heat = [trial for trial in trials(data) if "pick_heat" in str(trial)]
    for trial in trials(data):
        if trial not in heat:
            (trial / "game.tw-pddl").write_text("not opened")
    world = ALFWorld(data_dir=data, split="valid_seen", task_types=["pick_heat_then_place_in_recep"])
    assert list(world.task_ids) == list(names(*heat))
    assert len(world.skipped["not of the chosen task_types"]) == 14 - len(heat)
    with pytest.raises(GameFileError, match=rf"^{14 - len(heat)} files cannot be played:\n"):
        ALFWorld(data_dir=data, split="valid_seen")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("game.tw-pddl", "", "not valid JSON"),
        ("game.tw-pddl", "[]", "need a JSON object"),
        ("game.tw-pddl", '{"solvable": true}', "key 'pddl_domain' is missing"),
        ("traj_data.json", "{", "not valid JSON"),
        ("traj_data.json", "{}", "key 'task_type' must be text"),
    ],
)
def test_a_broken_file_is_named_when_the_world_is_made(data: Path, name: str, content: str, reason: str) -> None:
    path = trials(data)[3] / name
    path.write_text(content)
    with pytest.raises(GameFileError, match=reason) as caught:
        ALFWorld(data_dir=data, split="valid_seen")
    assert str(path) in str(caught.value)


def test_damage_inside_the_texts_is_found_when_the_world_is_made(data: Path) -> None:
    first, second, third = trials(data)[:3]
    content = json.loads((first / "game.tw-pddl").read_text())
    rewrite(first / "game.tw-pddl", pddl_problem=content["pddl_problem"][:-40])
    rewrite(second / "game.tw-pddl", pddl_problem="(define (problem x))")
    rewrite(third / "game.tw-pddl", grammar=content["grammar"].replace("You open the", "You force the"))
    with pytest.raises(GameFileError) as caught:
        gym.make("opid/ALFWorld-v0", data_dir=data, split="valid_seen")
    head, *lines = str(caught.value).splitlines()
    assert head == "3 files cannot be played:"
    for trial, reason, line in zip(
        (first, second, third), ("parentheses", "part ':init' is missing", "textworld"), lines, strict=True
    ):
        assert str(trial) in line
        assert reason in line
    # Stock itself plays by whatever rules a file has.
    for trial in (first, second):
        shutil.rmtree(trial)
    assert names(third)[0] in ALFWorld(data_dir=data, split="valid_seen", backend="textworld").task_ids


def test_count_spreads_over_the_official_types(data: Path) -> None:
    everything = list(ALFWorld(data_dir=data, split="valid_seen").task_ids)
    some = list(ALFWorld(data_dir=data, split="valid_seen", count=7).task_ids)
    assert some == everything[::2]
    assert list(ALFWorld(data_dir=data, split="valid_seen", count=14).task_ids) == everything
    with pytest.raises(ValueError, match=r"count=15, and split 'valid_seen' of .* has 14 games"):
        ALFWorld(data_dir=data, split="valid_seen", count=15)


def test_which_folder_is_read_is_never_a_guess(data: Path) -> None:
    (data / "json_2.1.2").symlink_to(data / "json_2.1.1")
    with pytest.raises(ValueError, match=r"'valid_seen' in each of \['json_2.1.1', 'json_2.1.2'\]"):
        ALFWorld(data_dir=data, split="valid_seen")
    with pytest.raises(ValueError, match=r"stock's 'eval_in_distribution' is 'valid_seen' here"):
        ALFWorld(data_dir=data / "json_2.1.1", split="eval_in_distribution")


def test_stocks_own_folder_is_read_whether_or_not_the_variable_names_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing stock sets the variable to this folder: what is played may not depend on that."""
    cache = tmp_path / "home" / ".cache" / "alfworld"
    for _ in range(2):
        assert ALFWorld(split="valid_seen", count=3).source == "generated"
        cache.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("ALFWORLD_DATA", str(cache))
    cache.rmdir()
    shutil.move(data, cache)
    assert ALFWorld(split="valid_seen").source == "official"
    monkeypatch.delenv("ALFWORLD_DATA")
    assert ALFWorld(split="valid_seen").source == "official"
    assert ALFWorld(split="train", count=3).source == "generated"
    assert ALFWorld(split="valid_seen", size="small", count=3).source == "generated"


# ------------------------------------------------------------------------------------------------------- given games


def test_a_game_has_one_id_however_its_path_is_written(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trials(data)[0] / "game.tw-pddl"
    [official] = names(path.parent)
    home = data.parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(path.parent)
    (home / "link").symlink_to(path.parents[1])
    spellings = [
        path,
        str(path),
        path.parent,
        "game.tw-pddl",
        ".",
        f"../{path.parent.name}/game.tw-pddl",
        os.path.join("~", path.relative_to(home)),
        home / "link" / path.parent.name / "game.tw-pddl",
    ]
    for spelling in spellings:
        world = ALFWorld(games=[spelling])
        assert list(world.task_ids) == [official], spelling
        assert (world.source, world.data) == ("given", str(path.parent))
        [(task, _)] = world.start([0], world.task_ids)
        assert task.id == official
        if spelling is not path:
            with pytest.raises(ValueError, match=r"games names one file twice: as .* and as"):
                ALFWorld(games=[path, spelling])


def test_different_games_of_one_name_are_told_apart_by_their_folders(data: Path, tmp_path: Path) -> None:
    path = trials(data)[0] / "game.tw-pddl"
    [name] = names(path.parent)
    twin = tmp_path / "other" / "json_2.1.1" / name / "game.tw-pddl"
    shutil.copytree(path.parent, twin.parent)
    alone = trials(data)[1]
    world = ALFWorld(games=[path, alone, twin])
    assert list(world.task_ids) == [f"alfworld/json_2.1.1/{name}", *names(alone), f"other/json_2.1.1/{name}"]
    assert [world.library.path(task_id) for task_id in world.task_ids] == [path, alone / "game.tw-pddl", twin]
    (tmp_path / "a.json").write_bytes(path.read_bytes())
    (tmp_path / "a.txt").write_bytes(path.read_bytes())
    assert len(set(ALFWorld(games=[tmp_path / "a.json", tmp_path / "a.txt"]).task_ids)) == 2


def test_given_games_are_counted_and_chosen_by_type(tmp_path: Path) -> None:
    paths = [path for path in extract_games(tmp_path / "games") if "old_generation" not in path.parts]
    world = ALFWorld(games=paths, count=3)
    assert len(world.task_ids) == 3
    assert [world.library.path(task_id) for task_id in world.task_ids] == paths[:3]
    two = ALFWorld(games=paths, task_types=["pick_two_obj_and_place"])
    assert {world.library.load(task_id).task_type for task_id in world.task_ids} != {"pick_two_obj_and_place"}
    assert {two.library.load(task_id).task_type for task_id in two.task_ids} == {"pick_two_obj_and_place"}
    with pytest.raises(ValueError, match=r"count=12, and games= has 11 games"):
        ALFWorld(games=paths, count=12)
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"count must be 1 or more, got {count}"):
            ALFWorld(games=paths, count=count)
        with pytest.raises(ValueError, match=f"count must be 1 or more, got {count}"):
            ALFWorld(count=count)


# --------------------------------------------------------------------------------------------------- generated games


@pytest.mark.parametrize("size", ["small", "real"])
def test_generated_games_say_that_they_are(size: str) -> None:
    env = gym.make("opid/ALFWorld-v0", size=size, split="valid_unseen", count=12)
    world = env.unwrapped.world  # type: ignore[attr-defined]
    assert (world.source, world.data) == ("generated", None)
    start = "generated/valid_unseen/" if size == "real" else "generated/small/valid_unseen/"
    assert all(task_id.startswith(start) for task_id in world.task_ids)
    _, info = env.reset(options={"task_id": world.task_ids[5]})
    assert info["task_id"] == world.task_ids[5]
    for unknown in (world.task_ids[5].removeprefix("generated/"), "generated/nonsense"):
        with pytest.raises(KeyError, match="task"):
            env.reset(options={"task_id": unknown})
    assert Counter(world.library.load(task_id).id for task_id in world.task_ids) == Counter(world.task_ids)


# --------------------------------------------------------------------------------------------- the documentation page


def test_the_page_on_official_data_works_on_a_folder_of_that_shape(data: Path, tmp_path: Path) -> None:
    """Its command and its program, as they are written there."""
    shutil.copytree(data / "json_2.1.1" / "valid_seen", data / "json_2.1.1" / "valid_unseen")
    rewrite(sorted((data / "json_2.1.1" / "valid_unseen").rglob("game.tw-pddl"))[0], solvable=False)
    page = (Path(__file__).parents[2] / "docs" / "worlds" / "official.md").read_text(encoding="utf-8")
    section = page.partition("\n## ALFWorld\n")[2].partition("\n## ")[0]
    [command], [program] = (
        re.findall(rf"^```{kind}\n(.*?)^```", section, re.DOTALL | re.MULTILINE) for kind in ("sh", "py")
    )

    def run(*words: str) -> str:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {
            "ALFWORLD_DATA": str(data),
            "PATH": path,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    result = json.loads(run("bash", "-euc", f"{command.strip()} --json").splitlines()[-1])
    assert (result["episodes"], result["success"]["estimate"]) == (13, 1.0)
    first, second = run(sys.executable, "-c", program).splitlines()
    assert first == f"official {data / 'json_2.1.1'} 13"
    assert second == "{'not marked as solvable': 1}"
