import json

import pytest
import typer
from opid_agents import commands
from opid_agents.recipes import RECIPES
from opid_agents.recipes.recipe import RecipeError
from typer.testing import CliRunner

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


def test_quickstart_never_touches_an_earlier_run(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    invoke("quickstart", "warm_start.steps=2", "iterations=0", "--recipe", recipe, "--out", str(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "run-2" / "model").is_dir()


def test_a_pretrained_model_is_trained_and_a_run_resumed(recipe, tmp_path):
    start, out = str(tmp_path / "start"), str(tmp_path / "run")
    invoke("pretrain", "--recipe", recipe, "--out", start, "--json")
    first = invoke("train", "--recipe", recipe, "--model", start, "--out", out, "--json")
    assert json.loads(first.stdout.strip().splitlines()[-1])["evaluation"]["episodes"] == 4
    invoke("train", "iterations=2", "--recipe", recipe, "--out", out, "--resume", "--json")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_recipes_are_listed_and_explained():
    listed = invoke("recipes").stdout
    assert all(name in listed and recipe.about in listed for name, recipe in RECIPES.items())
    shown = invoke("recipes", "paper-alfworld").stdout
    assert 'model.path="Qwen/Qwen2.5-3B-Instruct"' in shown
    assert "learning_rate=1e-06  of AdamW" in shown
    assert json.loads(invoke("recipes", "paper-alfworld", "--json").stdout)["kl_weight"] == 0.01


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
