"""How fast the shop is through a real browser, next to the same actions in text.

    python benchmarks/webshop_site.py --json

An expert shops on the generated catalogue, opening a sub-page on the way, once with one browser and once with several
side by side (`gymnasium.make_vec`). Figures are wall-clock actions a second over whole episodes, resets included, since
the browser works in processes of its own; the text environment plays the same episodes in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import gymnasium as gym

import opid_gym
from opid_gym.console import talk as progress
from opid_gym.registration import make_envs
from opid_gym.vector import TextVectorEnv

gym.register_envs(opid_gym)


def main() -> None:
    """Measure actions a second for growing numbers of browsers and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browsers", type=int, nargs="+", default=[1, 2, 4], help="how many side by side")
    parser.add_argument("--episodes", type=int, default=8, help="episodes of each browser")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1), "browsers": {}}
    for count in arguments.browsers:
        site, actions = measure("opid/WebShopSite-v0", count, arguments.episodes)
        text, _ = measure("opid/WebShop-v0", count, arguments.episodes)
        figures["browsers"][count] = {"actions": actions, "actions_per_second": site, "text_actions_per_second": text}
        progress.print(f"{count} browsers: {site:.1f} actions a second ({text:.0f} in text)")
    if arguments.json:
        print(json.dumps(figures))


def measure(env: str, count: int, episodes: int) -> tuple[float, int]:
    """Actions a second, and how many there were."""
    envs = make_envs(env, count, split="test")
    play(envs, seed=0)  # starts the browsers and fills caches
    begin, actions = time.perf_counter(), 0
    for seed in range(1, episodes + 1):
        actions += play(envs, seed)
    seconds = time.perf_counter() - begin
    envs.close()
    return actions / seconds, actions


def play(envs: TextVectorEnv, seed: int) -> int:
    """One episode of every game by the expert, with a look at the features of what it finds; the number of actions."""
    envs.reset(seed=seed)
    plans: list[list[str]] = [[] for _ in range(envs.num_envs)]
    looked, over, actions = [False] * envs.num_envs, [False] * envs.num_envs, 0
    while not all(over):
        wanted = envs.expert_actions()
        for i, action in enumerate(wanted):
            if action == "click[buy now]" and not looked[i]:
                looked[i], plans[i] = True, ["click[features]", "click[< prev]"]
        played = [plan.pop(0) if plan else action for plan, action in zip(plans, wanted, strict=True)]
        _, _, terminations, truncations, _ = envs.step(
            [None if done else a for done, a in zip(over, played, strict=True)]
        )
        actions += over.count(False)
        over = [done or bool(t or u) for done, t, u in zip(over, terminations, truncations, strict=True)]
    return actions


if __name__ == "__main__":
    main()
