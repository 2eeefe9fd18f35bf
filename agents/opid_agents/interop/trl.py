"""OPID inside TRL: our environments, skills and advantages, TRL's processes, optimizer and checkpoints.

`trl.GRPOTrainer` generates one completion for each prompt, scores it, and gives all of its tokens one advantage. In a
text world every turn of an episode is a sample of its own, with a prompt of its own, and with a skill every token has
an advantage of its own. `OPIDTrainer` therefore replaces the method that generates and scores. Stages 1 to 4 are those
of `opid_agents.training.stages`; the update is TRL's, and it is the same one: PPO-clip, averaged over tokens
(`loss_type="dapo"`), by AdamW. What TRL's loss cannot express is refused (`require_trl`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from opid_agents.algorithms import ALGORITHMS, Algorithm, get_algorithm
from opid_agents.algorithms.advantages import Advantage
from opid_agents.algorithms.algorithm import trained_samples
from opid_agents.algorithms.losses import policy_loss
from opid_agents.distributed import Processes
from opid_agents.policy import SETTINGS_FILE, Policy
from opid_agents.recipes.recipe import Recipe, RecipeError, change
from opid_agents.starts import bundled_start
from opid_agents.training.batch import Batch, StepSample, pad
from opid_agents.training.checkpoint import Progress
from opid_agents.training.extraction import make_extractor
from opid_agents.training.run import Run
from opid_agents.training.run_folder import RunFolder
from opid_agents.training.setup import lm_settings, make_envs
from opid_agents.training.stages import extract, rescore, roll_out, route
from opid_agents.training.watcher import Silent

# Arguments of GRPOConfig that follow from the recipe, with the recipe's keys.
_FROM_RECIPE = {
    "beta": "loss.kl_coef",
    "delta": "loss.dual_clip",
    "entropy_coef": "loss.entropy_coef",
    "epsilon": "loss.clip_low",
    "epsilon_high": "loss.clip_high",
    "generation_batch_size": "tasks_per_iteration and group_size",
    "learning_rate": "optimizer.learning_rate",
    "loss_type": "loss.aggregation",
    "lr_scheduler_type": "optimizer.schedule",
    "max_completion_length": "prompting.max_reply_tokens",
    "max_grad_norm": "optimizer.max_grad_norm",
    "max_steps": "iterations",
    "num_generations": "group_size",
    "num_iterations": "optimizer.epochs",
    "per_device_train_batch_size": "group_size",
    "seed": "seed",
    "steps_per_generation": "optimizer.minibatches",
    "temperature": "temperature",
    "use_vllm": "sampler.kind",
    "warmup_steps": "optimizer.warmup",
    "weight_decay": "optimizer.weight_decay",
}
# And those that would make another loss of it.
_FIXED = (
    *("disable_dropout", "importance_sampling_level", "off_policy_mask_threshold", "router_aux_loss_coef"),
    *("sync_ref_model", "top_entropy_quantile", "use_adaptive_entropy", "use_bias_correction_kl"),
)


def require_trl(recipe: Recipe) -> None:
    """Check that TRL can train a recipe exactly.

    Raises:
        RecipeError: it cannot; the message has a reason for each key, and what is allowed.
    """
    algorithm, loss, optimizer = get_algorithm(recipe.algorithm), recipe.loss, recipe.optimizer
    reasons = []
    if why := _unfit(algorithm):
        known = [name for name, other in ALGORITHMS.items() if _unfit(other) is None]
        reasons.append(f"algorithm={recipe.algorithm}: {why}; allowed: {', '.join(known)}")
    if loss.aggregation != "token_mean":
        reasons.append(
            f"loss.aggregation={loss.aggregation}: TRL's means over replies count those that fill up a batch; "
            "allowed: token_mean"
        )
    if loss.dual_clip is not None and loss.dual_clip <= 1 + loss.clip_high:
        reasons.append(
            f"loss.dual_clip={loss.dual_clip}: TRL's delta then also limits gains; allowed: none, or more than "
            f"1 + loss.clip_high = {1 + loss.clip_high}"
        )
    if loss.kl_coef and loss.kl_estimator != "k3":
        reasons.append(f"loss.kl_estimator={loss.kl_estimator}: TRL has k3 alone; allowed: k3, or loss.kl_coef=0")
    if loss.entropy_coef:
        reasons.append(
            f"loss.entropy_coef={loss.entropy_coef}: TRL averages the entropy of each pass by itself; allowed: 0"
        )
    if optimizer.minibatch_size is not None:
        reasons.append(
            f"optimizer.minibatch_size={optimizer.minibatch_size}: TRL makes the same number of updates of every "
            "iteration; allowed: none, with optimizer.minibatches"
        )
    if recipe.lora.rank:
        reasons.append(f"lora.rank={recipe.lora.rank}: not tried inside TRL; allowed: 0")
    if recipe.sampler.kind != "hf":
        reasons.append(
            f"sampler.kind={recipe.sampler.kind}: TRL's vLLM takes one turn an episode, ours was not tried beside "
            "TRL; allowed: hf"
        )
    if recipe.sampler.constrain:
        reasons.append("sampler.constrain=true: TRL's log-probabilities are over the whole vocabulary; allowed: false")
    if recipe.group_size < 2:
        reasons.append(f"group_size={recipe.group_size}: allowed: 2 or more")
    if reasons:
        raise RecipeError(f"recipe {recipe.name!r} cannot be trained by TRL: " + "; ".join(reasons))


def _unfit(algorithm: Algorithm) -> str | None:
    """Why TRL's loss is not that of an algorithm; None: it is."""
    if algorithm.advantage is None:
        return "it trains nothing"
    if algorithm.loss is not policy_loss or algorithm.distills or algorithm.imitates:
        return "its loss is not PPO's, which is all that TRL computes"
    if algorithm.library:
        return "a library of skills is not kept inside TRL"
    if algorithm.teacher_weights != "policy":
        return "its teacher has weights of its own"
    return None


