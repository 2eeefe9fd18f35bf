"""What an iteration of learning costs: our GRPO and OPID, and TRL's GRPOTrainer on the same games.

    python benchmarks/learner.py --json > results/learner.json

One process, one thread, one run: the same starting model, the same tasks in the same order, the same sampling
temperature and reply limit, float32. Each round runs a few iterations of every contestant, one after the other. Figures
are medians over all rounds of the CPU time (``time.process_time``) from one iteration's beginning to the next one's:
rollouts, skills, scoring, updates, metrics and checkpoints (TRL writes none). The learning rate is the paper's 1e-6, so
that every iteration plays as the first one does and token counts stay comparable.

- ``over_trl``: environment steps per CPU-second of our GRPO over TRL's.
- ``opid_over_grpo``: CPU time of an OPID iteration over a GRPO iteration. Both train the groups whose rollouts differ;
  there skills are extracted by the recipe's rules (decisive hindsight), routed and re-scored, and the share of tokens
  that got one is in the figures. ``opid_all_groups_over_grpo``: the same if OPID also extracts, scores and trains where
  all rollouts of a task ended alike, from which GRPO learns nothing.

TRL is driven through its ``rollout_func``: the same vector environment, batched ``model.generate`` with a KV cache
within each turn and only for the games that still run, one row an episode with the environment's words masked, one
optimizer step an iteration (so that it need not score old log-probabilities), its fused language-model head, no
gradient checkpointing, no logging, no saving, and the fastest of several micro-batch sizes (``--trl-batch``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from opid_agents.lm import LMAgent
from opid_agents.packing import pack
from opid_agents.policy import Policy
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.sampling.constraints import Constraint
from opid_agents.sampling.sampler import Samples, SamplingParams
from opid_agents.streams import stream
from opid_agents.training.batch import step_samples
from opid_agents.training.loop import train
from opid_agents.training.rollouts import play_groups
from opid_agents.training.run import Run
from opid_agents.training.setup import lm_settings, make_envs
from opid_agents.training.warm_start import make_start
from opid_agents.training.watcher import Silent

from opid_gym.console import out
from opid_gym.console import talk as progress
from opid_gym.order import TaskOrder


def main() -> None:
    """Let every contestant train in turn, round by round, and print CPU seconds and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="starting model (opid-gym pretrain); without one it is made first")
    parser.add_argument("--rounds", type=int, default=3, help="each runs every contestant once")
    parser.add_argument("--iterations", type=int, default=2, help="measured iterations of a contestant in a round")
    parser.add_argument("--tasks", type=int, default=8, help="tasks in an iteration")
    parser.add_argument("--rollouts", type=int, default=8, help="rollouts of a task")
    parser.add_argument("--trl-batch", type=int, nargs="+", default=[16, 64], help="micro-batch sizes to try")
    parser.add_argument("--no-trl", action="store_true", help="only our own algorithms")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    recipe = change(
        get_recipe("tiny-alfworld"),
        {
            "threads": 1,
            "tasks_per_iteration": arguments.tasks,
            "group_size": arguments.rollouts,
            "iterations": arguments.iterations + 1,
            "optimizer.learning_rate": 1e-6,
            "optimizer.minibatches": 1,
            "invalid_penalty": 0.0,
            "checkpoint_every": 1,
        },
    )
    with tempfile.TemporaryDirectory() as scratch:
        start = arguments.model or Path(scratch) / "start"
        if arguments.model is None:
            progress.print("making the starting model ...")
            make_start(recipe).policy.save(start)
        contestants: dict[str, Callable[[int], list[dict[str, float]]]] = {
            name: lambda seed, name=name: run_ours(
                change(recipe, {"algorithm": name, "seed": seed}), start, Path(scratch) / name
            )
            for name in ("grpo", "opid")
        }
        contestants["opid/all groups"] = lambda seed: run_ours(
            change(recipe, {"algorithm": "opid", "seed": seed, "train_uniform_groups": True}),
            start,
            Path(scratch) / "all",
        )
        if not arguments.no_trl:
            for size in arguments.trl_batch:
                contestants[f"trl/{size}"] = lambda seed, size=size: run_trl(
                    change(recipe, {"algorithm": "grpo", "seed": seed}), start, Path(scratch) / "trl", size
                )
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
        for number in range(arguments.rounds):
            for name, run in contestants.items():
                progress.print(f"round {number + 1}/{arguments.rounds}: {name}")
                rows[name] += run(number)
    figures = summary(rows) | {"settings": recipe.model_dump(mode="json"), "machine": machine()}
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)


