"""What `test_distributed` does in one process and in two; torchrun starts this module with the folder of results."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from opid_agents.algorithms import get_algorithm
from opid_agents.algorithms.losses import LossSettings
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.distributed import ALONE, Processes, end_process, join
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.training import loop
from opid_agents.training.run import Run
from opid_agents.training.updates import LossData, UpdateResult, update_policy

from tests.agents.models import tiny_llama
from tests.agents.training.test_updates import batch

MODES = ("replicate", "shard")
RUNS = {"grpo": ["loss.kl_coef=0.01"], "opid": [], "sdpo": ["tasks_per_iteration=1"]}
# An update of all samples, one of a single sample, so that a process gets nothing, and one that is not finite.
UPDATES = ("all", "one", "nan")


def recipe(algorithm: str, *changes: str) -> Recipe:
    """Two iterations from the bundled start; one process has more tasks than the other, which may have none."""
    small = ["iterations=2", "tasks_per_iteration=3", "group_size=4", "evaluation.tasks=3", "evaluation.every=2"]
    small += [
        "threads=1",
        "checkpoint_every=1",
        "pictures=false",
        "world.max_episode_steps=15",
        f"algorithm={algorithm}",
    ]
    return change(get_recipe("tiny-alfworld"), [*small, *RUNS[algorithm], *changes])


def run(algorithm: str, out: Path, *changes: str, processes: Processes = ALONE, resume: bool = False) -> None:
    """A run without the evaluation at its end."""
    with Run.open(recipe(algorithm, *changes), out, processes=processes, resume=resume) as opened:
        loop.train(opened)


def stopped(source: Path, target: Path) -> None:
    """A copy of a finished run as it was after its first iteration, but for records that a resumed run forgets."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "model")
    shutil.rmtree(target / "checkpoints" / "iteration-000002")


def update(case: str, mode: str = "none", processes: Processes = ALONE) -> tuple[list[torch.Tensor], UpdateResult]:
    """An update by gradient descent at rate 1: what the weights lose is the gradient."""
    policy = tiny_llama()
    policy.train_tokens = 40  # several passes, whose gradients add up before they are exchanged
    samples, advantage = batch(policy)
    if case == "one":
        advantage.advantages[[i for i in range(len(samples)) if i != 3]] = 0.0
    if case == "nan":
        advantage.advantages[3] = float("nan")
    if mode == "shard":
        policy.shard()
    before = [policy.whole(weight.detach().clone()) for weight in policy.trained()]
    result = update_policy(
        policy,
        torch.optim.SGD(policy.trained(), lr=1.0),
        get_algorithm("grpo"),
        LossData(samples, advantage),
        LossSettings(),
        OptimizerSettings(max_grad_norm=1e9),
        temperature=1.0,
        seed=0,
        max_tokens=9,
        processes=processes,
    )
    return [a - policy.whole(b.detach()) for a, b in zip(before, policy.trained(), strict=True)], result


def main() -> None:
    """Everything, as one of the processes."""
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    with join() as processes:
        for mode in MODES:
            for case in UPDATES:
                torch.save(update(case, mode, processes), out / f"{case}-{mode}-{processes.rank}.pt")
            for algorithm in RUNS:
                run(algorithm, out / f"{algorithm}-{mode}", f"parallel={mode}", processes=processes)
            if processes.leads:
                stopped(out / f"opid-{mode}", out / f"again-{mode}")
                stopped(out / "opid", out / f"more-{mode}")
            for name in ("again", "more"):
                run("opid", out / f"{name}-{mode}", f"parallel={mode}", processes=processes, resume=True)


if __name__ == "__main__":
    main()
    end_process()
