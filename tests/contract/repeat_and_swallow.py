"""Wrappers after which an environment's steps are not those of who plays."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class Repeat(gym.Wrapper[Any, Any, Any, Any]):
    """Plays each action `times` times, whatever comes of it, as long as the episode goes on."""

    def __init__(self, env: gym.Env[Any, Any], times: int = 2) -> None:
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> Any:
        for _ in range(self.times):
            result = self.env.step(action)
            if result[2] or result[3]:
                break
        return result


class Swallow(gym.Wrapper[Any, Any, Any, Any]):
    """Every other step does not reach the environment: what was there last is shown again."""

    def reset(self, **arguments: Any) -> Any:
        observation, info = self.env.reset(**arguments)
        self.count, self.last = 0, (observation, 0.0, False, False, info)
        return observation, info

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count % 2:
            self.last = self.env.step(action)
        return self.last