def run_ours(recipe: Recipe, start: Path, out: Path) -> list[dict[str, float]]:
    """CPU seconds and counts of each iteration but the last, whose end is not that of an iteration."""
    shutil.rmtree(out, ignore_errors=True)
    watch = Stopwatch()
    with Run.open(recipe, out, policy=Policy.load(start), watch=watch) as run:
        train(run)
    rows = []
    steps_before = 0
    for begun, ended, metrics in zip(watch.begun, watch.begun[1:], watch.metrics, strict=False):
        rows.append(
            {
                "cpu_seconds": ended - begun,
                "env_steps": metrics["env_steps"] - steps_before,
                "success": metrics["success"],
                "mixed_groups": metrics["groups/mixed"],
                "trained_tokens": metrics.get("train/trained_tokens", 0.0),
                "rescored_tokens": metrics.get("opid/rescored_tokens", 0.0),
                "routed_tokens": metrics.get("opid/routed/any", 0.0),
                "step_skills": metrics["skills/steps"],
                **{key: value for key, value in metrics.items() if key.startswith("seconds/")},
            }
        )
        steps_before = metrics["env_steps"]
    return rows


class Stopwatch(Silent):
    """Notes when iterations begin."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.metrics: list[dict[str, Any]] = []

    @contextmanager
    def stage(self, name: str, total: int):  # type: ignore[no-untyped-def]
        """Note the process's CPU time, in seconds, when rolling out begins."""
        if name == "roll out":
            self.begun.append(time.process_time())
        yield lambda done: None

    def iteration(self, metrics: dict[str, Any]) -> None:
        """Keep the metrics of an iteration."""
        self.metrics.append(metrics)


