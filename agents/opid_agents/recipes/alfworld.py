"""Household games with instruction-tuned models.

`small` is for one GPU (and, a few tasks at a time, for looking at on a CPU); `paper` has the published settings
(OPID, arXiv 2606.26790: tasks, steps, history, reply tokens, learning rate, KL). The paper trained all weights on
several GPUs; ``lora.rank=32`` is for the 7B model on one. Of both only short runs on a CPU have been made so far.
"""

from opid_agents.recipes import scales
from opid_agents.recipes.recipe import Prompting, Recipe, World

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
    warm_start=scales.SMALL_WARM_START,
    skills=scales.SMALL_SKILLS,
    **scales.SMALL,
)

PAPER_ALFWORLD = Recipe(
    name="paper-alfworld",
    about="ALFWorld as published, Qwen2.5-3B-Instruct (model.path= for others), an analyzer at analyzer.base_url",
    world=World(max_episode_steps=30),
    prompting=_TAGGED,
    model=scales.PAPER_MODEL,
    skills=scales.PAPER_SKILLS,
    advantage_mode="mean_std_norm",
    **scales.PAPER,
)
