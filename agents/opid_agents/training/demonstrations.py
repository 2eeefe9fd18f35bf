"""Demonstrations: episodes of an expert, with some steps that are not its own, and what is to be learned from them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from opid_gym.agent import Decision
from opid_gym.named import load_named
from opid_gym.trajectory import Trajectory
from opid_gym.vector import TextVectorEnv


class Expert(Protocol):
    """Plays one episode from its text."""

    def act(self, observation: str, admissible: Sequence[str]) -> str:
        """The next action."""


class RandomExpert:
    """Plays any admissible action: for worlds without an expert.

    A model that imitates it learns how actions look and how to read hints, and leaves all else to training.
    """

    def __init__(self, task: str, rng: random.Random) -> None:
        self._rng = rng

    def act(self, observation: str, admissible: Sequence[str]) -> str:
        """See `Expert`.

        Raises:
            ValueError: the world lists no actions that could be played as they are.
        """
        actions = spoken(admissible)
        if not actions:
            raise ValueError(
                "warm_start.expert=random chooses among admissible actions, and this world lists none: name an expert "
                "of your own with warm_start.expert=module:Class, or a model to start from with model.path=DIR"
            )
        return self._rng.choice(actions)


def load_expert(path: str) -> Callable[[str, random.Random], Expert]:
    """The expert class named ``module:Class``, or ``random``; called with the task's text and a random generator.

    Raises:
        ValueError: there is no such thing.
    """
    if path == "random":
        return RandomExpert
    expert: Callable[[str, random.Random], Expert] = load_named(path, "expert")
    return expert


class Demonstrator:
    """An agent that plays as an expert does, except for some random steps.

    At a random step something else is played: any admissible action, or (as often) one that is admissible in another
    game and here most likely means nothing. So demonstrations also show how to go on after a mistake, which a policy
    that has only seen perfect play does not know. The expert's advice is kept at every step in ``data["expert"]``.

    Args:
        envs: the environment it acts in.
        expert: see `load_expert`; None: the world's own expert, which sees the hidden state.
        noise: share of random steps. Where actions are free text there are none.
        seed: of the noise and of the experts' whims; each task has streams of its own.
    """

    def __init__(
        self,
        envs: TextVectorEnv,
        expert: Callable[[str, random.Random], Expert] | None = None,
        *,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._envs = envs
        self._expert = expert
        self._noise = noise
        self._seed = seed
        self._playing: dict[int, tuple[Expert | None, random.Random]] = {}

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` is True."""
        for game in np.flatnonzero(mask).tolist():
            self._playing.pop(game, None)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        """The expert's action, or a random one, in each game that is being played."""
        decisions = [Decision("")] * len(observations)
        games = np.flatnonzero(infos["_task"]).tolist()
        told = self._told(infos["_task"]) if self._expert is None else []
        for game in games:
            if game not in self._playing:
                rng = random.Random(f"{self._seed}/{infos['task_id'][game]}")
                self._playing[game] = (self._expert(infos["task"][game], rng) if self._expert else None, rng)
            expert, rng = self._playing[game]
            admissible = infos["admissible_actions"][game]
            advice = expert.act(observations[game], admissible) if expert else told[game] or ""
            action = advice
            if rng.random() < self._noise and admissible:
                elsewhere = infos["admissible_actions"][rng.choice(games)]
                action = rng.choice(spoken(admissible if rng.random() < 0.5 else elsewhere) or (advice,))
            decisions[game] = Decision(action, data={"expert": advice})
        return decisions

    def _told(self, mask: NDArray[np.bool_]) -> list[str | None]:
        try:
            return self._envs.expert_actions(mask)
        except NotImplementedError as error:
            raise ValueError(
                f"the warm start imitates the world's expert, but {error}: set warm_start.expert=random to imitate "
                "random play, warm_start.expert=module:Class for an expert of your own, or model.path=DIR to start "
                "from a model without a warm start"
            ) from None


def spoken(actions: Sequence[str] | None) -> list[str]:
    """The admissible actions that can be played word for word: those with a place for words of one's own are not."""
    return [action for action in actions or () if not _OWN_WORDS.search(action)]


def as_element(action: str, tags: Collection[str]) -> str:
    """An action of the form ``name[text]`` as the element that stands for it in replies, if its name is one of `tags`.

    >>> as_element("search[who wrote Hamlet]", ("search", "answer"))
    '<search>who wrote Hamlet</search>'
    """
    name, _, text = action.partition("[")
    return f"<{name}>{text[:-1]}</{name}>" if name in tags and text.endswith("]") else action


_OWN_WORDS = re.compile("<[^<>]+>")  # as in search[<your query>]


def advice_at(trajectory: Trajectory, step: int) -> str:
    """What the expert would do at a step: its advice if it was kept, else what was done."""
    advice: str = trajectory.steps[step].data.get("expert", trajectory.steps[step].action)
    return advice


def learned_steps(trajectory: Trajectory) -> list[int]:
    """The steps to learn from: those where the expert's advice was played.

    What should have been done instead of a random step could be learned too, but as it is not what the history
    goes on with, each such step would need a row of its own.
    """
    return [i for i, step in enumerate(trajectory.steps) if advice_at(trajectory, i) == step.action]
