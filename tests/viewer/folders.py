"""Run folders as `opid-gym train` writes them, with what a test wants in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opid_gym.trajectory import Step, StepHindsight, Trajectory, write_jsonl


def step(number: int, **changes: Any) -> Step:
    """A step with tokens and both advantages: outcome 0.5 on all, skill -0.2, 0.1, 0."""
    fields: dict[str, Any] = {
        "observation": f"You arrive at shelf {number}.",
        "action": f"go to shelf {number + 1}",
        "reward": 0.0,
        "next_observation": f"You arrive at shelf {number + 1}.",
        "admissible_actions": ("look", f"go to shelf {number + 1}"),
        "hindsight": StepHindsight(
            True,
            ("found the mug",),
            wasted=number == 1,
            better=f"open drawer {number}",
            decisive=number == 0,
            reason="The drawer had not been opened.",
        ),
        "reply": f" go to shelf {number + 1}\n",
        "prompt": f"task: find it\nYou arrive at shelf {number}.\n>",
        "data": {
            "skills": {"step": f"open drawer {number}"},
            "tokens": {
                "texts": [" go to", f" shelf {number + 1}", "\n"],
                "log_probs": [-0.7, -0.1, 0.0],
                "outcome": [0.5, 0.5, 0.5],
                "skill": [-0.2, 0.1, 0.0],
            },
        },
    }
    return Step(**fields | changes)


def trajectory(number: int = 0, steps: int = 3, **changes: Any) -> Trajectory:
    """Even numbers are solved."""
    fields: dict[str, Any] = {
        "task_id": f"task-{number // 2}",
        "task_type": "pick_and_place" if number % 3 else "look_at_obj",
        "task": f"put mug {number // 2} in shelf",
        "steps": [step(i) for i in range(steps)],
        "success": number % 2 == 0,
        "group": number // 2,
        "env_id": "opid/ALFWorld-v0",
        "metadata": {"iteration": 1 + number // 4},
        "workflow": ("go to shelf", "take mug") if number % 2 == 0 else None,
    }
    return Trajectory(**fields | changes)


def make_run(folder: Path, trajectories: list[Trajectory] | None = None, *, algorithm: str = "opid") -> Path:
    """A finished run of two iterations."""
    folder.mkdir(parents=True, exist_ok=True)
    trajectories = [trajectory(i) for i in range(8)] if trajectories is None else trajectories
    write_jsonl(folder / "trajectories.jsonl", trajectories)
    metrics = [
        {
            "iteration": i,
            "episodes": 4 * i,
            "env_steps": 12 * i,
            "success": 0.25 * i,
            "length": 3.0,
            "seconds/rollout": 1.5,
        }
        for i in (1, 2)
    ]
    rate = {"episodes": 4, "successes": 2, "estimate": 0.5, "low": 0.15, "high": 0.85}
    evaluation = {"by_task_type": {"look_at_obj": rate}, "episodes": 4, "success": rate, "results": []}
    skills = {"iteration": 1, "trajectory": 0, "episode_summary": "Solved.", "episode_skill": "look on the shelves"}
    _write_lines(folder / "metrics.jsonl", metrics)
    _write_lines(folder / "skills.jsonl", [{**skills, "step_skills": {"1": "open drawer 1"}}])
    (folder / "recipe.json").write_text(json.dumps({"name": "test", "algorithm": algorithm, "seed": 3}))
    (folder / "versions.json").write_text(json.dumps({"python": "3.11"}))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def _write_lines(file: Path, records: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_bench(folder: Path, outcomes: dict[tuple[str, str], str]) -> Path:
    """A benchmark's folder: for each environment and agent, one digit for each task, 1 for solved."""
    folder.mkdir(parents=True, exist_ok=True)
    envs = sorted({env for env, _ in outcomes})
    source = {"source": "generated", "data": None}
    notes = {"commands": [], "agents": {}, "envs": {env: env for env in envs}, "data": dict.fromkeys(envs, source)}
    (folder / "bench.json").write_text(json.dumps(notes))
    _write_lines(
        folder / "episodes.jsonl",
        [
            {
                "agent": agent,
                "env": env,
                "seed": 0,
                "task_id": f"t{i}",
                "task_type": f"a type of task number {i % 6}",
                "success": solved == "1",
                "episode_return": 0.5 if solved == "0" else 1.0,
            }
            for (env, agent), digits in outcomes.items()
            for i, solved in enumerate(digits)
        ],
    )
    return folder
