import json

import pytest
from opid_agents.recipes import RECIPES, get_recipe
from opid_agents.recipes.recipe import Recipe, RecipeError, change, describe, validate


def test_every_key_has_a_meaning_and_every_recipe_its_own_name():
    assert all(describe().values())
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_recipes_survive_json():
    for recipe in RECIPES.values():
        assert validate(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("algorithm=grpo", lambda r: r.algorithm == "grpo"),
        ("advantage.clip=2", lambda r: r.advantage.clip == 2.0),
        ("advantage.clip=none", lambda r: r.advantage.clip is None),
        ("train_uniform_groups=true", lambda r: r.train_uniform_groups is True),
        ("world.arguments.size=real", lambda r: r.world.arguments["size"] == "real"),
        ('prompting.stop=["x"]', lambda r: r.prompting.stop == ("x",)),
        ("name=a=b", lambda r: r.name == "a=b"),
    ],
)
def test_values_are_changed_by_text(text, read):
    assert read(change(Recipe(), [text]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat=1", "unknown recipe key 'learning_rat' .*given 1.*did you mean '.*optimizer.learning_rate'"),
        ("step_weight=1", "did you mean 'advantage.step_weight'"),
        ("algorithm=ppo", r"algorithm: got 'ppo'; unknown algorithm; .*allowed: \['adrs', 'dr_grpo', 'gigpo', "),
        ("tasks_per_iteration=0", "tasks_per_iteration: got 0; .*greater than or equal to 1"),
        ("tasks_per_iteration=many", "tasks_per_iteration: got 'many'; .*integer"),
        ("advantage.mode=std", "advantage.mode: got 'std'; .*'mean_std_norm' or 'mean_norm'"),
        ("skills.routing=best", "skills.routing: got 'best'; .*'step_priority' or 'additive'"),
        ("tasks", "cannot read 'tasks'; .*key=value"),
        ("xyzzy=1", "unknown recipe key 'xyzzy'.*allowed: .*learning_rate"),
        ("skills=1", "unknown recipe key 'skills'"),
    ],
)
def test_mistakes_name_the_key_what_was_given_and_what_is_allowed(text, message):
    with pytest.raises(RecipeError, match=message):
        change(Recipe(), [text])


def test_constants_are_those_of_the_algorithm():
    assert change(Recipe(), ["algorithm=sdar", "constants.weight=0.1"]).constants == {"weight": 0.1}
    with pytest.raises(RecipeError) as caught:
        change(Recipe(), ["algorithm=sdar", "constants.wieght=0.1"])
    assert str(caught.value) == (
        "recipe: constants.wieght=0.1: sdar has no such constant; did you mean 'weight'? "
        "allowed: ['sharpness', 'weight']"
    )
    with pytest.raises(RecipeError, match=r"constants.weight='much': sdar needs a value like 0.01"):
        change(Recipe(), ["algorithm=sdar", "constants.weight=much"])
    assert change(Recipe(), ["algorithm=mine:MINE", "constants.anything=[1]"]).constants == {"anything": [1]}


def test_unknown_recipes_name_the_closest():
    with pytest.raises(RecipeError, match="unknown recipe 'tiny-alfword'; did you mean 'tiny-alfworld'"):
        get_recipe("tiny-alfword")


def test_a_password_in_a_url_is_refused_and_not_shown():
    with pytest.raises(RecipeError, match=r"analyzer.base_url: got one that is not shown here; a base URL") as caught:
        change(Recipe(), ["analyzer.base_url=https://me:hunter2@host/v1"])
    assert "hunter2" not in str(caught.value)
