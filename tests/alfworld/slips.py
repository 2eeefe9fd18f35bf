"""Games of an expert who slips."""

from __future__ import annotations

import random

from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.searching import SearchingExpert


def play(seed: int, slips: float, rng_seed: int) -> Trajectory:
    """A game played by the searching expert, who now and then does something at random."""
    problem = generate(seed, size="small")
    engine, rng = Engine(Game.compile(problem)), random.Random(rng_seed)
    observation, expert = engine.reset(), SearchingExpert(problem.task, rng)
    trajectory = Trajectory(problem.id, problem.task_type, problem.task)
    for _ in range(30):
        admissible = engine.admissible_commands()
        action = expert.act(observation, admissible)
        if rng.random() < slips:
            action = rng.choice([*admissible, "take nothing 1"])
        answer = engine.step(action)
        trajectory.steps.append(Step(observation, action, float(engine.won), answer, observation, admissible))
        observation = answer
        if engine.won:
            break
    trajectory.success = engine.won
    return trajectory
