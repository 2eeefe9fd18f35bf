"""Training in a world of one's own that has nothing but its two methods: no splits, no expert, no hindsight."""

import json

import pytest
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import RecipeError, change
from opid_agents.training import loop
from opid_agents.training.setup import make_envs

from opid_gym.registration import WorldSpec, register_world
from opid_gym.world import World
from tests.agents.models import tiny_recipe
from tests.corridor import Corridor


class Bare(Corridor):
    """The corridor without its expert."""

    expert_actions = World.expert_actions


class Silent(Bare):
    """Actions are free text."""

    def _turn(self, slot, reward=0.0):
        turn = super()._turn(slot, reward)
        turn.admissible_actions = None
        return turn


for name in ("Bare", "Silent"):
    register_world(WorldSpec(f"tests/{name}-v0", f"{__name__}:{name}", max_episode_steps=4, summary="for the tests"))

NO_SPLITS = ("world.train_split=none", "world.eval_split=none", "world.arguments={}")


def test_splits_expert_and_hindsight_are_optional(tmp_path):
    recipe = tiny_recipe(
        f"world.env={__name__}:tests/Bare-v0",
        *NO_SPLITS,
        "warm_start.expert=random",
        "iterations=1",
        "evaluation.before=true",
    )
    result = loop.run(recipe, tmp_path / "run")
    assert len(result.evaluation.episodes) == 4
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Success on 4 tasks of training (generated tasks, not official data) before training" in report
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["split"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["world.arguments={}"], r"no arguments \['split'\].*set world.train_split=none and world.eval_split=none"),
        (
            [*NO_SPLITS, "world.arguments.size=small"],
            r"no arguments \['size'\]; allowed: \['lengths'\].*world.arguments=",
        ),
        ([*NO_SPLITS], r"Bare has no expert: set warm_start.expert=random .* warm_start.expert=module:Class"),
    ],
)
def test_what_is_missing_is_named_with_the_value_to_set(changes, message, tmp_path):
    recipe = change(tiny_recipe(f"world.env={__name__}:tests/Bare-v0"), changes)
    with pytest.raises(ValueError, match=message):
        loop.run(recipe, tmp_path / "run")


def test_random_play_needs_actions_to_choose_from(tmp_path):
    recipe = tiny_recipe(f"world.env={__name__}:tests/Silent-v0", *NO_SPLITS, "warm_start.expert=random")
    with pytest.raises(ValueError, match="this world lists none: name an expert of your own"):
        loop.run(recipe, tmp_path / "run")


def test_a_recipe_says_none_for_no_split_and_the_expert_of_another_world_is_no_default():
    recipe = change(get_recipe("tiny-alfworld"), ["world.train_split=none"])
    assert recipe.world.train_split is None
    assert tiny_recipe().warm_start.expert == "world"
    with pytest.raises(RecipeError, match="has no arguments"):
        make_envs(change(recipe, ["world.env=tests.corridor:tests/Corridor-v0"]), None, 1)
