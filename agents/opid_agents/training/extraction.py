"""Stage 2 as a recipe wants it: who extracts skills, in which iterations, of which episodes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from opid_agents.algorithms import get_algorithm
from opid_agents.algorithms.schedules import is_on
from opid_agents.distributed import Processes
from opid_agents.openai_api import Budget, ChatClient, Prices, Usage
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Analyzer, Recipe
from opid_agents.skills.analyze import Details, Writer, WrittenSkills, load_prompt
from opid_agents.skills.extract import STYLES, Extraction, Extractor, RuleExtractor, UnreadableReply, succeeded
from opid_agents.skills.library import SkillLibrary
from opid_agents.skills.llm import EndpointWriter, ReplyCache
from opid_agents.skills.self_extract import PolicyWriter
from opid_gym.named import load_named
from opid_gym.trajectory import Trajectory

_KEPT = 20_000  # characters of a reply that could not be read


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
        return make_rules(recipe)
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
        details=Details(
            hindsight=analyzer.hindsight,
            replies=analyzer.replies,
            returns=analyzer.returns,
            uncut=analyzer.uncut,
            gamma=recipe.advantage.gamma,
        ),
        max_step_skills=skills.max_step_skills,
        success_threshold=skills.success_threshold,
        retries=analyzer.retries,
    )


def make_rules(recipe: Recipe) -> RuleExtractor:
    """The extractor ``rules`` with the recipe's settings."""
    skills = recipe.skills
    return RuleExtractor(
        hindsight=skills.hindsight,
        contrast=skills.contrast,
        workflow=skills.workflow,
        max_step_skills=skills.max_step_skills,
        gamma=recipe.advantage.gamma,
        success_threshold=skills.success_threshold,
        style=STYLES[skills.style],
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


def wanted_in(recipe: Recipe, iteration: int, reports: Path) -> Callable[[Trajectory], bool]:
    """Which episodes of an iteration get skills.

    Args:
        recipe: its part ``skills`` is used.
        iteration: from 1.
        reports: folder of the run's reports on its teacher (`opid_agents.training.gate`). The latest is read that was
            not made for a later iteration: an interrupted run repeats iterations.

    Raises:
        FileNotFoundError: ``skills.gate`` wants a report, and there is none.
    """
    skills = recipe.skills
    failed_only = skills.failed_only and iteration >= skills.failed_only_from
    types = _better_types(reports, iteration) if skills.gate else None

    def wanted(trajectory: Trajectory) -> bool:
        if types is not None and trajectory.task_type not in types:
            return False
        return not (failed_only and succeeded(trajectory, skills.success_threshold))

    return wanted


def _better_types(reports: Path, iteration: int) -> frozenset[str]:
    """The task types that did better with skills by the latest report."""
    made = [number for file in reports.glob("*.json") if (number := int(file.stem)) <= iteration]
    if not made:
        raise FileNotFoundError(f"{str(reports)!r} has no report on the teacher made before iteration {iteration}")
    return frozenset(json.loads((reports / f"{max(made)}.json").read_bytes())["better_types"])


def for_test(recipe: Recipe, library: SkillLibrary | None) -> SkillLibrary | None:
    """The library that evaluations of the recipe's algorithm use; None: none."""
    at_test = get_algorithm(recipe.algorithm).library_at_test
    return library if (recipe.skills.library_at_test if at_test is None else at_test) else None


def load_for_test(recipe: Recipe, folder: Path) -> SkillLibrary | None:
    """As `for_test`, with the library of a run's folder."""
    return for_test(recipe, SkillLibrary.load(folder / "library.jsonl", size=recipe.skills.library_size))


def extract_together(
    extractor: Extractor,
    groups: Sequence[Sequence[Trajectory]],
    wanted: Callable[[Trajectory], bool],
    processes: Processes,
    *,
    divided: bool,
) -> Extraction:
    """What an extractor finds in all groups, known to all processes.

    Args:
        extractor: this process's.
        groups: all of them.
        wanted: which episodes get skills.
        processes: who takes part.
        divided: each process is asked about a part of the groups. False: the first one about all, for rules look across
            groups, an endpoint has limits and a budget for the whole run, and one's own may remember what it has seen.
    """
    if processes.size == 1:
        return extractor.extract_all(groups, wanted)
    own = processes.own(range(len(groups))) if divided else list(range(len(groups))) if processes.leads else []
    found = extractor.extract_all([groups[i] for i in own], wanted) if own else Extraction([])
    parts = processes.gather((own, found))
    skills = dict(chain(*(zip(places, part.skills, strict=True) for places, part in parts)))
    metrics: Counter[str] = Counter()
    for _, part in parts:
        metrics.update(part.metrics)
    return Extraction(
        [skills[i] for i in range(len(groups))],
        dict(metrics),
        [reply for _, part in parts for reply in part.unreadable],
    )


def append_unreadable(file: Path, iteration: int, replies: Sequence[UnreadableReply]) -> None:
    """Keep replies that were no skills for the user to see, as JSON Lines, each cut to a length that can be read."""
    if replies:
        with file.open("a", encoding="utf-8") as lines:
            for unreadable in replies:
                record = {"iteration": iteration} | asdict(replace(unreadable, reply=unreadable.reply[:_KEPT]))
                lines.write(json.dumps(record) + "\n")
