"""What the `small` and the `paper` recipes of all worlds have in common.

`small` is an instruction-tuned model of 135-500 million parameters on one GPU, with a short warm start and skills that
weigh more than published; `paper` has the published settings (OPID, arXiv 2606.26790): all weights are trained, skills
are written by a language model, the *analyzer*, which has to be served somewhere (``analyzer.base_url``).
"""

from typing import Any

from opid_agents.algorithms import AdvantageSettings, LossSettings
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.recipes.recipe import Analyzer, EvaluationSettings, Model, Skills, WarmStart

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
    read_steps=0,
    hints=2,
    batch_episodes=2,
    learning_rate=2e-5,
    check_from=100,
    check_every=100,
    check_tasks=32,
)
SMALL_SKILLS = Skills(style="sentences")
SMALL_ADVANTAGE = AdvantageSettings(episode_weight=0.1, step_weight=0.1, clip=2.0)
SMALL_EVALUATION = EvaluationSettings(every=25)
SMALL: dict[str, Any] = {
    "iterations": 150,
    "tasks_per_iteration": 16,
    "group_size": 8,
    "optimizer": OptimizerSettings(learning_rate=5e-6),
    "loss": LossSettings(kl_coef=0.01),
    "checkpoint_every": 5,
}

# The published settings, and where they differ from world to world; the page on them (docs/published.md) has them all.
PAPER_MODEL = Model(path="Qwen/Qwen2.5-3B-Instruct", device="auto", dtype="bfloat16", score_tokens=16384)
QWEN3 = {"model.path": "Qwen/Qwen3-1.7B", "model.template": {"enable_thinking": False}}
PAPER_SKILLS = Skills(extractor="llm", max_step_skills=5)
PAPER_ANALYZER = Analyzer(max_tokens=4096, concurrency=128, seconds=None, timeout=86400)
PAPER_ADVANTAGE = AdvantageSettings(episode_weight=0.001, step_weight=0.001, gamma=0.95)
PAPER_EVALUATION = EvaluationSettings(tasks=128, temperature=0.4, every=5, before=True)
PAPER_OPTIMIZER = OptimizerSettings(learning_rate=1e-6, weight_decay=0.01, max_grad_norm=1.0)
PAPER_LOSS = LossSettings(kl_coef=0.01, kl_estimator="k3", entropy_coef=0.001, aggregation="token_mean")
PAPER: dict[str, Any] = {
    "algorithm": "opid",
    "model": PAPER_MODEL,
    "analyzer": PAPER_ANALYZER,
    "evaluation": PAPER_EVALUATION,
    "iterations": 160,
    "tasks_per_iteration": 16,
    "group_size": 8,
    "num_envs": 64,
    "temperature": 1.0,
    "reward": "success",
    "reward_scale": 10.0,
    "invalid_penalty": 0.1,
    "train_uniform_groups": True,
    "checkpoint_every": 5,
}
