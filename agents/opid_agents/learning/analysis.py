"""Stage 2 as a recipe wants it: who extracts skills, in which iterations, of which episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from opid_agents.learning.learner import get_learner
from opid_agents.learning.schedules import is_on
from opid_agents.named import load_named
from opid_agents.openai_api import Budget, ChatClient, Prices, Usage
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Analyzer, Recipe
from opid_agents.skills.analyze import Writer, WrittenSkills, load_prompt
from opid_agents.skills.extract import STYLES, Extractor, RuleExtractor, succeeded
from opid_agents.skills.library import SkillLibrary
from opid_agents.skills.llm import EndpointWriter, ReplyCache
from opid_agents.skills.self_extract import PolicyWriter
from opid_gym.trajectory import Trajectory


def make_extractor(recipe: Recipe, policy: Policy, *, spent: Mapping[str, float]) -> Extractor:
    """The recipe's extractor.

    Args:
        recipe: its parts ``skills`` and ``analyzer`` are used.
        policy: writes the skills for extractor ``self``.
        spent: what earlier parts of the run have used of the analyzer's budget: the sums of its metrics.

    Raises:
        ValueError: a setting makes no sense, there is no such extractor, or the variable with the API key is not set.
        ImportError: the ``llm`` extra is not installed.
    """
    skills, analyzer = recipe.skills, recipe.analyzer
    if skills.extractor == "rules":
        return RuleExtractor(
            max_step_skills=skills.max_step_skills,
            gamma=skills.gamma,
            success_threshold=skills.success_threshold,
            style=STYLES[skills.style],
        )
    if ":" in skills.extractor:
        own: Extractor = load_named(skills.extractor, "extractor")(recipe)
        return own
    writer: Writer
    if skills.extractor == "self":
        writer = PolicyWriter(policy, max_tokens=analyzer.max_tokens, temperature=analyzer.temperature)
    else:
        writer = EndpointWriter(
            make_client(analyzer, spent),
            json_mode=analyzer.json_mode,
            seconds=analyzer.seconds,
            cache=ReplyCache(Path(analyzer.cache)) if analyzer.cache else None,
        )
    return WrittenSkills(
        writer,
        load_prompt(analyzer.prompt),
        max_step_skills=skills.max_step_skills,
        success_threshold=skills.success_threshold,
        retries=analyzer.retries,
    )


def make_client(analyzer: Analyzer, spent: Mapping[str, float]) -> ChatClient:
    """The client of the analyzer's endpoint; the API key comes from the environment and stays in memory."""
    key = None
    if analyzer.api_key_variable:
        key = os.environ.get(analyzer.api_key_variable)
        if not key:
            raise ValueError(
                f"analyzer.api_key_variable is {analyzer.api_key_variable!r}, but that environment variable is not set"
            )
    return ChatClient(
        analyzer.base_url,
        analyzer.model,
        api_key=key,
        temperature=analyzer.temperature,
        max_tokens=analyzer.max_tokens,
        concurrency=analyzer.concurrency,
        timeout=analyzer.timeout,
        prices=Prices(analyzer.prompt_price, analyzer.completion_price),
        budget=Budget(analyzer.requests, analyzer.tokens, analyzer.cost),
        spent=Usage(
            requests=int(spent.get("calls", 0)),
            prompt_tokens=int(spent.get("prompt_tokens", 0)),
            completion_tokens=int(spent.get("completion_tokens", 0)),
            cost=spent.get("cost", 0.0),
        ),
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
