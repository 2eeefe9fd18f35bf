"""Small generated household games and a model of 240,000 parameters: minutes on two CPU cores.

What was seen while it was made. Rollouts at temperature 1 learn several times slower than at 0.6: a model
this small and this early is noisy and wins too few games to learn from. Penalties for invalid actions in
groups that never win teach it to play valid and useless actions, so such groups are left out. Decisive hindsight
alone, at weight 1, was the first thing that made OPID learn more than GRPO and than its constant control; advice at
wasted steps and from siblings that had been luckier in their search did harm. Three times the
learning rate ended at no success at all. There is no KL term: the start is a rough imitation, nothing to hold
on to.
"""

from opid_agents.algorithms import AdvantageSettings
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.recipes.alfworld import SEARCHING_EXPERT
from opid_agents.recipes.recipe import Model, Recipe, Skills, WarmStart, World

TINY_ALFWORLD = Recipe(
    name="tiny-alfworld",
    about="small generated households, 240,000 parameters: minutes on two CPU cores",
    threads=2,
    world=World(arguments={"size": "small"}, max_episode_steps=20),
    model=Model(hidden_size=64, layers=4, heads=4, mlp_size=160),
    warm_start=WarmStart(
        expert=SEARCHING_EXPERT,
        demonstrations=1500,
        noise=0.2,
        hints=3,
        own=0.2,
        steps=2000,
        short_steps=500,
        read_steps=150,
        short_batch=40,
        batch_episodes=8,
        learning_rate=3e-3,
        check_from=900,
        check_every=100,
        check_tasks=80,
        stop_success=0.35,
        stop_following=0.95,
    ),
    skills=Skills(hindsight="decisive", contrast=False, max_step_skills=10),
    advantage=AdvantageSettings(step_weight=1.0, clip=2.0),
    optimizer=OptimizerSettings(learning_rate=5e-4, minibatches=2),
    iterations=60,
    tasks_per_iteration=16,
    group_size=8,
    temperature=0.6,
    invalid_penalty=0.05,
    checkpoint_every=5,
)
