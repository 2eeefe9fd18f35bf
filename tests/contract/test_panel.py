from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from opid_gym.panel import Panel, PanelError, TaskList, load_panel, make_panel, panel_names, save_panel, verify
from opid_gym_envs.alfworld.export import export_game
from opid_gym_envs.alfworld.generator import GeneratedSplit

ENV = "opid/ALFWorld-v0"


def households() -> Panel:
    lists = {"test": ("valid_unseen", 3), "train": ("train", 5)}
    return make_panel("mine", ENV, lists, arguments={"size": "small"})


def test_a_panel_made_here_is_verified_here_and_survives_the_disk(tmp_path: Path) -> None:
    panel = households()
    assert (panel.tasks, panel.source) == (8, "generated")
    found = verify(panel)
    assert (found.verified, found.differences) == (8, ())
    save_panel(panel, tmp_path / "mine.json")
    again = load_panel(str(tmp_path / "mine.json"))
    assert again == panel
    assert again.hash == panel.hash
    assert again.stamp("test") == {
        "panel": "mine", "panel_version": 1, "panel_list": "test", "panel_hash": panel.hash,
    }  # fmt: skip


def test_the_description_is_no_part_of_the_hash_and_everything_else_is() -> None:
    panel = households()
    assert replace(panel, about="for people").hash == panel.hash
    changed = [
        replace(panel, version=2),
        replace(panel, max_episode_steps=5),
        replace(panel, arguments={"size": "real"}),
        replace(panel, lists={"test": panel.lists["test"]}),
    ]
    assert len({panel.hash, *(other.hash for other in changed)}) == 5


def test_a_task_that_differs_is_named_and_the_others_agree() -> None:
    panel = households()
    tasks = dict(panel.lists["test"].tasks)
    first, second = list(tasks)[:2]
    tasks[first] = "0" * 16
    tasks["generated/nowhere"] = tasks[second]
    found = verify(replace(panel, lists={"test": TaskList("valid_unseen", tasks)}))
    assert found.verified == 2
    assert [(d.list, d.task_id) for d in found.differences] == [("test", first), ("test", "generated/nowhere")]
    assert "there is no such task here" in found.differences[1].reason


def test_games_of_another_source_are_refused() -> None:
    with pytest.raises(PanelError, match=r"of official games, but these are generated"):
        verify(replace(households(), source="official"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"name": "x"}', "must be a JSON object with exactly"),
    ],
)
def test_what_is_no_panel_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(PanelError, match=message) as caught:
        load_panel(str(file))
    assert "mine.json" in str(caught.value)


def test_an_unknown_panel_or_list_is_answered_with_those_there_are() -> None:
    with pytest.raises(PanelError, match="did you mean 'households'"):
        load_panel("household")
    with pytest.raises(PanelError, match=r"has no list 'exam'; it has: \['test', 'train'\]"):
        households().task_list("exam")


@pytest.mark.parametrize("name", panel_names())
def test_bundled_panels_name_disjoint_tasks_and_a_few_of_them_play_the_same_here(name: str) -> None:
    panel = load_panel(name)
    lists = [set(part.tasks) for part in panel.lists.values()]
    assert len(set().union(*lists)) == sum(map(len, lists))
    few = {part: TaskList(found.split, dict(list(found.tasks.items())[:6])) for part, found in panel.lists.items()}
    found = verify(replace(panel, lists=few))
    assert (found.verified, found.differences) == (6 * len(few), ())


