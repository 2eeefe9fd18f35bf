"""Questions to answer by searching.

`tiny` asks the embedded factbook's questions of level 1, whose passage stands beside the question, with a model from
scratch: it has to read. ``world.arguments.level=2`` or ``3`` are harder. At temperature 0.6 few of its groups are mixed
(6 to 30 %), and 30 iterations of 16 tasks gained 9 points of exact match; at 1.0, with 40 of 48, 25 (one seed each).

`small` and `paper` are for instruction-tuned models, `paper` with the published settings (OPID, arXiv 2606.26790), for
which the corpus and the questions are given as ``world.arguments.corpus=`` and ``world.arguments.dataset=``. Neither
has been run to its end.
"""

from opid_agents.algorithms import AdvantageSettings, LossSettings
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.recipes import scales
from opid_agents.recipes.recipe import EvaluationSettings, Model, Prompting, Recipe, WarmStart, World, change

TINY_SEARCHQA = Recipe(
    name="tiny-searchqa",
    about="questions with the passage at hand (level 1), 570,000 parameters: minutes on two CPU cores",
    threads=2,
    world=World(
        env="opid/SearchQA-v0",
        arguments={"level": 1, "excerpt_characters": 160, "topk": 1},
        train_split="train",
        eval_split="test",
        max_episode_steps=2,
    ),
    prompting=Prompting(
        template="search_compact", lower=False, spaces=True, require_admissible=False, max_reply_tokens=32
    ),
    model=Model(hidden_size=96, layers=4, heads=4, mlp_size=192, vocabulary=2048, context=768),
    warm_start=WarmStart(
        expert="world",
        demonstrations=2800,
        noise=0.0,
        hints=3,
        steps=2000,
        copy_steps=600,
        short_steps=400,
        read_steps=150,
        short_batch=32,
        batch_episodes=24,
        check_from=1160,
        act_rate=0.2,
        check_every=10,
        check_tasks=128,
        stop_success=0.28,
        stop_following=0.98,
    ),
    advantage=AdvantageSettings(step_weight=0.3, clip=2.0),
    optimizer=OptimizerSettings(learning_rate=5e-4, minibatches=2),
    evaluation=EvaluationSettings(tasks=256),
    iterations=40,
    tasks_per_iteration=48,
    group_size=8,
    temperature=1.0,
    invalid_penalty=0.05,
    checkpoint_every=5,
)

_TAGGED = Prompting(
    template="search",
    reasoning_tag=True,
    action_elements=("search", "answer"),
    lower=False,
    require_admissible=False,
    reply="<think>The next thing to do is clear.</think>\n{action}",
    max_reply_tokens=512,
    stop=(),
)

SMALL_SEARCHQA = Recipe(
    name="small-searchqa",
    about="the factbook's questions with an instruction-tuned model of 135-500 million parameters: one GPU",
    world=World(env="opid/SearchQA-v0", train_split="train", eval_split="test", max_episode_steps=4),
    prompting=_TAGGED.model_copy(update={"max_reply_tokens": 128}),
    model=scales.SMALL_MODEL,
    warm_start=scales.SMALL_WARM_START.model_copy(update={"expert": "world", "noise": 0.0}),
    skills=scales.SMALL_SKILLS.model_copy(update={"max_step_skills": 2}),
    advantage=scales.SMALL_ADVANTAGE,
    evaluation=scales.SMALL_EVALUATION.model_copy(update={"tasks": 256}),
    invalid_penalty=0.01,
    **scales.SMALL | {"loss": LossSettings(kl_coef=0.001)},
)

PAPER_SEARCHQA = Recipe(
    name="paper-searchqa",
    about="search QA as published (world.arguments.dataset= and .retriever= for Wikipedia), an analyzer at "
    "analyzer.base_url",
    world=World(
        env="opid/SearchQA-v0",
        arguments={"topk": 3, "max_observation_tokens": 500},
        train_split="train",
        eval_split="test",
        max_episode_steps=4,
    ),
    # No <think> is demanded.
    prompting=_TAGGED.model_copy(
        update={"reasoning_tag": False, "reply": "{action}", "history_length": 4, "max_prompt_tokens": 4096}
    ),
    skills=scales.PAPER_SKILLS.model_copy(update={"max_step_skills": 2}),
    advantage=scales.PAPER_ADVANTAGE,
    loss=scales.PAPER_LOSS.model_copy(update={"kl_coef": 0.001, "entropy_coef": 0.0}),
    optimizer=scales.PAPER_OPTIMIZER.model_copy(update={"minibatch_size": 512, "warmup": 0.1}),
    **scales.PAPER
    | {
        "iterations": 150,
        "tasks_per_iteration": 128,
        "reward": "return",
        "reward_scale": 1.0,
        "invalid_penalty": 0.01,
        # All questions of the test sets; in training a part of them.
        "evaluation": scales.PAPER_EVALUATION.model_copy(update={"tasks": 512}),
    },
)

PAPER_SEARCHQA_QWEN3 = change(
    PAPER_SEARCHQA,
    {"name": "paper-searchqa-qwen3", "about": "search QA as published, Qwen3-1.7B without thinking", **scales.QWEN3},
)
