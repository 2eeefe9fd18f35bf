"""Questions to answer by searching.

`tiny` asks the embedded factbook with a model from scratch; `small` and `paper` are for instruction-tuned models,
`paper` with the published settings (OPID, arXiv 2606.26790), for which the corpus and the questions are given as
``world.arguments.corpus=`` and ``world.arguments.dataset=``.

`tiny` takes most constants of the household recipe, is not tuned, and is tested cut down to seconds; `small` and
`paper` have not been run.
"""

from opid_agents.recipes import scales
from opid_agents.recipes.recipe import Model, Prompting, Recipe, Skills, WarmStart, World

TINY_SEARCHQA = Recipe(
    name="tiny-searchqa",
    about="questions over the embedded factbook, 250,000 parameters from scratch: minutes on two CPU cores",
    threads=2,
    world=World(
        env="opid/SearchQA-v0",
        arguments={"topk": 1, "max_observation_characters": 300},
        train_split="train",
        eval_split="test",
        max_episode_steps=4,
    ),
    prompting=Prompting(template="search_compact", require_admissible=False, max_reply_tokens=32),
    model=Model(hidden_size=64, layers=3, heads=2, mlp_size=128, vocabulary=2048, context=1536),
    warm_start=WarmStart(
        expert="world",
        demonstrations=1500,
        noise=0.0,
        steps=900,
        short_steps=300,
        short_batch=24,
        batch_episodes=12,
        learning_rate=4e-3,
        check_from=500,
        check_every=100,
        check_tasks=96,
        stop_success=0.25,
        stop_following=0.5,
    ),
    skills=Skills(step_weight=0.3, clip=2.0),
    iterations=30,
    tasks=16,
    rollouts=8,
    minibatches=2,
    temperature=0.6,
    learning_rate=3e-4,
    invalid_penalty=0.05,
    eval_tasks=256,
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
    invalid_penalty=0.01,
    eval_tasks=256,
    **scales.SMALL | {"kl_weight": 0.001},
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
    prompting=_TAGGED,
    model=scales.PAPER_MODEL,
    skills=scales.PAPER_SKILLS.model_copy(update={"max_step_skills": 2}),
    advantage_mode="mean_std_norm",
    **scales.PAPER | {"tasks": 128, "invalid_penalty": 0.01, "kl_weight": 0.001},
)
