"""Agents for text worlds: language-model policies, and OPID, the algorithm that distils hindsight skills into them.

>>> from opid_agents import change, get_recipe
>>> change(get_recipe("tiny-alfworld"), ["algorithm=grpo"]).algorithm
'grpo'

``run(recipe, "runs/mine")`` does the rest. Importing this package is light; what needs PyTorch is loaded when it is
used for the first time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opid_agents.algorithms import ALGORITHMS, Algorithm
    from opid_agents.lm import LMAgent, LMSettings
    from opid_agents.policy import Policy
    from opid_agents.recipes import RECIPES, get_recipe
    from opid_agents.recipes.recipe import Recipe, RecipeError, change
    from opid_agents.training.evaluation import evaluate_policy
    from opid_agents.training.loop import RunResult, run, train
    from opid_agents.training.run import Run, TrainingDiverged

__all__ = [
    "ALGORITHMS",
    "RECIPES",
    "Algorithm",
    "LMAgent",
    "LMSettings",
    "Policy",
    "Recipe",
    "RecipeError",
    "Run",
    "RunResult",
    "TrainingDiverged",
    "change",
    "evaluate_policy",
    "get_recipe",
    "run",
    "train",
]

_HOME = {
    "ALGORITHMS": "algorithms",
    "Algorithm": "algorithms",
    "LMAgent": "lm",
    "LMSettings": "lm",
    "Policy": "policy",
    "RECIPES": "recipes",
    "get_recipe": "recipes",
    "Recipe": "recipes.recipe",
    "RecipeError": "recipes.recipe",
    "change": "recipes.recipe",
    "evaluate_policy": "training.evaluation",
    "RunResult": "training.loop",
    "run": "training.loop",
    "train": "training.loop",
    "Run": "training.run",
    "TrainingDiverged": "training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
