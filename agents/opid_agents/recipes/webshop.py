"""Shopping by instruction.

`tiny` is a model from scratch that imitates the shop's own expert and then learns from the score of what it bought;
`small` and `paper` are for instruction-tuned models, `paper` with the published settings (OPID, arXiv 2606.26790).

`tiny` takes most constants of the household recipe, is not tuned, and is tested cut down to seconds; `small` and
`paper` have not been run.
"""

from opid_agents.recipes.recipe import Model, Prompting, Recipe, Skills, WarmStart, World

TINY_WEBSHOP = Recipe(
    name="tiny-webshop",
    about="a shop of 200 generated products, 250,000 parameters from scratch: minutes on two CPU cores",
    threads=2,
    world=World(
        env="opid/WebShop-v0",
        arguments={"num_products": 200},
        train_split="train",
        eval_split="test",
        max_episode_steps=6,
    ),
    prompting=Prompting(require_admissible=False, max_reply_tokens=40),
    model=Model(hidden_size=64, layers=3, heads=2, mlp_size=128, vocabulary=2048, context=4096),
    warm_start=WarmStart(
        expert="world",
        demonstrations=500,
        noise=0.05,
        steps=700,
        short_steps=250,
        short_batch=16,
        batch_episodes=6,
        learning_rate=4e-3,
        check_from=400,
        check_every=100,
        check_tasks=48,
        stop_success=0.2,
        stop_following=0.5,
    ),
    skills=Skills(step_weight=0.3, clip=2.0),
    iterations=20,
    tasks=8,
    rollouts=8,
    minibatches=2,
    temperature=0.6,
    learning_rate=3e-4,
    invalid_penalty=0.05,
    eval_tasks=128,
    checkpoint_every=5,
)

_TAGGED = Prompting(
    template="shop",
    action_tag=True,
    reasoning_tag=True,
    require_admissible=False,
    reply="<think>The next thing to do is {action}.</think>\n<action>{action}</action>",
    max_reply_tokens=512,
    stop=(),
)

SMALL_WEBSHOP = Recipe(
    name="small-webshop",
    about="a generated shop with an instruction-tuned model of 135-500 million parameters: one GPU",
    world=World(env="opid/WebShop-v0", arguments={}, train_split="train", eval_split="test", max_episode_steps=15),
    prompting=_TAGGED.model_copy(update={"max_reply_tokens": 128}),
    model=Model(
        path="HuggingFaceTB/SmolLM2-360M-Instruct",
        device="auto",
        dtype="bfloat16",
        train_tokens=16384,
        score_tokens=16384,
    ),
    warm_start=WarmStart(
        expert="world",
        demonstrations=400,
        noise=0.0,
        steps=300,
        short_steps=0,
        batch_episodes=2,
        learning_rate=2e-5,
        check_from=100,
        check_every=100,
        check_tasks=32,
    ),
    skills=Skills(episode_weight=0.1, step_weight=0.1, clip=2.0),
    iterations=150,
    tasks=16,
    rollouts=8,
    learning_rate=5e-6,
    kl_weight=0.01,
    advantage_mode="mean_norm",
    eval_tasks=128,
    eval_every=25,
    checkpoint_every=5,
)

PAPER_WEBSHOP = Recipe(
    name="paper-webshop",
    about="WebShop as published, Qwen2.5-3B-Instruct; world.arguments.data_dir= for the official products",
    world=World(env="opid/WebShop-v0", train_split="train", eval_split="test", max_episode_steps=15),
    prompting=_TAGGED,
    model=Model(path="Qwen/Qwen2.5-3B-Instruct", device="auto", dtype="bfloat16", score_tokens=16384),
    iterations=150,
    tasks=16,
    rollouts=8,
    games=64,
    learning_rate=1e-6,
    weight_decay=0.01,
    kl_weight=0.01,
    invalid_penalty=0.1,
    advantage_mode="mean_norm",
    train_uniform_groups=True,
    eval_every=5,
    checkpoint_every=5,
)
