"""Skills by task type, as a run's own reports on its teacher say."""

import json

import pytest
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import change
from opid_agents.tokenizer import train_tokenizer
from opid_agents.training.extraction import wanted_in
from opid_agents.training.gate import is_due

from opid_gym.trajectory import Trajectory
from tests.agents.models import WORLD_TEXT, Critic, tiny_recipe, train

GATED = tiny_recipe("skills.gate=true", "skills.gate_tasks=3", "skills.gate_every=2", "train_uniform_groups=true")


def report(folder, iteration, *better):
    folder.mkdir(exist_ok=True)
    (folder / f"{iteration}.json").write_text(json.dumps({"better_types": better}))


def heard(recipe, iteration, folder):
    wanted = wanted_in(recipe, iteration, folder)
    return [name for name in ("clean", "heat") if wanted(Trajectory("t", name, "x"))]


def test_only_types_that_did_better_by_the_latest_report_get_skills(tmp_path):
    report(tmp_path, 1, "clean")
    report(tmp_path, 11, "heat")
    assert [heard(GATED, iteration, tmp_path) for iteration in (1, 10, 11, 12)] == [["clean"]] * 2 + [["heat"]] * 2
    assert heard(tiny_recipe(), 1, tmp_path) == ["clean", "heat"]
    with pytest.raises(FileNotFoundError, match="no report on the teacher made before iteration 1"):
        heard(GATED, 1, tmp_path / "nothing")


def test_reports_are_made_at_the_beginning_and_as_often_as_is_asked():
    assert [is_due(GATED, iteration) for iteration in range(1, 5)] == [True, False, True, False]
    once = change(GATED, ["skills.gate_every=0"])
    assert [is_due(once, iteration) for iteration in range(1, 5)] == [True, False, False, False]
    assert not is_due(tiny_recipe(), 1)


def test_a_run_judges_its_teacher_and_listens_to_the_verdict(tmp_path):
    """A policy that only stammers does no better with skills, so none of its episodes gets any."""
    policy = Policy.create(train_tokenizer(WORLD_TEXT, 400), ModelSize(16, 1, 2, 16, 512))
    recipe = change(GATED, [Critic.NAME, "skills.gate_every=1", "iterations=2", "world.max_episode_steps=3"])
    train(recipe, tmp_path / "run", policy=policy)
    assert sorted(file.name for file in (tmp_path / "run" / "teacher").iterdir()) == ["1.json", "2.json"]
    told = json.loads((tmp_path / "run" / "teacher" / "1.json").read_text())
    assert (told["tasks"], told["better_types"]) == (3, [])
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["skills/trajectories"] for line in lines] == [0, 0]
