"""The tokens behind a decision of a language model, as they are kept with its step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRACE = "trace"
"""The key of `opid_gym.trajectory.Step.data` under which a trace is kept."""


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """What a policy read and wrote at one step; learning needs it.

    Attributes:
        prompt_ids, reply_ids: tokens.
        log_probs: of the reply tokens, under the policy and temperature they were sampled with.
        dropped: number of the oldest history pairs that were left out of the prompt for lack of room.
    """

    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]
    log_probs: Sequence[float]
    dropped: int = 0

    def to_data(self) -> dict[str, Any]:
        """An entry for `opid_gym.trajectory.Step.data`, in JSON values; `from_data` gives back an equal trace.

        >>> TokenTrace.from_data(TokenTrace([1], [2], [-0.5]).to_data())
        TokenTrace(prompt_ids=[1], reply_ids=[2], log_probs=[-0.5], dropped=0)
        """
        return {
            TRACE: {
                "prompt_ids": list(self.prompt_ids),
                "reply_ids": list(self.reply_ids),
                "log_probs": list(self.log_probs),
                "dropped": self.dropped,
            }
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TokenTrace | None:
        """The trace in the data of a step; None if the step was recorded without one.

        Raises:
            ValueError: it is not a trace.
        """
        if TRACE not in data:
            return None
        try:
            return cls(**data[TRACE])
        except TypeError as error:
            raise ValueError(f"not a token trace: {error}") from None
