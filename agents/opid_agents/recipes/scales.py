"""What the `small` and the `paper` recipes of all worlds have in common.

`small` is an instruction-tuned model of 135-500 million parameters on one GPU, with a short warm start and skills that
weigh more than published; `paper` has the published settings (OPID, arXiv 2606.26790): all weights are trained, skills
are written by a language model, the *analyzer*, which has to be served somewhere (``analyzer.base_url``).
"""

from typing import Any

from opid_agents.recipes.recipe import Model, Skills, WarmStart

SMALL_MODEL = Model(
    path="HuggingFaceTB/SmolLM2-360M-Instruct",
    device="auto",
    dtype="bfloat16",
    train_tokens=16384,
    score_tokens=16384,
)
SMALL_WARM_START = WarmStart(
    demonstrations=400,
    steps=300,
    short_steps=0,
    batch_episodes=2,
    learning_rate=2e-5,
    check_from=100,
    check_every=100,
    check_tasks=32,
)
SMALL_SKILLS = Skills(episode_weight=0.1, step_weight=0.1, clip=2.0, style="sentences")
SMALL: dict[str, Any] = {
    "iterations": 150,
    "tasks": 16,
    "rollouts": 8,
    "learning_rate": 5e-6,
    "kl_weight": 0.01,
    "eval_every": 25,
    "checkpoint_every": 5,
}

PAPER_MODEL = Model(path="Qwen/Qwen2.5-3B-Instruct", device="auto", dtype="bfloat16", score_tokens=16384)
PAPER_SKILLS = Skills(extractor="llm")
PAPER: dict[str, Any] = {
    "iterations": 150,
    "tasks": 16,
    "rollouts": 8,
    "games": 64,
    "learning_rate": 1e-6,
    "weight_decay": 0.01,
    "kl_weight": 0.01,
    "invalid_penalty": 0.1,
    "train_uniform_groups": True,
    "eval_every": 5,
    "checkpoint_every": 5,
}
