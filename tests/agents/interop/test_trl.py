"""OPID inside TRL against our own trainer: the same samples, advantages, loss, gradient and weights."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.lm import LMAgent
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe, RecipeError, change
from opid_agents.starts import bundled_start
from opid_agents.training.batch import Batch
from opid_agents.training.run import Run
from opid_agents.training.stages import extract, rescore, roll_out, route
from opid_agents.training.updates import LossData, update_policy

from tests.agents import models
from tests.agents.interop.recipes import INSIDE_TRL

pytest.importorskip("trl", reason="trl is not installed")

from opid_agents.interop.trl import OPIDTrainer, grpo_config, require_trl

from tests.patience import SECONDS

ROOT = Path(__file__).parents[3]


def in_trl(recipe: Recipe, out: Path, **arguments) -> OPIDTrainer:
    torch.set_num_threads(1)
    return OPIDTrainer(recipe, out, disable_tqdm=True, save_strategy="no", **arguments)


def ours(recipe: Recipe, out: Path, iteration: int = 1) -> tuple[Batch, torch.Tensor]:
    """Samples and advantages of an iteration, by our own trainer."""
    with Run.open(recipe, out) as run:
        trajectories = roll_out(run, iteration)
        skills, _ = extract(run, trajectories, iteration)
        batch = rescore(run, route(run, trajectories, skills, iteration), iteration)
        inputs = batch.advantage_inputs(recipe.advantage, run.constants, iteration)
        return batch, run.algorithm.advantage(inputs).advantages


def test_samples_and_advantages_are_ours(tmp_path: Path) -> None:
    batch, advantages = ours(INSIDE_TRL, tmp_path / "ours")
    trainer = in_trl(INSIDE_TRL, tmp_path / "trl")
    tables = trainer.trl_batch(*trainer.play(1))
    trainer.close()
    active = (advantages != 0).any(-1).nonzero()[:, 0].tolist()
    assert len(active) > 10
    assert len(tables["advantages"]) == len(active)
    assert int(tables["num_items_in_batch"]) == sum(len(sample.reply_ids) for sample in batch.samples)
    for row, i in enumerate(active):
        sample, reply = batch.samples[i], tables["completion_mask"][row].bool()
        assert tables["prompt_ids"][row][tables["prompt_mask"][row].bool()].tolist() == list(sample.prompt_ids)
        assert tables["completion_ids"][row][reply].tolist() == list(sample.reply_ids)
        assert tables["old_per_token_logps"][row][reply].tolist() == pytest.approx(list(sample.log_probs), abs=1e-5)
        expected = advantages[i][: len(sample.reply_ids)]
        torch.testing.assert_close(tables["advantages"][row][reply], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_loss_and_gradient_are_ours_where_everything_clips(tmp_path: Path, kl_coef: float) -> None:
    recipe = change(INSIDE_TRL, {"loss.kl_coef": kl_coef})
    trainer = in_trl(recipe, tmp_path)
    batch, advantage = trainer.play(1)
    noise = random.Random(0)
    batch = batch.with_old_log_probs([[p - noise.gauss(0, 0.7) for p in s.log_probs] for s in batch.samples])
    trainer.model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a little away from the reference: our KL has a limit for each token
        for weight in trainer.policy.trained():
            weight.mul_(1 + 0.02 * torch.randn(weight.shape, generator=generator))
    loss = trainer.compute_loss(trainer.model, trainer.trl_batch(batch, advantage))
    loss.backward()
    found = [weight.grad for weight in trainer.policy.trained()]

    policy = Policy.load(bundled_start(recipe))
    reference = Policy.load(bundled_start(recipe)).score if kl_coef else None
    policy.model.load_state_dict(trainer.model.state_dict())
    optimizer = torch.optim.SGD(policy.trained(), lr=0.0)
    expected: list[torch.Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: expected.extend(w.grad.clone() for w in policy.trained()))
    result = update_policy(
        policy,
        optimizer,
        trainer._run.algorithm,
        LossData(batch.samples, advantage),
        recipe.loss,
        OptimizerSettings(max_grad_norm=1e9),
        temperature=recipe.temperature,
        seed=0,
        reference=reference,
    )
    trainer.close()
    assert result.metrics["clip_fraction"] > 0.1
    assert result.metrics["dual_clip_fraction"] > 0
    assert not kl_coef or result.metrics["ref_kl"] > 1e-3
    assert float(loss.detach()) == pytest.approx(result.metrics["loss"], abs=1e-5)
    for mine, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=0)


def test_two_iterations_end_with_our_weights_and_play(tmp_path: Path) -> None:
    recipe = change(INSIDE_TRL, {"iterations": 2})
    policy = models.train(recipe, tmp_path / "ours")
    trainer = in_trl(recipe, tmp_path / "trl", gradient_accumulation_steps=3, logging_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "agent"))
    trainer.close()
    before = Policy.load(bundled_start(recipe)).trained()
    for start, mine, theirs in zip(before, policy.trained(), trainer.policy.trained(), strict=True):
        assert (theirs - start).abs().mean() > 1e-4
        # AdamW makes whole steps of gradients that are all but 0, so single weights may part.
        assert (theirs - mine).abs().mean() < 1e-6
    assert trainer.state.log_history[0]["length"] > 1
    assert LMAgent.load(tmp_path / "agent").settings.max_reply_tokens == recipe.prompting.max_reply_tokens


def test_two_processes_run_five_steps_like_one_and_stay_equal(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "tests.agents.interop.two_processes", str(tmp_path)),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=False) for rank in range(2))
    steps = [line for line in first["history"] if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
    start = Policy.load(bundled_start(INSIDE_TRL)).model.state_dict()
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
        assert not torch.equal(weight, start[name]), name
    alone = in_trl(change(INSIDE_TRL, {"iterations": 1}), tmp_path / "alone", logging_steps=1)
    alone.train()
    alone.close()
    one = alone.state.log_history[0]
    for name in ("loss", "grad_norm", "success", "length", "valid_actions", "step_skills", "samples", "entropy"):
        assert steps[0][name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"algorithm": "sdar"}, "algorithm=sdar: its loss is not PPO's.*allowed: grpo, rloo, gigpo, opid"),
        ({"algorithm": "skill_grpo"}, "a library of skills is not kept"),
        ({"loss.aggregation": "sequence_mean"}, "loss.aggregation=sequence_mean.*allowed: token_mean"),
        ({"loss.dual_clip": 1.1}, "loss.dual_clip=1.1.*more than 1 . loss.clip_high = 1.2"),
        ({"loss.kl_coef": 0.1, "loss.kl_estimator": "k1"}, "loss.kl_estimator=k1: TRL has k3 alone"),
        ({"loss.entropy_coef": 0.01}, "loss.entropy_coef=0.01"),
        ({"optimizer.minibatch_size": 64}, "optimizer.minibatch_size=64.*optimizer.minibatches"),
        ({"sampler.kind": "vllm"}, "sampler.kind=vllm"),
        ({"sampler.constrain": True}, "sampler.constrain=true"),
        ({"lora.rank": 8}, "lora.rank=8"),
        ({"group_size": 1}, "group_size=1: allowed: 2 or more"),
    ],
)
def test_what_trl_cannot_do_is_refused_with_a_reason(given: dict, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        require_trl(change(INSIDE_TRL, given))


def test_arguments_that_follow_from_the_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"learning_rate=0.1 \(set by optimizer.learning_rate\), sync_ref_model=True"):
        grpo_config(INSIDE_TRL, tmp_path, learning_rate=0.1, sync_ref_model=True)


def test_a_recipe_without_a_start_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="opid-gym pretrain"):
        OPIDTrainer(change(INSIDE_TRL, {"name": "mine"}), tmp_path)
