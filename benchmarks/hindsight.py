"""Is hindsight right? What it says of recorded episodes, and whether an agent that is told so wins more often.

    python benchmarks/hindsight.py --json > results/hindsight.json

Each agent plays the same tasks in every world three times, with the same seed: as it is (``plain``), and with the
world's advice in place of its own action where there is some, either only decisive advice (``decisive``) or any
(``all``). The advice is given live: before a step is played, the world looks back at the episode so far with the
agent's own action as its last step, which nothing has answered yet. So it knows no more than the agent, and advice that
needs what came later (that of search QA on answers found before) is not given.

Figures of each agent in each world:

- ``steps``, ``better``, ``decisive``, ``wasted``: of the plain episodes as recorded, the steps, and the shares of them
  for which hindsight has a better action, a decisive one, or calls them wasted.
- ``admissible``: the share of better actions that the world would have accepted at that step. Must be 1.
- ``milliseconds``: CPU time for looking back at one plain episode, hindsight and workflow together.
- ``wins``: of the three; ``difference`` and ``p_value``: advised less plain, paired by task, with a 95 % interval.

``--model`` adds a policy (a folder written by ``opid-gym pretrain`` or ``train``) in the world it was made for.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from numpy.typing import NDArray
from opid_agents.expert import ExpertAgent
from opid_agents.random import RandomAgent
from rich.console import Console
from rich.table import Table

from opid_gym.agent import Agent, Decision
from opid_gym.bench.statistics import compare
from opid_gym.hindsight import Adviser, look_back
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym.trajectory import Step, Trajectory
from opid_gym.vector import TextVectorEnv
from opid_gym_envs.searchqa.turns import Action, read_action
from opid_gym_envs.webshop.session import offers

progress = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """One world as it is played here."""

    env: str
    arguments: Mapping[str, Any]
    max_episode_steps: int


SETTINGS = {
    "household": Setting("opid/ALFWorld-v0", {"size": "small", "split": "valid_unseen"}, 30),
    "shop": Setting("opid/WebShop-v0", {"num_products": 200, "split": "test"}, 15),
    "questions": Setting("opid/SearchQA-v0", {"split": "dev"}, 4),
}


class NoisyExpert:
    """Plays the expert's action, or with probability `noise` a random one; each episode has a stream of its own."""

    def __init__(self, envs: TextVectorEnv, noise: float, seed: int) -> None:
        self._expert, self._random = ExpertAgent(envs), RandomAgent(envs.num_envs, seed)
        self._noise, self._seed = noise, seed
        self._played = np.zeros(envs.num_envs, dtype=int)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Begin new episodes in the games where `mask` is True."""
        self._random.reset(mask)
        self._played[mask] = 0

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
        """The expert's action for each game, or a random one."""
        actions = self._random.act(observations, infos)
        expert = self._expert.act(observations, infos)
        for game in np.flatnonzero(infos["_task"]).tolist():
            stream = [self._seed, zlib.crc32(infos["task_id"][game].encode()), int(self._played[game])]
            if np.random.default_rng(stream).random() >= self._noise:
                actions[game] = expert[game]
            self._played[game] += 1
        return actions


