"""Gymnasium wrappers for learners that choose from a list and read vectors, such as those of Stable-Baselines3.

>>> import gymnasium, opid_gym
>>> env = gymnasium.make("opid/ALFWorld-v0", size="small", seed=0)
>>> env = EmbedText(DiscreteActions(env, max_actions=24), HashedWords(64))
>>> observation, info = env.reset()
>>> {name: value.shape for name, value in observation.items()}
{'state': (3, 64), 'actions': (24, 64), 'mask': (24,), 'tried': (24,)}
>>> info["candidates"][:2]
('go to bed 1', 'go to desk 1')
>>> observation, reward, terminated, truncated, info = env.step(1)
>>> info["action"]
'go to desk 1'
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
# From texts to unit vectors, ``[len(texts), dimension]``.
Encoder = Callable[[Sequence[str]], Vectors]
# From an observation and an action to what an encoder reads in the action's place.
Describe = Callable[[str, str], str]
# From an observation and its info to the actions to choose among.
Candidates = Callable[[str, Mapping[str, Any]], Sequence[str]]


def admissible_actions(observation: str, info: Mapping[str, Any]) -> Sequence[str]:
    """The world's admissible actions as candidates.

    Raises:
        ValueError: the world has none (actions are free text).
    """
    actions: Sequence[str] | None = info["admissible_actions"]
    if actions is None:
        raise ValueError("this world lists no admissible actions: give candidates=, a function that proposes some")
    return actions


class DiscreteActions(gym.Wrapper[str, Any, str, Any], RecordConstructorArgs):
    """Actions are numbers of candidate texts.

    The candidates change from step to step and the action space does not: `max_actions` slots. Fewer candidates are
    repeated from the first on until the slots are full, so every number is an action and learners without masks
    work as they are; more are cut off (``info["cut_off"]`` counts them). `action_masks` is True for the first
    occurrence of each, which is what masked learners want (the name is that of sb3-contrib's convention).

    `info` gets ``candidates`` (without repetition), ``cut_off``, and after a step ``action``, the text that was played.

    Args:
        env: a text environment.
        max_actions: how many slots.
        candidates: proposes actions; the admissible ones if not given.
    """

    def __init__(
        self, env: gym.Env[str, str], max_actions: int = 64, candidates: Candidates = admissible_actions
    ) -> None:
        RecordConstructorArgs.__init__(self, max_actions=max_actions, candidates=candidates)
        gym.Wrapper.__init__(self, env)
        if max_actions < 1:
            raise ValueError(f"max_actions must be >= 1, got {max_actions}")
        self.action_space = Discrete(max_actions)
        self._propose = candidates
        self._candidates: tuple[str, ...] = ()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._offer(observation, info)

    def step(self, action: int) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        """Play the candidate in slot `action`."""
        text = self._candidates[int(action) % len(self._candidates)]
        observation, reward, terminated, truncated, info = self.env.step(text)
        return observation, reward, terminated, truncated, {**self._offer(observation, info), "action": text}

    def action_masks(self) -> NDArray[np.bool_]:
        """Which slots hold a candidate for the first time, ``[max_actions]``."""
        return np.arange(self.action_space.n) < len(self._candidates)  # type: ignore[attr-defined]

    def _offer(self, observation: str, info: dict[str, Any]) -> dict[str, Any]:
        slots = int(self.action_space.n)  # type: ignore[attr-defined]
        # An episode that is over may leave nothing to choose.
        proposed = tuple(self._propose(observation, info)) or ("",)
        self._candidates = proposed[:slots]
        return {**info, "candidates": self._candidates, "cut_off": max(0, len(proposed) - slots)}


class EmbedText(gym.Wrapper[Any, int, Any, int], RecordConstructorArgs):
    """Observations are vectors: of the state, and of each action that can be chosen.

    With D the encoder's dimension and A the number of slots of `DiscreteActions`, which this wraps:

    - ``state`` [3, D]: the task, the observation, and the action before (zeros at the start);
    - ``actions`` [A, D]: the candidates, repeated as `DiscreteActions` does;
    - ``mask`` [A]: 1 for the first occurrence of each candidate;
    - ``tried`` [A]: t / (1 + t) for a candidate that was played t times in this episode. It is all the memory there is:
      learners without any of their own would else run in circles.

    Args:
        env: a `DiscreteActions`, possibly wrapped.
        encoder: from texts to vectors; wrap a slow one in `CachedEncoder`.
        describe: what an action means, where its own text does not say it (a product's number).
    """

    def __init__(self, env: gym.Env[str, int], encoder: Encoder, describe: Describe | None = None) -> None:
        RecordConstructorArgs.__init__(self, encoder=encoder, describe=describe)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.action_space, Discrete):
            raise ValueError(f"EmbedText wraps a DiscreteActions, got the action space {env.action_space}")
        self._view = ChoiceView(encoder, int(env.action_space.n), describe)
        self.observation_space = self._view.space
        self._tried = Counter[str]()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Vectors], dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._tried.clear()
        return self._view(info["task"], observation, None, info["candidates"], self._tried), info

    def step(self, action: int) -> tuple[dict[str, Vectors], Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._tried[info["action"]] += 1
        view = self._view(info["task"], observation, info["action"], info["candidates"], self._tried)
        return view, reward, terminated, truncated, info


class ChoiceView:
    """The observation of `EmbedText` as a function, for agents that play without the wrapper.

    Attributes:
        space: what it returns values of.
        max_actions: how many slots.
    """

    def __init__(self, encoder: Encoder, max_actions: int, describe: Describe | None = None) -> None:
        self._encoder = encoder
        self._describe = describe or (lambda observation, action: action)
        self.max_actions = max_actions
        dimension = encoder(["a text"]).shape[1]
        self.space = Dict(
            {
                "state": Box(-1, 1, (3, dimension), np.float32),
                "actions": Box(-1, 1, (max_actions, dimension), np.float32),
                "mask": Box(0, 1, (max_actions,), np.float32),
                "tried": Box(0, 1, (max_actions,), np.float32),
            }
        )

    def __call__(
        self, task: str, observation: str, before: str | None, candidates: Sequence[str], tried: Mapping[str, int]
    ) -> dict[str, Vectors]:
        """What a policy sees; `tried` counts the actions that were played in this episode."""
        meanings = [self._describe(observation, candidate) for candidate in candidates]
        vectors = self._encoder([task, observation, before or "", *meanings])
        state, actions = vectors[:3], vectors[3:]
        if before is None:
            state = np.concatenate([state[:2], np.zeros_like(state[2:])])
        slots = np.arange(self.max_actions)
        counts = np.array([tried.get(candidate, 0) for candidate in candidates], dtype=np.float32)
        filled = slots % len(candidates)
        return {
            "state": state,
            "actions": actions[filled],
            "mask": (slots < len(candidates)).astype(np.float32),
            "tried": (counts / (1 + counts))[filled],
        }


class CachedEncoder:
    """Remembers the vectors of the texts it has seen, the latest `max_texts` of them.

    Worlds say the same things again and again, and sentence encoders take a tenth of a second for one of them on a CPU.

    >>> calls = []
    >>> def encode(texts):
    ...     calls.append(list(texts))
    ...     return np.array([[len(text)] for text in texts], dtype=np.float32)
    >>> encode = CachedEncoder(encode, max_texts=2)
    >>> encode(["a", "bb", "a"]).tolist(), encode(["bb", "a"]).tolist(), calls
    ([[1.0], [2.0], [1.0]], [[2.0], [1.0]], [['a', 'bb']])
    """

    def __init__(self, encoder: Encoder, max_texts: int = 20_000) -> None:
        if max_texts < 1:
            raise ValueError(f"max_texts must be >= 1, got {max_texts}")
        self._encoder = encoder
        self._max_texts = max_texts
        self._known: OrderedDict[str, Vectors] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """The vectors of `texts`, ``[len(texts), dimension]``."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        fresh = dict(zip(missing, self._encoder(missing), strict=True)) if missing else {}
        rows = []
        for text in texts:
            if text in fresh:
                rows.append(fresh[text])
            else:
                self._known.move_to_end(text)
                rows.append(self._known[text])
        self._known.update(fresh)
        while len(self._known) > self._max_texts:
            self._known.popitem(last=False)
        return np.stack(rows)

    def __len__(self) -> int:
        return len(self._known)


class HashedWords:
    """An encoder without a model: words and pairs of neighbours, hashed into `dimension` signed counts, unit length.

    Texts with words in common are near each other and nothing else is (Weinberger et al. 2009, "Feature hashing for
    large scale multitask learning"). Thousands of times faster than a sentence encoder, and the same on every machine.

    >>> encode = HashedWords(256)
    >>> mug, cup, shelf = encode(["put the mug in the sink", "put a mug in the sink", "go to shelf 1"])
    >>> bool(mug @ cup > 0.5 > mug @ shelf)
    True
    """

    def __init__(self, dimension: int = 256) -> None:
        if dimension < 1:
            raise ValueError(f"dimension must be >= 1, got {dimension}")
        self.dimension = dimension

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """The vectors of `texts`, ``[len(texts), dimension]``; a text without words is all zeros."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            words = re.findall(r"\w+", text.lower())
            for feature in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
                code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
                row[code % self.dimension] += 1.0 if code & 0x80000000 else -1.0
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors
