"""opid-gym: text environments for training and comparing language agents.

Importing this package registers its environments with Gymnasium:

>>> import gymnasium as gym
>>> import opid_gym
>>> gym.register_envs(opid_gym)  # does nothing; it keeps the import from looking unused
>>> env = gym.make("opid/ALFWorld-v0", size="small")
"""

from opid_gym.registration import register_worlds

__version__ = "0.1.0"

register_worlds()
