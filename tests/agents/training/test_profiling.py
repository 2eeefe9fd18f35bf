"""The trace of an iteration, as the trace viewers read it."""

import gzip
import json
from pathlib import Path

from opid_agents.policy import Policy
from opid_agents.recipes.recipe import change
from opid_agents.starts import bundled_start
from opid_agents.training import loop
from opid_agents.training.run import Run

from tests.agents.interop.recipes import INSIDE_TRL


def test_one_iteration_is_traced_with_its_stages_by_name(tmp_path: Path) -> None:
    recipe = change(INSIDE_TRL, {"iterations": 2, "tasks_per_iteration": 1, "world.max_episode_steps": 3})
    with Run.open(recipe, tmp_path, policy=Policy.load(bundled_start(recipe)), profile=True) as run:
        loop.train(run)
    with gzip.open(tmp_path / "trace.json.gz", "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert all(names.count(stage) == 1 for stage in ("rollout", "extract", "route", "rescore", "update"))
    stages = {event["name"]: event for event in events if event.get("cat") == "user_annotation"}
    assert stages["rollout"]["ts"] < stages["rescore"]["ts"] < stages["update"]["ts"]
    assert any(event["name"].startswith("aten::") for event in events)
