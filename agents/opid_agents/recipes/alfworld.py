"""Household games with instruction-tuned models.

`small` is for one GPU (and, a few tasks at a time, for looking at on a CPU); `paper` has the published settings of
OPID (arXiv 2606.26790) and its code, to the letter. The paper trained all weights on several GPUs; ``lora.rank=32`` is
for the 7B model on one. Of both only short runs on a CPU have been made so far.
"""

from opid_agents.recipes import scales
from opid_agents.recipes.recipe import Prompting, Recipe, WarmStart, World, change

# Plays from the text alone, as the model that imitates it must.
SEARCHING_EXPERT = "opid_gym_envs.alfworld.searching:SearchingExpert"

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
    model=scales.SMALL_MODEL.model_copy(update={"path": "HuggingFaceTB/SmolLM2-135M-Instruct"}),
    warm_start=scales.SMALL_WARM_START.model_copy(update={"expert": SEARCHING_EXPERT}),
    skills=scales.SMALL_SKILLS,
    advantage=scales.SMALL_ADVANTAGE,
    evaluation=scales.SMALL_EVALUATION,
    **scales.SMALL,
)

PAPER_ALFWORLD = Recipe(
    name="paper-alfworld",
    about="ALFWorld as published, Qwen2.5-3B-Instruct (model.path= for others), an analyzer at analyzer.base_url",
    world=World(eval_split="valid_seen", max_episode_steps=30),
    prompting=_TAGGED.model_copy(update={"history_length": 5, "max_prompt_tokens": 2048}),
    warm_start=WarmStart(expert=SEARCHING_EXPERT),
    skills=scales.PAPER_SKILLS,
    advantage=scales.PAPER_ADVANTAGE,
    loss=scales.PAPER_LOSS,
    optimizer=scales.PAPER_OPTIMIZER.model_copy(update={"minibatch_size": 256}),
    **scales.PAPER,
)

PAPER_ALFWORLD_QWEN3 = change(
    PAPER_ALFWORLD,
    {
        "name": "paper-alfworld-qwen3",
        "about": "ALFWorld as published, Qwen3-1.7B without thinking",
        "advantage.mode": "mean_norm",
        **scales.QWEN3,
    },
)
