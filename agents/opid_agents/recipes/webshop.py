"""Shopping by instruction.

`tiny` is a model from scratch that imitates a shopper in haste (`opid_gym_envs.webshop.shopper.HastyShopper`) and then
learns from the score of what it bought; `small` and `paper` are for instruction-tuned models, `paper` with the
published settings (OPID, arXiv 2606.26790), and have not been run to their end.

`tiny` reads the shop in its short mode, where a product is "item 1" and nothing has to be known by heart, and no
product of the train split is sold in the test split. Starts made with 1,000 products knew them by heart, hence 4,000.
Its outcome is the score, not divided by its spread, for most failures differ in parts of it; each reply counts the
same, for a search has five times the tokens of a click. Outcomes that small want skill shifts that are small too: with
a weight of 0.3 `opid` lost what it had won in three of five runs (docs/evidence.md). Episode skills have no weight:
nearly every step hears one, which costs more than playing and was not seen to help.
"""

from opid_agents.algorithms import AdvantageSettings, LossSettings
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.recipes import scales
from opid_agents.recipes.recipe import EvaluationSettings, Model, Prompting, Recipe, WarmStart, World, change

TINY_WEBSHOP = Recipe(
    name="tiny-webshop",
    about="a generated shop whose products are known by their place on the page, 570,000 parameters",
    threads=2,
    world=World(
        env="opid/WebShop-v0",
        arguments={"num_products": 4000, "split_by": "product", "observation_mode": "short"},
        train_split="train",
        eval_split="test",
        max_episode_steps=9,
    ),
    prompting=Prompting(lower=False, spaces=True, require_admissible=False, max_reply_tokens=64),
    model=Model(hidden_size=96, layers=4, heads=4, mlp_size=192, vocabulary=2048, context=2048),
    warm_start=WarmStart(
        expert="opid_gym_envs.webshop.shopper:HastyShopper",
        demonstrations=3000,
        noise=0.0,
        hints=4,
        own=0.2,
        steps=2400,
        copy_steps=600,
        short_steps=700,
        short_play=True,
        read_steps=100,
        short_batch=24,
        batch_episodes=8,
        check_from=1500,
        check_every=50,
        check_tasks=64,
        stop_success=0.3,
        stop_following=0.97,
    ),
    advantage=AdvantageSettings(mode="mean_norm", episode_weight=0.0, step_weight=0.03, clip=2.0),
    loss=LossSettings(aggregation="sequence_mean"),
    optimizer=OptimizerSettings(learning_rate=5e-4, minibatches=2),
    evaluation=EvaluationSettings(tasks=128),
    iterations=20,
    tasks_per_iteration=32,
    group_size=8,
    temperature=0.8,
    invalid_penalty=0.0,
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
    advantage=scales.SMALL_ADVANTAGE.model_copy(update={"mode": "mean_norm"}),
    evaluation=scales.SMALL_EVALUATION.model_copy(update={"tasks": 128}),
    **scales.SMALL,
)

PAPER_WEBSHOP = Recipe(
    name="paper-webshop",
    about="WebShop as published (world.arguments.data_dir= for the products), an analyzer at analyzer.base_url",
    world=World(env="opid/WebShop-v0", train_split="train", eval_split="test", max_episode_steps=15),
    prompting=_TAGGED.model_copy(update={"history_length": 2, "max_prompt_tokens": 4096}),
    skills=scales.PAPER_SKILLS,
    advantage=scales.PAPER_ADVANTAGE.model_copy(update={"mode": "mean_norm"}),
    loss=scales.PAPER_LOSS,
    optimizer=scales.PAPER_OPTIMIZER.model_copy(update={"minibatch_size": 64}),
    **scales.PAPER,
)

PAPER_WEBSHOP_QWEN3 = change(
    PAPER_WEBSHOP,
    {"name": "paper-webshop-qwen3", "about": "WebShop as published, Qwen3-1.7B without thinking", **scales.QWEN3},
)
