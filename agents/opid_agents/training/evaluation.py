"""Success of a policy on the held-back tasks of a recipe."""

from __future__ import annotations

from dataclasses import replace

from opid_agents.distributed import ALONE, Processes, interleaved
from opid_agents.lm import LMAgent
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.sampling.sampler import Sampler
from opid_agents.skills.library import SkillLibrary
from opid_agents.streams import stream
from opid_agents.training.setup import lm_settings, make_envs, task_ids
from opid_agents.training.watcher import Silent, Watcher
from opid_gym.evaluation import Evaluation, evaluate
from opid_gym.panel import load_panel

_DEFAULT_NUM_ENVS = 128


def evaluate_policy(
    recipe: Recipe,
    policy: Policy,
    *,
    split: str | None = None,
    tasks: int | None = None,
    watch: Watcher | None = None,
    library: SkillLibrary | None = None,
    sampler: Sampler | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Play tasks of a split once each, at the evaluation temperature. The same seed gives the same episodes.

    Args:
        recipe: names the world, the prompts, the temperature and the seed.
        policy: what is evaluated.
        split: of the world; None: the recipe's held-back split.
        tasks: number of tasks, from the beginning of the split; None: as many as the recipe says.
        watch: is told how it goes on.
        library: its skills are in the prompts; None: no skills.
        sampler: what samples the replies; None: the policy itself.
        processes: each plays a part of the tasks, and all get the whole result.
    """
    split = split or recipe.world.eval_split
    envs = make_envs(recipe, split, 1)
    ids = task_ids(recipe, envs, split)[: tasks or recipe.evaluation.tasks]
    envs.close()
    numbers = processes.own(range(len(ids)))
    envs = make_envs(recipe, split, max(1, min(len(numbers), recipe.num_envs or _DEFAULT_NUM_ENVS)))
    agent = LMAgent(
        policy,
        lm_settings(recipe),
        temperature=recipe.evaluation.temperature,
        seed=stream(recipe.seed, "evaluation"),
        skill_for=library.look_up if library else None,
        sampler=sampler,
        numbers=numbers,
    )
    settings = {"env": recipe.world.env, "split": split, "temperature": recipe.evaluation.temperature}
    if recipe.panel is not None and split is not None:
        panel = load_panel(recipe.panel)
        settings |= panel.stamp(panel.list_of(split))
    try:
        with (watch or Silent()).stage(f"evaluate on {split or 'the tasks'}", len(numbers)) as advance:
            own, found = [ids[number] for number in numbers], None
            if own or not ids:  # no tasks at all is everybody's mistake
                found = evaluate(envs, agent, own, settings=settings, on_episode=lambda trajectory: advance(1))
    finally:
        envs.close()
    parts = [part for part in processes.gather(found) if part is not None]
    return replace(parts[0], episodes=tuple(interleaved([part.episodes for part in parts])))
