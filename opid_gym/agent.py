"""What acts: the agent protocol, the same for a random choice, an expert, a language model or a remote service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Decision:
    """An action with the story behind it, kept in the trajectory.

    Attributes:
        action: what to send to the world.
        reply: the full reply the action was parsed from; None if there was no reply.
        prompt: the prompt behind the reply.
        valid: False if no action could be read from the reply.
        invalid_reason: why not.
        data: further JSON values to keep with the step.
    """

    action: str
    reply: str | None = None
    prompt: str | None = None
    valid: bool = True
    invalid_reason: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Agent(Protocol):
    """Acts in a batch of games.

    Game i of the batch is the same in every call; the agent may keep a memory for each. `infos` is the vector
    environment's: `infos["_task"][i]` is False where game i is not being played in this call, and what is
    returned there is ignored.
    """

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` [num_envs] is True: new episodes start there."""

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> Sequence[str | Decision]:
        """One action (or `Decision`) for each game."""
