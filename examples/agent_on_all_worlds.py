"""One agent on every world: it reads its way with whatever the world admits, and is compared with chance.

python examples/agent_on_all_worlds.py
"""

from opid_agents.candidates import candidates
from opid_agents.random import RandomAgent

import opid_gym

WORLDS = {
    "opid/ALFWorld-v0": {"split": "valid_seen", "size": "small", "max_episode_steps": 20},
    "opid/WebShop-v0": {"split": "test"},
    "opid/SearchQA-v0": {"split": "test"},
}


class Untried:
    """Takes the first action that it has not tried in this game; where they are free text, one made from the page."""

    def __init__(self, num_envs: int) -> None:
        self.tried = [set() for _ in range(num_envs)]

    def reset(self, mask):
        """New games begin where `mask` is True."""
        for game, new in enumerate(mask):
            if new:
                self.tried[game] = set()

    def act(self, observations, infos):
        """One decision for each game, with what the agent thought."""
        decisions = []
        for game, text in enumerate(observations):
            if not infos["_task"][game]:
                decisions.append("")  # this game is not being played
                continue
            actions = infos["admissible_actions"][game] or candidates(
                text, {"task": infos["task"][game], "admissible_actions": None}
            )
            action = next((a for a in actions if a not in self.tried[game]), actions[0])
            self.tried[game].add(action)
            decisions.append(opid_gym.Decision(action, reply=f"Not tried yet: {action}"))
        return decisions


if __name__ == "__main__":
    for env, arguments in WORLDS.items():
        envs = opid_gym.make_envs(env, 8, **arguments)
        tasks = list(envs.world.task_ids)[:24]
        for name, agent in {"random": RandomAgent.make(envs, seed=0), "untried": Untried(8)}.items():
            result = opid_gym.evaluate(envs, agent, tasks)
            score = sum(episode.episode_return for episode in result.episodes) / len(tasks)
            print(f"{env:18} {name:8} success {result.success}, mean return {score:.2f}")
        envs.close()
