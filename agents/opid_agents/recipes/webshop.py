"""Shopping by instruction.

`tiny` is a model from scratch that imitates the shop's own expert and then learns from the score of what it bought;
`small` and `paper` are for instruction-tuned models, `paper` with the published settings (OPID, arXiv 2606.26790).

`tiny` takes most constants of the household recipe and is not tuned: in one run of nine minutes imitation came to 10 %
of 128 held-back goals and a mean score of 0.78, and learning stayed there. `small` and `paper` have not been run.
"""

from opid_agents.recipes import scales
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
        steps=1500,
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
    model=scales.SMALL_MODEL,
    warm_start=scales.SMALL_WARM_START.model_copy(update={"expert": "world", "noise": 0.0}),
    skills=scales.SMALL_SKILLS,
    advantage_mode="mean_norm",
    eval_tasks=128,
    **scales.SMALL,
)

PAPER_WEBSHOP = Recipe(
    name="paper-webshop",
    about="WebShop as published (world.arguments.data_dir= for the products), an analyzer at analyzer.base_url",
    world=World(env="opid/WebShop-v0", train_split="train", eval_split="test", max_episode_steps=15),
    prompting=_TAGGED,
    model=scales.PAPER_MODEL,
    skills=scales.PAPER_SKILLS,
    advantage_mode="mean_norm",
    **scales.PAPER,
)