@dataclass(frozen=True, slots=True)
class GeneratingSampler:
    """Samples as a user of TRL would, with Hugging Face's own ``generate`` on a left-padded batch."""

    policy: Policy
    model: Any

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seeds: Sequence[int] | None = None,
        keys: Sequence[Hashable] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Samples:
        """One reply to each prompt, sampled by ``generate``."""
        width = max(map(len, prompts))
        filler = self.policy.tokenizer.pad_token_id
        ids = torch.tensor([[filler] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        stop = sorted(self.policy.end_ids | self.policy.tokens_containing(params.stop))
        made = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=params.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=params.max_tokens,
            eos_token_id=stop,
            pad_token_id=filler,
            use_cache=True,
        )[:, width:].tolist()
        ends = set(stop)
        replies = []
        for reply in made:
            end = next((i for i, token in enumerate(reply) if token in ends), len(reply) - 1)
            replies.append(reply[: end + 1])
        return Samples(replies, [[] for _ in replies], [reply[-1] in ends for reply in replies])

    def sync(self) -> None:
        """Nothing is remembered."""

    def close(self) -> None:
        """Nothing is held."""


def run_trl(recipe: Recipe, start: Path, out: Path, micro_batch: int) -> list[dict[str, float]]:
    """The same for TRL's GRPOTrainer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    batch = recipe.tasks_per_iteration * recipe.group_size
    settings = lm_settings(recipe)
    envs = make_envs(recipe, recipe.world.train_split, batch)
    order = TaskOrder(len(envs.world.task_ids), stream(recipe.seed, "tasks"))
    tasks = [envs.world.task_ids[order.at(i)] for i in range(recipe.tasks_per_iteration * recipe.iterations)]
    policy = Policy.load(start)
    begun: list[float] = []
    rows: list[dict[str, float]] = []

    def roll_out(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        begun.append(time.process_time())
        player = LMAgent(
            policy,
            settings,
            temperature=recipe.temperature,
            seed=len(begun),
            record_tokens=True,
            sampler=GeneratingSampler(policy, trainer.model),
        )
        unique = prompts[:: recipe.group_size]
        trajectories = play_groups(envs, player, unique, recipe.group_size, lambda episodes: None)
        trainer.model.train()
        answer: dict[str, Any] = {"prompt_ids": [], "completion_ids": [], "env_mask": [], "episode_return": []}
        samples = [step_samples([trajectory], invalid_penalty=0.0) for trajectory in trajectories]
        for trajectory, steps in zip(trajectories, samples, strict=True):
            # One row an episode is what TRL takes. A reply that was cut off by the limit is not the beginning of the
            # next prompt, so its step is left out, which costs TRL nothing.
            rows_of_episode = pack([step.prompt_ids for step in steps], [step.reply_ids for step in steps])
            row = max(rows_of_episode, key=lambda row: len(row.spans))
            first = min(span.start for span in row.spans)
            mask = [0] * len(row.ids)
            for span in row.spans:
                mask[span.start : span.stop] = [1] * (span.stop - span.start)
            answer["prompt_ids"].append(list(row.ids[:first]))
            answer["completion_ids"].append(list(row.ids[first:]))
            answer["env_mask"].append(mask[first:])
            answer["episode_return"].append(trajectory.episode_return)
        rows.append(
            {
                "env_steps": sum(map(len, trajectories)),
                "success": sum(t.success for t in trajectories) / batch,
                "trained_tokens": sum(map(len, answer["prompt_ids"])) + sum(map(len, answer["completion_ids"])),
                "seconds/rollout": time.process_time() - begun[-1],
            }
        )
        return answer | {"logprobs": None}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            rows[-1]["cpu_seconds"] = time.process_time() - begun[-1]

    trainer = GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=lambda prompts, completions, episode_return, **other: episode_return,
        rollout_func=roll_out,
        train_dataset=Dataset.from_dict({"prompt": tasks}),
        callbacks=[Clock()],
        args=GRPOConfig(
            output_dir=str(out),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=batch // micro_batch,
            num_generations=recipe.group_size,
            max_steps=recipe.iterations,
            max_completion_length=recipe.model.context,
            temperature=recipe.temperature,
            learning_rate=recipe.optimizer.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=recipe.optimizer.weight_decay,
            max_grad_norm=recipe.optimizer.max_grad_norm,
            epsilon=recipe.loss.clip_low,
            delta=recipe.loss.dual_clip,
            beta=0.0,
            shuffle_dataset=False,
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            seed=recipe.seed,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    envs.close()
    return rows[:-1]


def summary(rows: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians, ratios, and every raw row."""
    medians = {
        name: {
            "cpu_seconds": median(row["cpu_seconds"] for row in mine),
            "steps_per_cpu_second": median(row["env_steps"] / row["cpu_seconds"] for row in mine),
            **{key: median(row[key] for row in mine) for key in mine[0] if key != "cpu_seconds"},
        }
        for name, mine in rows.items()
    }
    figures: dict[str, Any] = {
        "opid_over_grpo": medians["opid"]["cpu_seconds"] / medians["grpo"]["cpu_seconds"],
        "opid_all_groups_over_grpo": medians["opid/all groups"]["cpu_seconds"] / medians["grpo"]["cpu_seconds"],
        "routed_tokens": medians["opid"]["routed_tokens"],
    }
    rivals = [name for name in medians if name.startswith("trl/")]
    if rivals:
        best = max(rivals, key=lambda name: medians[name]["steps_per_cpu_second"])
        figures["over_trl"] = medians["grpo"]["steps_per_cpu_second"] / medians[best]["steps_per_cpu_second"]
        figures["opid_over_trl"] = medians["opid"]["steps_per_cpu_second"] / medians[best]["steps_per_cpu_second"]
        figures["trl_best"] = best
    return figures | {"medians": medians, "raw": rows}


def show(figures: dict[str, Any]) -> None:
    """A table of the medians, and the ratios."""
    for name, values in figures["medians"].items():
        out.print(f"{name}: " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))
    for key in ("over_trl", "opid_over_trl", "opid_over_grpo", "opid_all_groups_over_grpo", "routed_tokens"):
        if key in figures:
            out.print(f"{key}: {figures[key]:.2f}")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {name: version(name) for name in ("torch", "transformers")}
    if "trl" in sys.modules:
        versions["trl"] = version("trl")
    return {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), **versions}


if __name__ == "__main__":
    main()
