"""A recipe that takes seconds: the bundled start in short household games, five iterations."""

from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import change

INSIDE_TRL = change(
    get_recipe("tiny-alfworld"),
    [
        "threads=1",
        "iterations=5",
        "tasks_per_iteration=3",  # two processes get unlike shares
        "group_size=4",
        "world.max_episode_steps=4",
        "optimizer.minibatches=1",
        "train_uniform_groups=true",
    ],
)
