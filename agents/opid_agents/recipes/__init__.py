"""Recipes: complete descriptions of runs, by name."""

from __future__ import annotations

from difflib import get_close_matches

from opid_agents.recipes.alfworld import PAPER_ALFWORLD, SMALL_ALFWORLD
from opid_agents.recipes.recipe import Recipe, RecipeError
from opid_agents.recipes.searchqa import PAPER_SEARCHQA, SMALL_SEARCHQA, TINY_SEARCHQA
from opid_agents.recipes.tiny_alfworld import TINY_ALFWORLD
from opid_agents.recipes.webshop import PAPER_WEBSHOP, SMALL_WEBSHOP, TINY_WEBSHOP

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
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        RecipeError: there is none; the message lists those there are.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise RecipeError(f"unknown recipe {name!r}; {hint}allowed: {sorted(RECIPES)}")
