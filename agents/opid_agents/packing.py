"""Which token sequences can share one forward pass.

A causal model computes the log-probability of every token of a row at once. If the prompt and reply of step t are,
token for token, the beginning of the prompt of step t + 1, which is so wherever a template shows the whole
history, then one row serves both steps, and a whole episode costs what its last step costs. Equal samples share a
row too. Nothing is assumed about templates: sequences are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Reply tokens of one sample within a row: ``ids[start:stop]``."""

    sample: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Row:
    """One token sequence to run, and the samples that can be read off it."""

    ids: Sequence[int]
    spans: tuple[Span, ...]


def pack(prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> list[Row]:
    """Fold samples whose sequences are nested or equal into rows; exact, whatever the sequences are.

    Args:
        prompts: token ids, at least one a sample (the first token of a sequence has no log-probability).
        replies: token ids; an empty reply has nothing to score and lands in no row.

    Raises:
        ValueError: an empty prompt, or different numbers of prompts and replies.

    >>> [(list(row.ids), len(row.spans)) for row in pack([[1], [1, 2, 3], [7]], [[2], [4], [8]])]
    [([7, 8], 1), ([1, 2, 3, 4], 2)]
    """
    if len(prompts) != len(replies):
        raise ValueError(f"one reply for each prompt is needed, got {len(prompts)} prompts and {len(replies)} replies")
    sequences = []
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        if not len(prompt):
            raise ValueError(f"prompt {i} is empty; a reply needs at least one token before it")
        if len(reply):
            sequences.append(([*prompt, *reply], i))
    rows: list[tuple[list[int], list[Span]]] = []
    # In lexicographic order whatever follows a sequence directly has it as its beginning, if anything has. So
    # going backwards, the latest row is the only one to compare with.
    for ids, i in sorted(sequences, reverse=True):
        if not rows or rows[-1][0][: len(ids)] != ids:
            rows.append((ids, []))
        rows[-1][1].append(Span(i, len(prompts[i]), len(ids)))
    return [Row(ids, tuple(spans)) for ids, spans in rows]


def batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows in batches of similar length, at most `max_tokens` tokens with padding each (or a single row)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        if batch and len(batch[0].ids) * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
