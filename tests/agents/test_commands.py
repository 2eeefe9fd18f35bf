import json

import pytest
import typer
from opid_agents import commands
from opid_agents.recipes import RECIPES, get_recipe
from opid_agents.recipes.recipe import RecipeError
from opid_agents.starts import bundled_starts
from typer.testing import CliRunner

from opid_gym.files import damage
from tests.agents.models import tiny_recipe

app = typer.Typer()
for command in (commands.train, commands.pretrain, commands.quickstart, commands.recipes):
    app.command()(command)


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "tiny.json"
    file.write_text(tiny_recipe("iterations=1").model_dump_json())
    return str(file)


def invoke(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_quickstart_tells_before_and_after_and_how_to_watch(recipe, tmp_path):
    result = invoke("quickstart", "--recipe", recipe, "--out", str(tmp_path / "run"), "--seed", "3", "--json")
    told = json.loads(result.stdout.strip().splitlines()[-1])
    assert told["before"]["episodes"] == told["after"]["episodes"] == 4
    assert told["difference"]["low"] <= told["difference"]["estimate"] <= told["difference"]["high"]
    assert told["watch"].startswith("opid-gym play ")
    assert f"--agent {told['model']}" in told["watch"]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["seed"] == 3
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_quickstart_tells_of_the_other_worlds_that_have_a_start(recipe, tmp_path):
    command = ("quickstart", "warm_start.steps=2", "iterations=0", "--recipe", recipe, "--out", str(tmp_path / "run"))
    told = " ".join(invoke(*command).output.split())
    for name in bundled_starts():
        assert f"opid-gym train --recipe {name} algorithm=grpo" in told
        assert get_recipe(name).about in told


@pytest.mark.parametrize(("changes", "wanted"), [(["iterations=40"], 40), (["iterations=3"], 3), ([], 24)])
def test_quickstart_takes_minutes_unless_told_otherwise(changes, wanted, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("opid_agents.training.loop.run", lambda recipe, *rest, **options: given.append(recipe))
    with pytest.raises(AttributeError):  # nothing came of it
        invoke("quickstart", *changes, "--out", str(tmp_path / "run"))
    assert given[0].iterations == wanted


def test_quickstart_leaves_a_shorter_recipe_as_it_is(recipe, tmp_path):
    invoke("quickstart", "warm_start.steps=2", "--recipe", recipe, "--out", str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["iterations"] == 1


def test_quickstart_never_touches_an_earlier_run(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    invoke("quickstart", "warm_start.steps=2", "iterations=0", "--recipe", recipe, "--out", str(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "run-2" / "model").is_dir()


def test_a_pretrained_model_is_trained_and_a_run_resumed(recipe, tmp_path):
    start, out = str(tmp_path / "start"), str(tmp_path / "run")
    invoke("pretrain", "--recipe", recipe, "--out", start, "--json")
    assert damage(start, thorough=True) is None
    assert not (tmp_path / "start" / "warm_start").exists()
    first = invoke("train", "--recipe", recipe, "--model", start, "--out", out, "--json")
    assert json.loads(first.stdout.strip().splitlines()[-1])["evaluation"]["episodes"] == 4
    saved = tmp_path / "run" / "recipe.json"
    saved.write_text(saved.read_text()[:100])
    again = invoke("train", "iterations=2", "--recipe", str(saved), "--out", out, "--resume", "--json")
    assert "is damaged; the copy beside the run's start is used" in " ".join(again.stderr.split())
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_an_iteration_that_trains_nothing_says_so(tmp_path):
    file = tmp_path / "recipe.json"
    # A model that never wins: in every group all rollouts fail.
    file.write_text(
        tiny_recipe("iterations=1", "skills.extractor=self", "train_uniform_groups=false").model_dump_json()
    )
    result = invoke("train", "--recipe", str(file), "--out", str(tmp_path / "run"))
    assert "Nothing was trained: in each group all rollouts ended with the same return" in result.output
    assert "The analyzer was not asked" in result.output
    report = (tmp_path / "run" / "report.md").read_text()
    assert "In 1 of 1 iterations nothing was trained" in report
    assert "The extractor 'self' was never asked" in report


def test_recipes_are_listed_and_explained():
    listed = invoke("recipes").stdout
    assert all(name in listed and recipe.about in listed for name, recipe in RECIPES.items())
    shown = invoke("recipes", "paper-alfworld").stdout
    assert 'model.path="Qwen/Qwen2.5-3B-Instruct"' in shown
    assert "optimizer.learning_rate=1e-06  learning rate of AdamW" in shown
    assert json.loads(invoke("recipes", "paper-alfworld", "--json").stdout)["loss"]["kl_coef"] == 0.01


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no model 'Qwen/Qwen2.5-3B-Instruct': .*hf download .*model.path=DIR"):
        commands.train([], recipe="paper-alfworld", out=tmp_path / "run")
    with pytest.raises(ValueError, match="no model in 'elsewhere'"):  # nothing has begun there that could be lost
        commands.train(["model.path=elsewhere"], recipe="paper-alfworld", out=tmp_path / "run")


def test_a_recipe_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(RecipeError, match=r"cannot read recipe '.*broken\.json'"):
        commands.load_recipe(str(tmp_path / "broken.json"), None)
    with pytest.raises(RecipeError, match="unknown recipe key"):
        commands.load_recipe("tiny-alfworld", ["lerner=opid"])