def test_the_command_lists_makes_and_proves(tmp_path: Path) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "opid_gym.cli", "panel", *arguments],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout if code in (0, 3) else done.stderr

    def panel(*arguments: str, code: int = 0) -> dict[str, object]:
        answer: dict[str, object] = json.loads(said(*arguments, "--json", code=code).splitlines()[-1])
        return answer

    assert set(panel()) == set(panel_names())
    make = ["mine.json", "--make", "opid/ALFWorld-v0", "--set", "size=small", "--list", "test=valid_unseen:5"]
    made = panel(*make)
    assert (made["name"], made["tasks"]) == ("mine", 5)
    proved = panel("mine.json", "--verify")
    assert (proved["verified"], proved["differences"], proved["hash"]) == (5, [], made["hash"])
    file = tmp_path / "mine.json"
    raw = json.loads(file.read_text())
    task = next(iter(raw["lists"]["test"]["tasks"]))
    raw["lists"]["test"]["tasks"][task] = "f" * 16
    file.write_text(json.dumps(raw))
    different = panel("mine.json", "--verify", code=3)
    assert different["verified"] == 4
    assert task in str(different["differences"])
    for_people = said("mine.json", "--verify", code=3)
    assert "4 of 5 transcripts agree." in for_people
    assert task in for_people
    assert all(name in said() for name in panel_names())
    assert "at least one --list" in said("mine.json", "--make", "opid/ALFWorld-v0", code=2)
    assert "got 'test'" in said("mine.json", "--make", "opid/ALFWorld-v0", "--list", "test", code=2)


MADE_ELSEWHERE = """
from opid_gym.panel import make_panel
for env, split, arguments in (
    ("opid/ALFWorld-v0", "valid_seen", {"size": "small"}),
    ("opid/WebShop-v0", "test", {"num_products": 50}),
    ("opid/SearchQA-v0", "test", {}),
):
    panel = make_panel("mine", env, {"test": (split, 4)}, arguments=arguments)
    print(panel.hash, *panel.lists["test"].tasks.values())
"""


def test_two_processes_with_other_hash_seeds_and_threads_make_the_same_panels(tmp_path: Path) -> None:
    def made(hash_seed: str, threads: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", MADE_ELSEWHERE]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = made("1", "1")
    assert len(set(first.split())) == 3 * (1 + 4)
    assert made("2", "4") == first


def test_one_changed_letter_in_a_game_file_is_named(tmp_path: Path) -> None:
    games = list(GeneratedSplit("valid_seen", size="small", count=3))
    for game in games:
        export_game(game, tmp_path)
    data = {"data_dir": str(tmp_path / "small")}
    panel = make_panel("official", ENV, {"test": ("valid_seen", None)}, data=data)
    assert (panel.source, panel.tasks) == ("official", 3)
    task = list(panel.lists["test"].tasks)[1]
    [file] = [path for path in tmp_path.rglob("game.tw-pddl") if task in str(path)]
    [words] = [game.task for game in games if game.task in file.read_text()]
    file.write_text(file.read_text().replace(words, words[:-3] + "x" + words[-2:], 1))
    found = verify(panel, data=data)
    assert found.verified == 2
    assert [(difference.list, difference.task_id) for difference in found.differences] == [("test", task)]


def test_an_evaluation_and_a_benchmark_play_the_panels_tasks_and_say_so(tmp_path: Path) -> None:
    def opid_gym(*arguments: str) -> str:
        command = [sys.executable, "-m", "opid_gym.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    panel = households()
    save_panel(panel, tmp_path / "mine.json")
    result = json.loads(opid_gym("eval", "--agent", "expert", "--panel", "mine.json", "--json"))
    assert [episode["task_id"] for episode in result["results"]] == list(panel.lists["test"].tasks)
    assert (result["panel_hash"], result["panel_list"], result["split"]) == (panel.hash, "test", "valid_unseen")
    opid_gym("bench", "--agent", "expert", "--panel", "mine.json", "--out", "bench")
    notes = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert notes["data"]["mine.json"]["panel_hash"] == panel.hash
    lines = (tmp_path / "bench" / "episodes.jsonl").read_text().splitlines()
    assert {json.loads(line)["task_id"] for line in lines} == set(panel.lists["test"].tasks)
    save_panel(replace(panel, version=2), tmp_path / "mine.json")
    again = ["-m", "opid_gym.cli", "bench", "--agent", "expert", "--panel", "mine.json", "--out", "bench"]
    refused = subprocess.run([sys.executable, *again], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "panel 'mine' version 1" in refused.stderr