class Advised:
    """Another agent that takes the world's advice, where there is some, in place of its own action."""

    def __init__(self, agent: Agent, envs: TextVectorEnv, *, only_decisive: bool) -> None:
        self._agent = agent
        self._adviser = Adviser(envs.world, decisive=only_decisive)
        self.advised = 0

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the episodes of the games where `mask` is True."""
        self._agent.reset(mask)
        self._adviser.reset(mask)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str | Decision]:
        """The world's advice for each game where there is some, else the other agent's own decision."""
        decisions = list(self._agent.act(observations, infos))
        for game in np.flatnonzero(infos["_task"]).tolist():
            own = decisions[game]
            own = Decision(own) if isinstance(own, str) else own
            advice = self._adviser.better(game, observations[game], infos, own)
            if advice is not None:
                self._adviser.played(game, advice)
                decisions[game] = advice
                self.advised += 1
        return decisions


def measure(setting: Setting, make_agent: Callable[[TextVectorEnv], Agent], episodes: int) -> dict[str, Any]:
    """The figures of one agent in one world."""
    found: dict[str, list[Trajectory]] = {}
    given: dict[str, int] = {}
    for arm in ("plain", "decisive", "all"):
        envs = make_envs(setting.env, 8, max_episode_steps=setting.max_episode_steps, **setting.arguments)
        spread = np.linspace(0, len(envs.world.task_ids) - 1, episodes).round().astype(int)
        tasks = [envs.world.task_ids[int(number)] for number in spread]
        agent = make_agent(envs)
        advised = Advised(agent, envs, only_decisive=arm == "decisive") if arm != "plain" else None
        played = sorted(play(envs, advised or agent, tasks), key=lambda t: t.metadata["index"])
        found[arm] = played
        if advised:
            given[arm] = advised.advised
        if arm == "plain":
            begin = time.process_time()
            for trajectory in played:
                look_back(envs.world, trajectory)
            seconds = time.process_time() - begin
        envs.close()
    return {
        **_shares(found["plain"]),
        "milliseconds": 1000 * seconds / episodes,
        "episodes": episodes,
        "wins": {arm: sum(t.success for t in played) / episodes for arm, played in found.items()},
        "advised_steps": given,
        "difference": {arm: _difference(found["plain"], found[arm]) for arm in ("decisive", "all")},
    }


def _shares(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    told = [step.hindsight for step in steps if step.hindsight is not None]
    better = [step for step in steps if step.hindsight and step.hindsight.better]
    return {
        "steps": len(steps),
        "better": len(better) / len(steps),
        "decisive": sum(look.decisive for look in told) / len(steps),
        "wasted": sum(look.wasted for look in told) / len(steps),
        "admissible": sum(map(_is_admissible, better)) / len(better) if better else None,
    }


def _is_admissible(step: Step) -> bool:
    assert step.hindsight is not None
    assert step.hindsight.better is not None
    if step.admissible_actions is None:  # free text: something that the world understands
        return isinstance(read_action(step.hindsight.better), Action)
    return offers(step.admissible_actions, step.hindsight.better)


def _difference(plain: Sequence[Trajectory], advised: Sequence[Trajectory]) -> dict[str, float]:
    found = compare([[t.success] for t in plain], [[t.success] for t in advised])
    interval = found.difference
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "p_value": found.p_value}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50, help="tasks of each agent in each world")
    parser.add_argument("--noise", type=float, nargs="*", default=[0.5], help="shares of random steps beside an expert")
    parser.add_argument("--seed", type=int, default=0, help="of all agents")
    parser.add_argument("--worlds", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--model", type=Path, help="a policy, played in the first of the worlds")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    arguments = parser.parse_args()
    agents: dict[str, Callable[[TextVectorEnv], Agent]] = {
        "random": lambda envs: RandomAgent(envs.num_envs, arguments.seed),
        **{
            f"expert, {noise:.0%} noise": lambda envs, noise=noise: NoisyExpert(envs, noise, arguments.seed)
            for noise in arguments.noise
        },
    }
    results = []
    for world in arguments.worlds:
        chosen = dict(agents)
        if arguments.model and world == arguments.worlds[0]:
            from opid_agents.lm import LMAgent

            chosen["policy"] = lambda envs: LMAgent.make(envs, path=arguments.model, seed=arguments.seed)
        for name, make_agent in chosen.items():
            progress.print(f"{world}: {name}")
            results.append({"world": world, "agent": name, **measure(SETTINGS[world], make_agent, arguments.episodes)})
    if arguments.json:
        print(json.dumps({"results": results}))
    else:
        Console().print(_table(results))


def _table(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        "world", "agent", "better", "decisive", "admissible", "ms", "wins", "with decisive", "with all advice"
    )
    for result in results:
        told = [
            f"{result['wins'][arm]:.0%} ({100 * result['difference'][arm]['estimate']:+.0f} points)"
            for arm in ("decisive", "all")
        ]
        shares = [f"{result[name]:.1%}" for name in ("better", "decisive")]
        admissible = "-" if result["admissible"] is None else f"{result['admissible']:.0%}"
        cost = f"{result['milliseconds']:.1f}"
        table.add_row(
            result["world"], result["agent"], *shares, admissible, cost, f"{result['wins']['plain']:.0%}", *told
        )
    return table


if __name__ == "__main__":
    main()
