"""Do a language model's replies end by themselves after a short imitation?

    opid-gym smollm2 smollm2 --dtype float32
    python benchmarks/replies_end.py --model smollm2 --json > results/replies_end.json

The imitation is the first ``--steps`` updates of that of the recipe ``small-alfworld``, with the compact template,
whose prompts are short, and without rollouts of the model's own. Before and after it the model replies once to each of
the same prompts, random steps of the expert's games on held-back tasks, at the temperatures of rollouts and of
evaluation. Figures of each:

- ``ended``: share of the replies that end by themselves within ``prompting.max_reply_tokens``; the others are cut.
- ``tokens``, ``tokens_ended``: mean length of all replies, and of those that ended.
- ``valid``: share from which an action could be read in the recipe's form.
- ``loss``: mean of the first and of the last five steps of the imitation, in nats a token, both kinds of lesson added.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from opid_agents.lm import LMSettings, fit_prompt
from opid_agents.policy import Policy
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.training.batch import view_at
from opid_agents.training.demonstrations import Demonstrator, load_expert
from opid_agents.training.imitation import HintMix, ImitationSettings, Lessons, imitate
from opid_agents.training.run_folder import versions
from opid_agents.training.setup import lm_settings, load_policy, make_envs, set_threads
from rich.console import Console

from opid_gym.actions import parse_action
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory

progress = Console(stderr=True)


def demonstrations(recipe: Recipe, split: str | None, count: int, noise: float) -> list[Trajectory]:
    """The recipe's expert on the first tasks of a split."""
    envs = make_envs(recipe, split, min(count, 64))
    expert = load_expert(recipe.warm_start.expert)
    demonstrator = Demonstrator(envs, expert, noise=noise, seed=recipe.seed)
    played = sorted(play(envs, demonstrator, list(envs.world.task_ids)[:count]), key=lambda t: t.metadata["index"])
    envs.close()
    return played


def replies(policy: Policy, settings: LMSettings, prompts: Sequence[list[int]], temperature: float) -> dict[str, Any]:
    """What the model's replies to some prompts are like."""
    params = SamplingParams(settings.max_reply_tokens, temperature, settings.stop)
    found = HFSampler(policy).sample(prompts, params, seeds=range(len(prompts)))
    lengths = [len(reply) for reply in found.reply_ids]
    ended = [length for length, end in zip(lengths, found.ended, strict=True) if end]
    parsed = [parse_action(policy.decode(reply), settings.action_format) for reply in found.reply_ids]
    return {
        "ended": len(ended) / len(lengths),
        "tokens": sum(lengths) / len(lengths),
        "tokens_ended": sum(ended) / len(ended) if ended else None,
        "valid": sum(action.valid for action in parsed) / len(parsed),
        "example": policy.decode(found.reply_ids[0]),
    }


def main() -> None:
    """Measure before, imitate, measure after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=40, help="updates of the imitation")
    parser.add_argument("--prompts", type=int, default=48, help="replies that are sampled before and after")
    parser.add_argument("--set", nargs="*", default=[], help="further changes to the recipe")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()

    recipe = change(
        get_recipe("small-alfworld"),
        [
            f"model.path={chosen.model}",
            "model.device=cpu",
            "model.dtype=float32",
            "prompting.template=compact",
            "threads=1",
            *chosen.set,
        ],
    )
    set_threads(recipe)
    warm, settings = recipe.warm_start, lm_settings(recipe)
    policy = load_policy(chosen.model, recipe.model)
    rng = random.Random(0)
    held_back = demonstrations(recipe, recipe.world.eval_split, chosen.prompts, 0.0)
    states = [(trajectory, rng.randrange(len(trajectory))) for trajectory in held_back]
    prompts = [fit_prompt(policy, settings, view_at(trajectory, step)).ids for trajectory, step in states]

    started = time.perf_counter()
    temperatures = (recipe.temperature, recipe.evaluation.temperature)
    before = {str(t): replies(policy, settings, prompts, t) for t in temperatures}
    progress.print("before", before, f"{time.perf_counter() - started:.0f} s")
    shown = demonstrations(recipe, recipe.world.train_split, warm.demonstrations, warm.noise)
    mix = HintMix(warm.hints, warm.plan, 0.0, warm.from_expert, warm.from_elsewhere)
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        progress.print(f"step {step}: loss {loss:.3f}, {time.perf_counter() - started:.0f} s")

    imitate(
        policy,
        Lessons(policy, settings, shown, mix),
        ImitationSettings(
            steps=warm.steps,
            copy_steps=warm.copy_steps,
            short_steps=warm.short_steps,
            read_steps=warm.read_steps,
            batch_episodes=warm.batch_episodes,
            learning_rate=warm.learning_rate,
            check_every=chosen.steps,
        ),
        seed=recipe.seed,
        check=lambda step: True,
        on_step=on_step,
    )
    after = {str(t): replies(policy, settings, prompts, t) for t in temperatures}
    result = {
        "before": before,
        "after": after,
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "loss": [sum(losses[:5]) / len(losses[:5]), sum(losses[-5:]) / len(losses[-5:])],
        "steps": chosen.steps,
        "episodes_a_step": warm.batch_episodes,
        "seconds": round(time.perf_counter() - started),
        "changes": chosen.set,
        "versions": versions(),
    }
    progress.print(result)
    if chosen.json:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
