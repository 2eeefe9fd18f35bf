"""Recipes: complete descriptions of runs, by name."""

from __future__ import annotations

from opid_agents.recipes.alfworld import PAPER_ALFWORLD, PAPER_ALFWORLD_QWEN3, SMALL_ALFWORLD
from opid_agents.recipes.recipe import Recipe, RecipeError
from opid_agents.recipes.searchqa import PAPER_SEARCHQA, PAPER_SEARCHQA_QWEN3, SMALL_SEARCHQA, TINY_SEARCHQA
from opid_agents.recipes.tiny_alfworld import TINY_ALFWORLD
from opid_agents.recipes.webshop import PAPER_WEBSHOP, PAPER_WEBSHOP_QWEN3, SMALL_WEBSHOP, TINY_WEBSHOP
from opid_gym.named import did_you_mean

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        TINY_ALFWORLD,
        TINY_WEBSHOP,
        TINY_SEARCHQA,
        SMALL_ALFWORLD,
        SMALL_WEBSHOP,
        SMALL_SEARCHQA,
        PAPER_ALFWORLD,
        PAPER_WEBSHOP,
        PAPER_SEARCHQA,
        PAPER_ALFWORLD_QWEN3,
        PAPER_WEBSHOP_QWEN3,
        PAPER_SEARCHQA_QWEN3,
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        RecipeError: there is none; the message lists those there are.
    """
    if name in RECIPES:
        return RECIPES[name]
    hint = did_you_mean(name, RECIPES)
    raise RecipeError(f"unknown recipe {name!r}; {hint and f'{hint} '}allowed: {sorted(RECIPES)}")
