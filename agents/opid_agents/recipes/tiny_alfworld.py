"""Small generated household games and a model of 175,000 parameters: minutes on two CPU cores.

What was seen while it was made. Rollouts at temperature 1 learn several times slower than at 0.6: a model
this small and this early is noisy and wins too few games to learn from. Penalties for invalid actions in
groups that never win teach it to play valid and useless actions, so such groups are left out. Three times the
learning rate ended at no success at all. There is no KL term: the start is a rough imitation, nothing to hold
on to.
"""

from opid_agents.recipes.recipe import Model, Recipe, Skills, WarmStart, World

TINY_ALFWORLD = Recipe(
    name="tiny-alfworld",
    about="small generated households, 175,000 parameters: minutes on two CPU cores",
    threads=2,
    world=World(arguments={"size": "small"}, max_episode_steps=20),
    model=Model(hidden_size=64, layers=3, heads=2, mlp_size=128),
    warm_start=WarmStart(
        demonstrations=800,
        noise=0.2,
        steps=1800,
        short_steps=250,
        short_batch=40,
        batch_episodes=8,
        learning_rate=4e-3,
        check_every=100,
        check_from=800,
        stop_success=0.27,
        stop_following=0.85,
    ),
    skills=Skills(step_weight=0.3, clip=2.0),
    iterations=50,
    tasks=16,
    rollouts=8,
    minibatches=2,
    temperature=0.6,
    learning_rate=5e-4,
    invalid_penalty=0.05,
    checkpoint_every=5,
)
