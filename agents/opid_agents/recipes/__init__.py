"""Recipes: complete descriptions of runs, by name."""

from __future__ import annotations

from difflib import get_close_matches

from opid_agents.recipes.alfworld import PAPER_ALFWORLD, SMALL_ALFWORLD
from opid_agents.recipes.recipe import Recipe, RecipeError
from opid_agents.recipes.tiny_alfworld import TINY_ALFWORLD

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (TINY_ALFWORLD, SMALL_ALFWORLD, PAPER_ALFWORLD)}


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
