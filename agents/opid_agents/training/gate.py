"""Skills only where they help: a run judges its teacher, at its beginning and now and then.

A report (`opid_agents.training.teacher.judge`) is made on tasks of the train split, so nothing of the held-back ones
decides what is trained. It is kept in the run's folder as ``teacher/ITERATION.json``, made before that iteration;
`opid_agents.training.extraction.wanted_in` reads it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from opid_agents.recipes.recipe import Recipe
from opid_agents.training.teacher import judge
from opid_gym.files import write_file

if TYPE_CHECKING:
    from opid_agents.training.run import Run


def judge_teacher(run: Run, iteration: int) -> None:
    """Make a report before an iteration, where one is due."""
    if not is_due(run.recipe, iteration):
        return
    recipe, tasks = run.recipe, run.recipe.skills.gate_tasks
    with run.timed("teacher"):
        if run.processes.leads:
            split = recipe.world.train_split
            report = judge(recipe, run.policy, tasks=tasks, split=split, hints=tasks, watch=run.watch)
            run.folder.teacher.mkdir(exist_ok=True)
            write_file(run.folder.teacher / f"{iteration}.json", json.dumps(report.to_dict(), indent=1) + "\n")
        run.processes.share(None)  # the others wait for the report


def is_due(recipe: Recipe, iteration: int) -> bool:
    """Whether a report is made before an iteration, from 1."""
    skills = recipe.skills
    again = skills.gate_every > 0 and (iteration - 1) % skills.gate_every == 0
    return skills.gate and (iteration == 1 or again)
