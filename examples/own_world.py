"""A world of one's own: two methods, and everything else comes with it.

python examples/own_world.py
"""

import gymnasium as gym

import opid_gym
from opid_gym.registration import WorldSpec, register_world


class Doors(opid_gym.World):
    """A treasure lies behind one of several doors; an empty one tells whether it is to the left or to the right."""

    default_max_episode_steps = 6

    def __init__(self, doors: int = 8) -> None:
        self.task_ids = [f"door-{n}" for n in range(doors)]
        self._actions = tuple(f"open {n}" for n in range(doors))
        self._wanted: dict[int, int] = {}

    def start(self, slots, task_ids):
        """Begin one task in each slot."""
        for slot, task_id in zip(slots, task_ids, strict=True):
            self._wanted[slot] = int(task_id.removeprefix("door-"))
        turn = opid_gym.Turn("You stand before the doors.", admissible_actions=self._actions)
        return [(opid_gym.Task(task_id, "treasure", "find the treasure"), turn) for task_id in task_ids]

    def step(self, slots, actions):
        """Play one action in each slot; what is not understood changes nothing."""
        return [self._open(self._wanted[slot], action) for slot, action in zip(slots, actions, strict=True)]

    def _open(self, wanted: int, action: str) -> opid_gym.Turn:
        if action not in self._actions:
            return opid_gym.Turn("Nothing happens.", admissible_actions=self._actions)
        door = int(action.removeprefix("open "))
        won = door == wanted
        text = "The treasure!" if won else f"Empty. It is to the {'right' if wanted > door else 'left'}."
        return opid_gym.Turn(text, float(won), terminated=won, won=won, admissible_actions=self._actions)


register_world(WorldSpec("examples/Doors-v0", "own_world:Doors", max_episode_steps=6, summary="doors and a treasure"))


class Bisect:
    """Keeps the doors that are still possible and opens the middle one."""

    def __init__(self, num_envs: int) -> None:
        self.possible = [range(0)] * num_envs

    def reset(self, mask):
        """New games begin where `mask` is True."""
        self.possible = [range(8) if new else old for new, old in zip(mask, self.possible, strict=True)]

    def act(self, observations, infos):
        """One action for each game."""
        actions = []
        for game, text in enumerate(observations):
            doors = self.possible[game]
            middle = doors[len(doors) // 2] if doors else 0
            if "right" in text or "left" in text:
                doors = range(middle + 1, doors.stop) if "right" in text else range(doors.start, middle)
                self.possible[game] = doors
                middle = doors[len(doors) // 2] if doors else 0
            actions.append(f"open {middle}")
        return actions


if __name__ == "__main__":
    env = gym.make("examples/Doors-v0")  # one game, as Gymnasium has it
    print(env.reset(seed=0)[0])
    envs = opid_gym.make_envs("examples/Doors-v0", 4)  # a batch, for playing and measuring
    result = opid_gym.evaluate(envs, Bisect(4), envs.world.task_ids)
    print(f"{result.success} of the treasures found")
