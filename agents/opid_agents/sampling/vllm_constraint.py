"""Constrained decoding within vLLM. vLLM's engine imports this module by its name, where vLLM is installed.

The masks are those of our own engine (`opid_agents.sampling.constraints`), which the policy scores with. vLLM's
structured output (choices, regular expressions, tags) has others, and no form for a reply that has to end within its
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from opid_agents.sampling.constraints import Constraint, TokenMask, Vocabulary, Walk, blocked


class ConstraintProcessor(AdapterLogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Cuts logits to what the ``constraint`` in a request's ``extra_args`` allows.

    Its values are those of `Constraint.to_json`, and ``halt``, a stop token that is said when the reply is at its end.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._vocabulary = Vocabulary(AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer))

    def is_argmax_invariant(self) -> bool:
        """The likeliest token may change."""
        return False

    def new_req_logits_processor(self, params: Any) -> Callable[[list[int], Tensor], Tensor] | None:
        """What is done to a request's logits ``[vocabulary]``, from the tokens of its reply so far."""
        raw = (params.extra_args or {}).get("constraint")
        if raw is None:
            return None
        walk = Walk(Constraint.from_json(raw), self._vocabulary, raw["max_tokens"])
        halt = TokenMask(torch.tensor([raw["halt"]]), only=True)
        seen = 0

        def restrict(reply: list[int], logits: Tensor) -> Tensor:
            nonlocal seen
            for token in reply[seen:]:
                walk.add(token)
            seen = len(reply)
            mask = halt if walk.finished else walk.allowed()
            return logits.masked_fill(blocked([mask], len(logits), logits.device)[0], -torch.inf)

        return restrict
