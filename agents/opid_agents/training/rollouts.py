"""Playing an iteration's groups: the same function for the process that learns and for one that plays ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gymnasium.vector import VectorEnv

from opid_agents.lm import LMAgent, LMSettings
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.sampling.sampler import Sampler
from opid_agents.skills.library import SkillLibrary
from opid_agents.streams import stream
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Part:
    """What one process plays of an iteration.

    Attributes:
        iteration: of the run, from 1.
        version: of the weights that play: the number of iterations that they have learned from.
        tasks: ids of the tasks, each played by a whole group.
        numbers: these tasks' numbers among all of the iteration.
    """

    iteration: int
    version: int
    tasks: Sequence[str]
    numbers: Sequence[int]


def play_part(
    recipe: Recipe,
    settings: LMSettings,
    policy: Policy,
    envs: VectorEnv,
    part: Part,
    *,
    library: SkillLibrary | None = None,
    sampler: Sampler | None = None,
    on_episode: Callable[[int], None] = lambda episodes: None,
) -> list[Trajectory]:
    """Play a part of an iteration's groups; what comes of it depends on the weights alone, not on who plays what.

    Args:
        recipe, settings: of the run.
        policy: who plays.
        envs: where.
        part: what.
        library: its skills are in the prompts; None: no skills.
        sampler: what samples the replies; None: the policy itself.
        on_episode: is told of each finished episode.

    Returns:
        Trajectories, see `play_groups`; ``metadata["version"]`` is that of the weights.
    """
    size = recipe.group_size
    agent = LMAgent(
        policy,
        settings,
        temperature=recipe.temperature,
        seed=stream(recipe.seed, "rollout", part.iteration),
        record_tokens=True,
        skill_for=library.look_up if library is not None else None,
        sampler=sampler,
        numbers=[task * size + rollout for task in part.numbers for rollout in range(size)],
    )
    played = play_groups(envs, agent, part.tasks, size, on_episode, numbers=part.numbers)
    for trajectory in played:
        trajectory.metadata["version"] = part.version
    return played


def play_groups(
    envs: VectorEnv,
    agent: LMAgent,
    task_ids: Sequence[str],
    group_size: int,
    on_episode: Callable[[int], None],
    *,
    numbers: Sequence[int] | None = None,
) -> list[Trajectory]:
    """Play every task `group_size` times.

    Args:
        envs, agent: who plays where.
        task_ids: the tasks.
        group_size: rollouts of each.
        on_episode: is told of each finished episode.
        numbers: the tasks' numbers among all of the iteration; None: their positions in `task_ids`.

    Returns:
        Trajectories, siblings side by side; ``group`` is the task's number, and ``metadata["index"]`` counts the
        rollouts of all tasks.
    """
    repeated = [task_id for task_id in task_ids for _ in range(group_size)]
    finished: list[Trajectory | None] = [None] * len(repeated)
    for trajectory in play(envs, agent, repeated):
        index = trajectory.metadata["index"]
        trajectory.group = index // group_size if numbers is None else numbers[index // group_size]
        trajectory.metadata["index"] = trajectory.group * group_size + index % group_size
        finished[index] = trajectory
        on_episode(1)
    return [trajectory for trajectory in finished if trajectory is not None]
