"""opid-gym: text environments for training and comparing language agents.

Importing this package registers its environments with Gymnasium:

>>> import gymnasium as gym
>>> import opid_gym
>>> gym.register_envs(opid_gym)  # does nothing; it keeps the import from looking unused
>>> env = gym.make("opid/ALFWorld-v0", size="small")
"""

from opid_gym.agent import Agent, Decision
from opid_gym.env import TextEnv
from opid_gym.evaluation import evaluate
from opid_gym.hindsight import HindsightHook, RecordTrajectories
from opid_gym.registration import make_envs, register_worlds
from opid_gym.rollout import play
from opid_gym.trajectory import Step, Trajectory
from opid_gym.vector import TextVectorEnv
from opid_gym.world import Task, Turn, World

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Decision",
    "HindsightHook",
    "RecordTrajectories",
    "Step",
    "Task",
    "TextEnv",
    "TextVectorEnv",
    "Trajectory",
    "Turn",
    "World",
    "evaluate",
    "make_envs",
    "play",
]

register_worlds()
