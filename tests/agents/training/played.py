"""Demonstrations in small households, played once for all tests."""

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from opid_agents.training.demonstrations import Demonstrator, load_expert

import opid_gym
from opid_gym.rollout import play

gym.register_envs(opid_gym)
EXPERT = "opid_gym_envs.alfworld.searching:SearchingExpert"


def demonstrate(noise, count=24, seed=0):
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=8, size="small", autoreset_mode=AutoresetMode.DISABLED)
    played = play(
        envs,
        Demonstrator(envs, load_expert(EXPERT), noise=noise, seed=seed),
        list(envs.unwrapped.world.task_ids)[:count],
    )
    return sorted(played, key=lambda t: t.metadata["index"])


DEMONSTRATIONS = demonstrate(0.2)
