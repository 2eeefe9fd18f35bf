"""Which token sequences can share one forward pass, and which of their tokens.

A causal model computes the log-probability of every token of a row at once. If the prompt and reply of step t are,
token for token, the beginning of the prompt of step t + 1, which is so wherever a template shows the whole
history, then one row serves both steps, and a whole episode costs what its last step costs (`pack`). Equal samples
share a row too.

Sequences that begin alike and then part, as prompts with different skills late in them and the rollouts of one task
do, can share the beginning: they become *branches* of a row, and a mask keeps each branch from seeing the others
(`share`). Nothing is assumed about templates: sequences are compared.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

_MOST_BUCKETS = 4
_WORTHWHILE = 0.9  # every further pass has a price of its own


@dataclass(frozen=True, slots=True)
class Span:
    """Reply tokens of one sample within a row: ``ids[start:stop]``."""

    sample: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens ``ids[start:stop]`` of a row, which follow its first `after` tokens and see only those and each other."""

    start: int
    stop: int
    after: int


@dataclass(frozen=True, slots=True)
class Row:
    """One token sequence to run, and the samples that can be read off it.

    What stands before the first branch is one plain sequence, the trunk.
    """

    ids: Sequence[int]
    spans: tuple[Span, ...]
    branches: tuple[Branch, ...] = ()


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


def share(rows: Sequence[Row], even: float, longest: int) -> list[Row]:
    """Let rows share their beginnings where that pays; exact.

    A row of n tokens costs ``n * even + n * n / 2``: the first part is all that is done token by token, the second
    causal attention. With branches attention costs ``n * n``, for every token is compared with every other and the
    mask drops what does not count. Rows are joined where the sum gets smaller.

    Args:
        rows: from `pack`, without branches.
        even: length of a sequence at which attending to all of it costs a token as much as everything else.
        longest: maximum tokens of a row with branches.

    >>> skilled = pack([[1, 2, 3, 4, 7], [1, 2, 3, 4, 9]], [[5], [6]])
    >>> [(list(row.ids), row.branches) for row in share(skilled, even=100, longest=50)]
    [([1, 2, 3, 4, 7, 5, 9, 6], (Branch(start=6, stop=8, after=4),))]
    """
    ordered = sorted(rows, key=lambda row: list(row.ids))
    # How much neighbours have in common; of any two it is the least of what lies between.
    common = [common_prefix(a.ids, b.ids) for a, b in pairwise(ordered)]
    left = set(range(len(ordered)))
    joined = []
    for trunk in sorted(left, key=lambda i: -len(ordered[i].ids)):
        if trunk not in left:
            continue
        whole, members = ordered[trunk], [trunk]
        for step, places in ((1, range(trunk + 1, len(ordered))), (-1, range(trunk - 1, -1, -1))):
            shared = len(whole.ids)
            for i in places:
                shared = min(shared, common[i - 1] if step > 0 else common[i])
                if not shared:
                    break
                if i in left and (larger := _join(whole, ordered[i], shared, even, longest)):
                    whole = larger
                    members.append(i)
        if _cost(whole, even) >= sum(_cost(ordered[i], even) for i in members):
            whole, members = ordered[trunk], [trunk]
        joined.append(whole)
        left -= set(members)
    return joined


def _cost(row: Row, even: float) -> float:
    return len(row.ids) * (even + len(row.ids) * (1.0 if row.branches else 0.5))


def _join(trunk: Row, row: Row, shared: int, even: float, longest: int) -> Row | None:
    """`row` as a branch of a trunk, with which it shares `shared` tokens; None where it does not pay or is too long."""
    # A branch must not begin within a reply.
    after = min([shared, *(span.start for span in row.spans if span.stop > shared)])
    own = len(row.ids) - after
    before, total = len(trunk.ids), len(trunk.ids) + own
    if after < 1 or total > longest or own * even + total**2 - before**2 >= _cost(row, even):
        return None
    moved = before - after
    spans = [s if s.stop <= after else Span(s.sample, s.start + moved, s.stop + moved) for s in row.spans]
    return replace(
        trunk,
        ids=[*trunk.ids, *row.ids[after:]],
        spans=(*trunk.spans, *spans),
        branches=(*trunk.branches, Branch(before, total, after)),
    )


def batches(
    rows: Sequence[Row], max_tokens: int, *, max_mask: float = math.inf, padding: bool = True
) -> Iterator[list[Row]]:
    """Rows in batches for one pass each; a single row that exceeds a limit is a batch of its own.

    Rows with branches stay among themselves: only they need a mask.

    Args:
        rows: from `pack` or `share`.
        max_tokens: maximum tokens of a batch, padding included.
        max_mask: maximum entries of the square masks of a batch of rows with branches.
        padding: rows of a batch may differ in length, and are of similar length; False: they never differ.
    """
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (bool(row.branches), len(row.ids)), reverse=True):
        if batch:
            longest, count, branched = len(batch[0].ids), len(batch) + 1, bool(batch[0].branches)
            full = longest * count > max_tokens or (branched and longest**2 * count > max_mask)
            unlike = branched != bool(row.branches) or (not padding and longest != len(row.ids))
            if full or unlike:
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


def buckets(lengths: Sequence[int], apart: float) -> list[list[int]]:
    """Rows that are padded to one length each, as positions in `lengths`; fewest tokens in all.

    Args:
        lengths: of the rows.
        apart: what a row costs in a batch of its own, in tokens, over one in the batch of all.

    >>> buckets([9, 100, 8, 90], apart=0)
    [[1, 3], [0, 2]]
    >>> buckets([9, 100, 8, 90], apart=50)
    [[0, 1, 2, 3]]
    """
    ordered = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best = [list(range(len(lengths)))]
    least: float = len(lengths) * max(lengths)
    for count in range(2, _MOST_BUCKETS + 1):
        size = -(-len(ordered) // count)
        parts = [sorted(ordered[i : i + size]) for i in range(0, len(ordered), size)]
        cost = sum(len(part) * max(lengths[i] for i in part) for part in parts) + apart * len(ordered)
        if cost < _WORTHWHILE * least:
            best, least = parts, cost
    return best


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading entries of two lists are equal."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    # Comparing slices is much faster than comparing entries one by one.
    return bisect_left(range(n), True, key=lambda i: a[: i + 1] != b[: i + 1])
