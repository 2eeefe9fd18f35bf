"""Stage 2 as a recipe wants it: who extracts skills, in which iterations, of which episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from opid_agents.learning.learner import get_learner
from opid_agents.learning.schedules import is_on
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.skills.extract import Extractor, RuleExtractor, succeeded
from opid_agents.skills.library import SkillLibrary
from opid_gym.trajectory import Trajectory


def make_extractor(recipe: Recipe, policy: Policy, *, spent: Mapping[str, float]) -> Extractor:
    """The recipe's extractor.

    Args:
        recipe: its parts ``skills`` and ``analyzer`` are used.
        policy: writes the skills for extractor ``self``.
        spent: what earlier parts of the run have used of the analyzer's budget: the sums of its metrics.
    """
    skills = recipe.skills
    return RuleExtractor(
        max_step_skills=skills.max_step_skills, gamma=skills.gamma, success_threshold=skills.success_threshold
    )


def skills_are_on(recipe: Recipe, iteration: int) -> bool:
    """Whether skills are extracted in an iteration, from 1."""
    return is_on(iteration, recipe.skills.teacher_from, recipe.skills.teacher_until)


def wanted_in(recipe: Recipe, iteration: int) -> Callable[[Trajectory], bool]:
    """Which episodes of an iteration get skills."""
    skills = recipe.skills
    if skills.failed_only and iteration >= skills.failed_only_from:
        return lambda trajectory: not succeeded(trajectory, skills.success_threshold)
    return lambda trajectory: True


def for_test(recipe: Recipe, library: SkillLibrary | None) -> SkillLibrary | None:
    """The library that evaluations of the recipe's learner use; None: none."""
    at_test = get_learner(recipe.learner).library_at_test
    return library if (recipe.skills.library_at_test if at_test is None else at_test) else None


def load_for_test(recipe: Recipe, folder: Path) -> SkillLibrary | None:
    """As `for_test`, with the library of a run's folder."""
    return for_test(recipe, SkillLibrary.load(folder / "library.jsonl", size=recipe.skills.library_size))
