"""Questions to answer by searching.

`tiny` asks the embedded factbook with a model from scratch; `small` and `paper` are for instruction-tuned models,
`paper` with the published settings (OPID, arXiv 2606.26790), for which the corpus and the questions are given as
``world.arguments.corpus=`` and ``world.arguments.dataset=``.

`tiny` takes most constants of the household recipe, is not tuned, and is tested cut down to seconds; `small` and
`paper` have not been run.
"""

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
    model=Model(
        path="HuggingFaceTB/SmolLM2-360M-Instruct",
        device="auto",
        dtype="bfloat16",
        train_tokens=16384,
        score_tokens=16384,
    ),
    warm_start=WarmStart(expert="world", noise=0.0),
    skills=Skills(episode_weight=0.1, step_weight=0.1, clip=2.0, max_step_skills=2),
    iterations=150,
    tasks=16,
    rollouts=8,
    learning_rate=5e-6,
    invalid_penalty=0.01,
    kl_weight=0.001,
    eval_tasks=256,
    eval_every=25,
    checkpoint_every=5,
)

PAPER_SEARCHQA = Recipe(
    name="paper-searchqa",
    about="search QA as published, Qwen2.5-3B-Instruct; world.arguments.dataset= and .retriever= for Wikipedia",
    world=World(
        env="opid/SearchQA-v0",
        arguments={"topk": 3, "max_observation_tokens": 500},
        train_split="train",
        eval_split="test",
        max_episode_steps=4,
    ),
    prompting=_TAGGED,
    model=Model(path="Qwen/Qwen2.5-3B-Instruct", device="auto", dtype="bfloat16", score_tokens=16384),
    skills=Skills(max_step_skills=2),
    iterations=150,
    tasks=128,
    rollouts=8,
    games=64,
    learning_rate=1e-6,
    weight_decay=0.01,
    kl_weight=0.001,
    invalid_penalty=0.01,
    advantage_mode="mean_std_norm",
    train_uniform_groups=True,
    eval_every=5,
    checkpoint_every=5,
)
