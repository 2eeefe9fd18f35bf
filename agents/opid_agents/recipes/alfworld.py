"""Household games with instruction-tuned models.

`small` is for one GPU (and, a few tasks at a time, for looking at on a CPU); `paper` has the published settings
(OPID, arXiv 2606.26790: tasks, steps, history, reply tokens, learning rate, KL). The paper trained all weights on
several GPUs; ``lora.rank=32`` is for the 7B model on one. Of both only short runs on a CPU have been made so far.
"""

from opid_agents.recipes.recipe import Model, Prompting, Recipe, Skills, WarmStart, World

_TAGGED = Prompting(
    template="tagged",
    action_tag=True,
    reasoning_tag=True,
    require_admissible=False,
    reply="<think>The next thing to do is to {action}.</think>\n<action>{action}</action>",
    max_reply_tokens=512,
    stop=(),
)

SMALL_ALFWORLD = Recipe(
    name="small-alfworld",
    about="small generated households with an instruction-tuned model of 135-500 million parameters: one GPU",
    world=World(arguments={"size": "small"}, max_episode_steps=30),
    prompting=_TAGGED.model_copy(update={"max_reply_tokens": 128}),
    model=Model(
        path="HuggingFaceTB/SmolLM2-135M-Instruct",
        device="auto",
        dtype="bfloat16",
        train_tokens=16384,
        score_tokens=16384,
    ),
    warm_start=WarmStart(
        demonstrations=400,
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
    eval_every=25,
    checkpoint_every=5,
)

PAPER_ALFWORLD = Recipe(
    name="paper-alfworld",
    about="ALFWorld as published, Qwen2.5-3B-Instruct; model.path= for 7B or Qwen3-1.7B",
    world=World(max_episode_steps=30),
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
    advantage_mode="mean_std_norm",
    train_uniform_groups=True,
    eval_every=5,
    checkpoint_every=5,
)
