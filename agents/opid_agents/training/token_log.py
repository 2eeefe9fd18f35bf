"""What each sampled token was credited with, as JSON for people to look at (`opid-gym view`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from opid_agents.algorithms.advantages import Advantage
from opid_agents.training.batch import Batch

# Trajectory and step in it -> what to keep in that step's `data`.
Credit = dict[tuple[int, int], dict[str, Any]]


def describe_credit(
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    advantage: Advantage,
    *,
    trajectories: int,
) -> Credit:
    """The reply tokens of the samples of the first `trajectories` trajectories, with their advantages.

    Args:
        tokenizer: the policy's.
        batch, advantage: row i of the advantage belongs to sample i.
        trajectories: number of trajectories that will be written down.

    Returns:
        For each such step ``skills``, the texts it was re-scored with by their kind (``episode``, ``step``), and
        ``tokens``: ``texts``, ``log_probs``, ``outcome`` (the outcome advantage) and ``skill`` (what the skills added
        to it, weights and all: the two sum to what the loss uses). All lists have one entry a token; numbers have
        four significant digits, and None stands for one that is not finite.
    """
    credit: Credit = {}
    teacher = batch.teacher
    texts: dict[tuple[int, ...], list[str]] = {}  # most replies are given again and again
    for i, (sample, way) in enumerate(zip(batch.samples, batch.routes, strict=True)):
        if sample.trajectory >= trajectories:
            continue
        length = len(sample.reply_ids)
        reply = tuple(sample.reply_ids)
        if reply not in texts:
            texts[reply] = token_texts(tokenizer, reply)
        outcome = advantage.outcome[i, :length]
        heard = {"episode": way.episode if teacher and teacher.episode_mask[i] else None}
        heard["step"] = way.step if teacher and teacher.step_mask[i] else None
        credit[sample.trajectory, sample.step] = {
            "skills": {kind: text for kind, text in heard.items() if text is not None},
            "tokens": {
                "texts": texts[reply],
                "log_probs": _short(sample.log_probs),
                "outcome": _short(outcome),
                "skill": _short(advantage.advantages[i, :length] - outcome),
            },
        }
    return credit


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text each token adds, special tokens included; joined they are the decoded whole.

    A character that is spread over several tokens belongs to the last of them, the others add nothing. Bytes that
    never become a character are U+FFFD in the token that shows it.
    """
    texts: list[str] = []
    # Each piece is decoded behind the one before it: some tokenizers drop the space that a text begins with.
    before = begin = 0
    known = ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[before:end]), skip_special_tokens=False)
        if text.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(known) :])
        before, begin = begin, end
        known = tokenizer.decode(list(ids[before:begin]), skip_special_tokens=False)
    return texts


def _short(values: Tensor | Sequence[float]) -> list[float | None]:
    numbers = values.tolist() if isinstance(values, Tensor) else values
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in numbers]
