"""Which shortcuts are exact for a model: found out by trying when it is loaded.

Rows of unlike length in one pass, rows with branches, and a cache of rows of unlike length rest on how a model treats
masks and positions. Configurations do not say that reliably, so each shortcut is compared with the plain way, one
sequence in one pass, on a few tokens. What differs is not used; what the plain way itself cannot give is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opid_agents.attention import layer_types, text_config, window
from opid_agents.packing import Branch, Row, Span
from opid_agents.sampling.kv_cache import RaggedCache

if TYPE_CHECKING:
    from opid_agents.policy import Policy

_SHORT, _LONG, _SHARED, _SMALL_WINDOW = 5, 19, 6, 4
_LONGEST_TRY = 512  # tokens; what only shows in longer sequences is not tried
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
# Numbers of a configuration that are named like windows and are none.
_NO_WINDOWS = {"sliding_window", "max_window_layers", "sliding_window_pattern", "chunk_size_feed_forward"}
# Of the spread of the logits, by precision: root mean square over the vocabulary, at the worst position. SmolLM2-135M
# in bfloat16 differs by 0.03 between passes of other shapes, and by 0.2 if two of its first tokens are swapped.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What is exact besides the plain way.

    Attributes:
        padding: rows of unlike length in one pass, padded on the right.
        branches: rows that share a beginning (`opid_agents.packing.share`).
        cache: a cache of rows of unlike length (`opid_agents.sampling.kv_cache`).
        own_cache: the model's own cache, for rows of equal length; asked for where `cache` is not exact.
    """

    padding: bool = True
    branches: bool = True
    cache: bool = True
    own_cache: bool = True


@torch.no_grad()
def find_shortcuts(policy: Policy) -> Shortcuts:
    """Try the shortcuts on a policy's model.

    Raises:
        ValueError: the model cannot be used at all: its logits are not numbers, or they depend on later tokens.
    """
    kind = policy.model.config.model_type
    long, short = _tokens(policy)
    try:
        plain = _plain(policy, long)
    except Exception as error:
        raise ValueError(
            f"{kind!r} does not run on token ids alone: {type(error).__name__}: {str(error)[:200]}"
        ) from None
    if bool(plain.isnan().any()):
        raise ValueError(f"the logits of this {kind!r} are not numbers (NaN): its weights are damaged")
    tolerance = _TOLERANCE[policy.model.dtype]

    def same(found: Tensor, expected: Tensor) -> bool:
        spread = float(expected[expected.isfinite()].std())
        gaps = (found.float() - expected).nan_to_num(posinf=0.0, neginf=0.0)
        return float(gaps.square().mean(-1).sqrt().max()) <= tolerance * max(spread, 1e-3)

    # Other tokens at the end, in a pass of the same shape: rounding is the same, whatever the precision.
    if not same(_plain(policy, (*long[:-_SHORT], *short))[:-_SHORT], plain[:-_SHORT]):
        raise ValueError(f"{kind!r} cannot be used: what it says about a token depends on the tokens that follow it")

    def padding() -> bool:
        found = _row_logits(policy, [Row(long, ()), Row(short, ())])
        return same(found[0], _plain(policy, long)) and same(found[1, : len(short)], _plain(policy, short))

    def branches() -> bool:
        ids = (*long, *short)
        row = Row(ids, (Span(0, len(long), len(ids)),), (Branch(len(long), len(ids), _SHARED),))
        found = _row_logits(policy, [row])[0]
        expected = _plain(policy, (*long[:_SHARED], *short))
        return same(found[: len(long)], _plain(policy, long)) and same(found[len(long) :], expected[_SHARED:])

    def cache() -> bool:
        # A prompt, more than one token after it, and one token, as in play.
        store, done = RaggedCache(2), (0, 0)
        for ends in ((_SHARED, 2), (len(long) - 1, len(short) - 2), (len(long), len(short) - 1)):
            fresh = [ids[a:b] for ids, a, b in zip((long, short), done, ends, strict=True)]
            found, done = policy.extend(store, fresh, done), ends
            if not all(
                same(row, _plain(policy, ids[:end])[-1])
                for row, ids, end in zip(found, (long, short), ends, strict=True)
            ):
                return False
        return True

    def own_cache() -> bool:
        ids, past = torch.tensor([long, (*short, *long[_SHORT:])], device=policy.device), None
        for start, end in ((0, _SHARED), (_SHARED, _SHARED + 1), (_SHARED + 1, _SHARED + 2)):
            logits, past = policy.run_alike(ids[:, start:end], past)
            expected = (_plain(policy, tuple(row[:end]))[-1] for row in ids.tolist())
            if past is None or not all(same(row, plain) for row, plain in zip(logits, expected, strict=True)):
                return False
        return True

    if not _worth_trying(policy):
        return Shortcuts(_holds(padding), False, False, _holds(own_cache))
    with _small_window(policy):
        found = Shortcuts(_holds(padding), _holds(branches), _holds(cache))
        return found if found.cache else replace(found, own_cache=_holds(own_cache))


def _holds(check: object) -> bool:
    assert callable(check)
    try:
        return bool(check())
    except Exception:  # a model may fail in any way on masks, positions or caches that it does not know
        return False


def _worth_trying(policy: Policy) -> bool:
    return layer_types(policy.model) <= _PLAIN_LAYERS and _widest(policy) <= _LONGEST_TRY


def _widest(policy: Policy) -> int:
    """The largest window or chunk that the configuration has under other names than the common one."""
    config = text_config(policy.model).to_dict()
    sizes = [
        value
        for name, value in config.items()
        if any(word in name for word in ("window", "chunk", "local")) and name not in _NO_WINDOWS
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    return max(sizes, default=0)


@contextmanager
def _small_window(policy: Policy) -> Iterator[None]:
    """With a sliding window of a few tokens, so that short rows reach past it."""
    config, size = text_config(policy.model), window(policy.model)
    if size is None:
        yield
        return
    config.sliding_window = _SMALL_WINDOW
    try:
        yield
    finally:
        config.sliding_window = size


def _tokens(policy: Policy) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A long and a short sequence of random tokens, the long one past any window that is tried."""
    widest = _widest(policy) if _worth_trying(policy) else 0
    length = min(max(_LONG, widest + _SHORT), policy.context - _SHORT)
    generator = torch.Generator().manual_seed(0)
    special = set(policy.tokenizer.all_special_ids)
    known = min(len(policy.tokenizer), text_config(policy.model).vocab_size, 1000)
    words = [i for i in range(known) if i not in special] or [0]
    drawn = torch.randint(len(words), (length + _SHORT,), generator=generator).tolist()
    ids = tuple(words[i] for i in drawn)
    return ids[:length], ids[length:]


def _plain(policy: Policy, ids: tuple[int, ...]) -> Tensor:
    logits: Tensor = policy.model(input_ids=torch.tensor([ids], device=policy.device)).logits[0]
    return logits.float()


def _row_logits(policy: Policy, rows: list[Row]) -> Tensor:
    return policy.to_logits(policy.run_rows(rows))