def grpo_config(recipe: Recipe, output_dir: str | Path, **arguments: Any) -> GRPOConfig:
    """TRL's arguments for a recipe.

    One iteration of the recipe is one generation of TRL, and `optimizer.epochs` times `optimizer.minibatches` of its
    steps. A recipe in bfloat16 is trained by TRL's mixed precision: float32 weights, passes in bfloat16.

    Args:
        recipe: what is trained.
        output_dir: where TRL writes.
        arguments: further ones of `trl.GRPOConfig`, e.g. ``gradient_accumulation_steps`` (the passes that an update's
            samples are divided into), ``deepspeed``, ``save_steps``, ``report_to``.

    Raises:
        RecipeError: TRL cannot train the recipe.
        ValueError: an argument follows from the recipe, or would change the algorithm.
    """
    require_trl(recipe)
    taken = [f"{name}={arguments[name]!r} (set by {key})" for name, key in _FROM_RECIPE.items() if name in arguments]
    taken += [f"{name}={arguments[name]!r} (another algorithm)" for name in _FIXED if name in arguments]
    if taken:
        raise ValueError(f"not arguments of OPIDTrainer: {', '.join(taken)}")
    optimizer, loss = recipe.optimizer, recipe.loss
    steps = recipe.iterations * optimizer.epochs * optimizer.minibatches
    warmup = round(optimizer.warmup * steps)
    constant = "constant_with_warmup" if warmup else "constant"
    given = {
        "bf16": recipe.model.dtype == "bfloat16",
        "gradient_checkpointing": recipe.model.gradient_checkpointing,
        "report_to": "none",
        "use_cpu": recipe.model.device == "cpu",
    }
    return GRPOConfig(
        output_dir=str(output_dir),
        beta=loss.kl_coef,
        delta=loss.dual_clip,
        disable_dropout=True,
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        learning_rate=optimizer.learning_rate,
        loss_type="dapo",
        lr_scheduler_type=constant if optimizer.schedule == "constant" else "cosine",
        max_completion_length=recipe.prompting.max_reply_tokens,
        max_grad_norm=optimizer.max_grad_norm,
        max_steps=steps,
        num_generations=recipe.group_size,
        num_iterations=optimizer.epochs,
        per_device_train_batch_size=recipe.group_size,
        router_aux_loss_coef=0.0,
        seed=recipe.seed % 2**32,
        steps_per_generation=optimizer.minibatches * arguments.get("gradient_accumulation_steps", 1),
        temperature=recipe.temperature,
        use_bias_correction_kl=False,
        warmup_steps=warmup,
        weight_decay=optimizer.weight_decay,
        **given | arguments,
    )


class OPIDTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer` on a recipe of ours, on as many processes as ``accelerate launch`` starts.

    Process r of N plays tasks r, r + N, ... of an iteration and scores what it played; whole groups stay together, and
    what all have found is gathered. Every process then learns from equally many samples, filled up with some that count
    nothing.

    Where TRL does otherwise than `opid_agents.run`: an update that is not finite is not skipped; an iteration whose
    groups all ended alike still makes its steps, with a gradient of 0; the learning rate follows TRL's schedules step
    by step; nothing is evaluated (`opid_agents.evaluate_policy` with `policy` does it). What is saved plays as an agent
    of ours (`opid-gym eval --agent DIR`).

    Args:
        recipe: what is trained and played; see `require_trl`.
        output_dir: where TRL writes; what extraction writes is in its folder ``opid``.
        policy: where to start; None: the model at ``model.path``, or the start that comes with the recipe.
        callbacks: of TRL.
        arguments: see `grpo_config`.

    Attributes:
        policy: what is trained, in place.

    Raises:
        RecipeError: TRL cannot train the recipe, or there is nothing to start from.
        ValueError: an argument follows from the recipe; or the weights are sharded (FSDP, ZeRO-3), which our engine
            cannot sample from.
    """

    def __init__(
        self,
        recipe: Recipe,
        output_dir: str | Path,
        *,
        policy: Policy | None = None,
        callbacks: Sequence[Any] | None = None,
        **arguments: Any,
    ) -> None:
        config = grpo_config(recipe, output_dir, **arguments)
        if config.world_size > recipe.tasks_per_iteration:
            raise RecipeError(
                f"tasks_per_iteration={recipe.tasks_per_iteration} is less than the {config.world_size} processes; "
                "whole groups stay together, so each needs a task"
            )
        half = config.bf16 or config.fp16
        if half and recipe.sampler.rescore_old == "auto":
            recipe = change(recipe, {"sampler.rescore_old": True})
        self.recipe = recipe
        self.policy = policy or _start(recipe)
        self.policy.max_tokens, self.policy.mask_entries = recipe.model.score_tokens, recipe.model.mask_entries
        self.policy.context_limit = recipe.model.context_limit
        self.policy.settings = lm_settings(recipe).to_json()
        # Its rows only make TRL's loop turn: what is played is the recipe's.
        rows = config.generation_batch_size // config.num_generations
        super().__init__(
            self.policy.model,
            reward_funcs=_never_asked,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [""] * rows}),
            processing_class=self.policy.tokenizer,
            callbacks=callbacks,
        )
        stage = getattr(config.deepspeed_plugin, "zero_stage", 0) if self.is_deepspeed_enabled else 0
        if self.is_fsdp_enabled or stage == 3:
            raise ValueError(
                "the weights are sharded (FSDP or DeepSpeed ZeRO-3), and our engine samples from whole ones: use "
                "ZeRO-1 or -2, or plain data parallelism"
            )
        self._updates = recipe.optimizer.epochs * recipe.optimizer.minibatches
        processes = Processes(self.accelerator.process_index, self.accelerator.num_processes)
        self._run = _open_run(recipe, self.policy, Path(output_dir) / "opid", processes)

    def close(self) -> None:
        """Close the environments."""
        self._run.close()

    def play(self, iteration: int) -> tuple[Batch, Advantage]:
        """Stages 1 to 4 of an iteration, each process its part, and the advantages of all samples ``[B, L]``.

        Args:
            iteration: from 1; the same one plays the same tasks with the same random numbers.
        """
        run, training = self._run, self.model.training
        self.policy.model.eval()
        with self.accelerator.autocast():
            trajectories = roll_out(run, iteration)
            skills, _ = extract(run, trajectories, iteration)
            batch = rescore(run, route(run, trajectories, skills, iteration), iteration)
        self.policy.model.train(training)
        self._note(batch)
        assert run.algorithm.advantage is not None
        return batch, run.algorithm.advantage(batch.advantage_inputs(self.recipe.advantage, run.constants, iteration))

    def trl_batch(self, batch: Batch, advantage: Advantage) -> dict[str, Tensor]:
        """What TRL's loss takes: this process's part of the samples of a batch that have a gradient."""
        processes, passes = self._run.processes, self.args.steps_per_generation
        trained = trained_samples(self._run.algorithm, advantage, self.recipe.loss)
        active: list[int] = trained.nonzero()[:, 0].tolist()
        # Long and short ones for everybody.
        own = sorted(processes.own(sorted(active, key=lambda i: len(batch.samples[i].prompt_ids))))
        rows = padded_rows(
            [batch.samples[i] for i in own],
            advantage.advantages[torch.tensor(own, dtype=torch.long)],
            count=passes * max(1, math.ceil(len(active) / (passes * processes.size))),
            filler=self.policy.filler,
        )
        found = {name: table.to(self.accelerator.device) for name, table in rows.items()}
        found["num_items_in_batch"] = batch.response_mask.sum().to(self.accelerator.device)
        if self.beta:
            ids = torch.cat([found["prompt_ids"], found["completion_ids"]], dim=1)
            mask = torch.cat([found["prompt_mask"], found["completion_mask"]], dim=1)
            with torch.no_grad():
                found["ref_per_token_logps"], _, _ = self._get_per_token_logps_and_entropies(
                    self.ref_model, ids, mask, found["completion_ids"].shape[1], batch_size=math.ceil(len(ids) / passes)
                )
        return found

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Tensor]:
        return self.trl_batch(*self.play(self.state.global_step // self._updates + 1))

    def _note(self, batch: Batch) -> None:
        """Log what was played."""
        episodes = batch.trajectories
        steps = [step for episode in episodes for step in episode.steps]
        figures = {
            "success": fmean(episode.success for episode in episodes),
            "return": fmean(episode.episode_return for episode in episodes),
            "length": len(steps) / len(episodes),
            "valid_actions": fmean(step.valid for step in steps),
            "step_skills": float(sum(way.step is not None for way in batch.routes)),
            "samples": float(len(batch)),
        }
        for name, value in figures.items():
            self._metrics["train"][name].append(value)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            text = json.dumps(self.policy.settings, indent=2, ensure_ascii=False)
            (Path(output_dir or self.args.output_dir) / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")


def padded_rows(samples: Sequence[StepSample], advantages: Tensor, *, count: int, filler: int) -> dict[str, Tensor]:
    """Samples as the tables that `trl.GRPOTrainer` computes its loss from.

    Args:
        samples: n step samples.
        advantages: ``[n, L]``, of their tokens.
        count: rows of the tables; those after the samples are one token without a reply, and count nothing.
        filler: the token that padding is made of.

    Returns:
        ``prompt_ids`` and ``prompt_mask`` ``[count, P]``, padded on the left; ``completion_ids``, ``completion_mask``,
        ``advantages`` and ``old_per_token_logps`` ``[count, T]``, padded on the right.

    >>> one = StepSample(0, 0, 0, prompt_ids=[5, 6], reply_ids=[7], log_probs=[-0.5], score=1.0, success=True)
    >>> rows = padded_rows([one], torch.tensor([[2.0]]), count=2, filler=0)
    >>> rows["prompt_ids"].tolist(), rows["prompt_mask"].tolist(), rows["completion_mask"].tolist()
    ([[5, 6], [0, 0]], [[1, 1], [0, 1]], [[1], [0]])
    """
    empty = count - len(samples)
    prompts = [list(sample.prompt_ids) for sample in samples] + [[filler]] * empty
    replies = [list(sample.reply_ids) for sample in samples] + [[]] * empty
    before, after = max(map(len, prompts)), max(1, *map(len, replies), 0)

    def table(rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long)

    given = torch.zeros(count, after)
    width = min(after, advantages.shape[1])
    given[: len(samples), :width] = advantages[:, :width]
    return {
        "prompt_ids": table([[filler] * (before - len(ids)) + ids for ids in prompts]),
        "prompt_mask": table([[0] * (before - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": table([ids + [filler] * (after - len(ids)) for ids in replies]),
        "completion_mask": table([[1] * len(ids) + [0] * (after - len(ids)) for ids in replies]),
        "advantages": given,
        "old_per_token_logps": pad([*(sample.log_probs for sample in samples), *[[]] * empty], after),
    }


def _open_run(recipe: Recipe, policy: Policy, folder: Path, processes: Processes) -> Run:
    """What stages 1 to 4 need; nothing is updated, recorded or saved through it."""
    folder.mkdir(parents=True, exist_ok=True)
    algorithm = get_algorithm(recipe.algorithm)
    games = len(processes.own(range(recipe.tasks_per_iteration))) * recipe.group_size
    envs = make_envs(recipe, recipe.world.train_split, min(games, recipe.num_envs or games))
    with ExitStack() as stack:
        stack.callback(envs.close)
        return Run(
            recipe,
            RunFolder(folder, keep_trajectories=0),
            algorithm,
            algorithm.with_constants(recipe.constants),
            lm_settings(recipe),
            policy,
            torch.optim.SGD(policy.trained(), lr=0.0),  # never used and without state: TRL has its own
            envs,
            sampler=None,
            reference=None,
            extractor=make_extractor(recipe, policy, spent={}) if algorithm.needs_skills else None,
            library=None,
            teacher=None,
            loggers=(),
            watch=Silent(),
            progress=Progress(),
            processes=processes,
            _open=stack.pop_all(),
            _saved=0,
        )


def _start(recipe: Recipe) -> Policy:
    path = recipe.model.path or bundled_start(recipe)
    if path is None:
        raise RecipeError(
            f"recipe {recipe.name!r} has no start of its own: make one with `opid-gym pretrain` and name it with "
            "model.path=DIR"
        )
    return Policy.load(path, attn_implementation=recipe.model.attn_implementation)


def _never_asked(**columns: Any) -> list[float]:
    """TRL wants a reward function; the rewards are the world's."""
    raise AssertionError("OPIDTrainer computes its own advantages")
