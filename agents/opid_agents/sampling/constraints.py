"""Constrained decoding: replies that can say nothing but an admissible action.

A reply is free text, if its form has an *opening* such as ``<action>`` that ends it, and then one of the *phrases* that
say an action. At every token the vocabulary is cut to what can still become such a reply, and the probabilities of what
is left are normalised. Whatever tokens spell an allowed text are allowed, not the tokenizer's own choice alone.

What was sampled so has to be scored so: ratios, entropies and skill shifts are those of the distribution sampled from
only if the same tokens are left out of it (`Constraint.masks`, and `masks` of `opid_agents.policy.Policy.score`).
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_MOST_KEPT = 100_000  # masks, and costs of texts


@dataclass(frozen=True, slots=True, eq=False)
class TokenMask:
    """Which tokens may come next.

    Attributes:
        ids: token ids, each once.
        only: these alone may come; False: all but these.
    """

    ids: Tensor
    only: bool

    def allows(self, token: int) -> bool:
        """Whether a token may come."""
        return bool((self.ids == token).any()) == self.only


Masks = Sequence[Sequence[TokenMask] | None]
"""Of the tokens of some replies, which others could have come in their places; None: all."""


def blocked(masks: Sequence[TokenMask | None], vocabulary: int, device: torch.device) -> Tensor:
    """Masks as a bool tensor ``[rows, vocabulary]``, True where a token may not come; None blocks nothing."""
    out = torch.tensor([mask is not None and mask.only for mask in masks], device=device)
    out = out[:, None].repeat(1, vocabulary)
    named = [(row, mask.ids) for row, mask in enumerate(masks) if mask is not None]
    if named:
        rows = torch.cat([torch.full_like(ids, row) for row, ids in named]).to(device)
        columns = torch.cat([ids for _, ids in named]).to(device)
        out[rows, columns] = ~out[rows, columns]
    return out


@dataclass(frozen=True, slots=True)
class Phrase:
    """A text that says an action, to the end of the reply.

    Attributes:
        opening: what it follows, after free text; "": it is the whole reply.
        head: the text.
        tail: after the head come words of the model's own, with at least one visible character, and then this; None:
            the head is all.
    """

    opening: str
    head: str
    tail: str | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a reply may be.

    Attributes:
        phrases: one of them is said. All have an opening, or none has.
        after: an opening counts only after this text (``</think>``); "": at once. Case does not matter in either, as it
            does not to who reads the reply. Space may follow an opening.
        banned: texts that words of the model's own must not hold, because the action would end there.
        end: token that ends the reply after its phrase; None: nothing follows the phrase.

    Raises:
        ValueError: there is no phrase, some have an opening and some have none, or a tail is empty.
    """

    phrases: tuple[Phrase, ...]
    after: str = ""
    banned: tuple[str, ...] = ()
    end: int | None = None

    def __post_init__(self) -> None:
        if not self.phrases:
            raise ValueError("a constraint needs at least one phrase")
        if len({bool(phrase.opening) for phrase in self.phrases}) > 1:
            raise ValueError("either all phrases of a constraint have an opening, or none has")
        if any(phrase.tail == "" for phrase in self.phrases):
            raise ValueError("words of the model's own need a text that ends them")

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Constraint:
        """A constraint from JSON values."""
        phrases = tuple(Phrase(**phrase) for phrase in raw["phrases"])
        return cls(phrases, raw["after"], tuple(raw["banned"]), raw["end"])

    def masks(self, vocabulary: Vocabulary, reply: Sequence[int], max_tokens: int) -> list[TokenMask]:
        """What could have come at each token of a reply that was sampled under this constraint.

        Args:
            vocabulary: of the model.
            reply: its tokens.
            max_tokens: that it could have had.

        Raises:
            ValueError: a token of it could not have come.
        """
        walk, masks = Walk(self, vocabulary, max_tokens), []
        for place, token in enumerate(reply):
            masks.append(walk.allowed())
            if not masks[-1].allows(token):
                raise ValueError(f"token {place} of the reply, {vocabulary.texts[token]!r}, is not allowed there")
            walk.add(token)
        return masks


class Vocabulary:
    """The tokens of a tokenizer by the bytes that they add to a text; keeps what was found out about them.

    Args:
        tokenizer: of the model.

    Attributes:
        texts: of each token; b"" for special tokens, which replies are read without.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.texts = token_bytes(tokenizer)
        self._ids: defaultdict[bytes, list[int]] = defaultdict(list)
        for token, text in enumerate(self.texts):
            self._ids[text].append(token)
        self._silent = self._ids.pop(b"", [])
        self._longest = max(map(len, self._ids))
        self._costs: dict[bytes, float] = {b"": 0}
        self._kept: dict[Any, TokenMask] = {}

    def cost(self, text: bytes) -> float:
        """The minimum number of tokens that spell a text; infinite if none do."""
        if text not in self._costs:
            if len(self._costs) > _MOST_KEPT:
                self._costs = {b"": 0}
            # From the end, so that what is left after a token is known already.
            for start in range(len(text) - 1, -1, -1):
                ends = range(start + 1, min(len(text), start + self._longest) + 1)
                rests = [self._costs[text[end:]] for end in ends if text[start:end] in self._ids]
                self._costs[text[start:]] = 1 + min(rests, default=math.inf)
        return self._costs[text]

    def beginning(self, texts: Iterable[bytes]) -> dict[bytes, list[int]]:
        """The tokens that one of `texts` can begin with, by what they add."""
        pieces = {text[:n] for text in texts for n in range(1, min(len(text), self._longest) + 1)}
        return {piece: self._ids[piece] for piece in pieces if piece in self._ids}

    def without(self, refused: Callable[[bytes], bool]) -> TokenMask:
        """All tokens with a text but those whose text is refused."""
        ids = [token for text, tokens in self._ids.items() if refused(text) for token in tokens]
        return TokenMask(torch.tensor([*self._silent, *ids], dtype=torch.long), only=False)

    def keep(self, key: Any, make: Callable[[], TokenMask]) -> TokenMask:
        """What `make` gives, made once for each key."""
        if key not in self._kept:
            if len(self._kept) > _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = make()
        return self._kept[key]


class Walk:
    """A reply under a constraint, as it grows.

    Args:
        constraint: what it may be.
        vocabulary: of the model.
        max_tokens: that it may have. Where they run short, free text is brought to its end and long phrases are left
            out, so that every reply comes to its own end.

    Attributes:
        finished: it has.

    Raises:
        ValueError: `max_tokens` is not enough for any phrase.
    """

    def __init__(self, constraint: Constraint, vocabulary: Vocabulary, max_tokens: int) -> None:
        self.finished = False
        self._vocabulary = vocabulary
        self._end = constraint.end
        self._banned = tuple(text.lower().encode() for text in constraint.banned)
        self._left = max_tokens
        rests = tuple(
            _Rest(
                phrase.opening.lower().encode(),
                phrase.head.encode(),
                None if phrase.tail is None else phrase.tail.encode(),
            )
            for phrase in constraint.phrases
        )
        after = constraint.after.lower().encode()
        self._state: _State = _Before(rests, after) if constraint.phrases[0].opening else _say(rests)
        if (shortest := self._shortest(_bridges(self._state))) > max_tokens:
            raise ValueError(
                f"no admissible action can be said in max_tokens={max_tokens} tokens; the shortest needs {shortest}"
            )
        self._hurry()

    def allowed(self) -> TokenMask:
        """What may come next."""
        state, banned = self._state, self._banned
        if isinstance(state, _Saying):
            return self._next(state)
        ending = (*state.openings, state.after) if isinstance(state, _Before) else (state.tail.lower(), *banned)
        lasts = {text[-1:] for text in ending if text}
        first = isinstance(state, _Within) and state.empty

        def refused(text: bytes) -> bool:
            # Most tokens end nothing; to look at these alone is much faster.
            return (first or any(last in text for last in lasts)) and _advance(state, text, banned) is None

        key = (type(state), ending, state.recent, first)
        return self._vocabulary.keep(key, lambda: self._vocabulary.without(refused))

    def add(self, token: int) -> None:
        """Go on with a token.

        Raises:
            ValueError: no reply goes on with it.
        """
        self._left -= 1
        state, text = self._state, self._vocabulary.texts[token]
        if isinstance(state, _Saying) and state.complete and token == self._end:
            self.finished = True
            return
        after = _advance(state, text, self._banned) if text else None
        if after is None:
            raise ValueError(f"no reply goes on with {text!r} here")
        self._state = after
        self.finished = self._end is None and isinstance(after, _Saying) and after.complete
        self._hurry()

    def _next(self, state: _Saying) -> TokenMask:
        left = self._left - 1
        longest = max(len(rest.head) + (0 if rest.tail is None else 1 + len(rest.tail)) for rest in state.rests)

        def make() -> TokenMask:
            ids = {self._end} if state.complete and self._end is not None else set()
            for piece, tokens in self._vocabulary.beginning(rest.head for rest in state.rests).items():
                if roomy or self._shortest(_after(state.rests, piece)) <= left:
                    ids.update(tokens)
            return TokenMask(torch.tensor(sorted(ids), dtype=torch.long), only=True)

        # A token has a byte at least, and the end is one token.
        roomy = longest <= left
        return self._vocabulary.keep((state, self._end), make) if roomy else make()

    def _hurry(self) -> None:
        """Leave free text where the tokens that are left are needed for the rest."""
        if isinstance(self._state, _Saying) or (isinstance(self._state, _Within) and self._state.empty):
            return
        if self._left - 1 < self._needed(self._state):
            self._state = _say(_bridges(self._state))

    def _needed(self, state: _Before | _Within) -> float:
        """Tokens for what follows free text, whichever opening it comes to."""
        if isinstance(state, _Within):
            return self._shortest(_bridges(state))
        return max(
            self._vocabulary.cost(state.after + opening)
            + self._shortest([rest for rest in state.rests if rest.opening == opening])
            for opening in state.openings
        )

    def _shortest(self, rests: Sequence[_Rest]) -> float:
        """The minimum number of tokens of a reply's rest, its end included."""
        cost = self._vocabulary.cost
        costs = [cost(rest.head) + (0 if rest.tail is None else 1 + cost(rest.tail)) for rest in rests]
        return min(costs, default=math.inf) + (self._end is not None)


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left to say of a phrase."""

    opening: bytes
    head: bytes
    tail: bytes | None


@dataclass(frozen=True, slots=True)
class _Before:
    """Free text before an opening."""

    rests: tuple[_Rest, ...]
    after: bytes  # what an opening still has to wait for
    recent: bytes = b""  # the last bytes, if what ends the free text may begin with them

    @property
    def openings(self) -> tuple[bytes, ...]:
        return tuple(sorted({rest.opening for rest in self.rests}))


@dataclass(frozen=True, slots=True)
class _Saying:
    """In one or several phrases at once."""

    rests: tuple[_Rest, ...]

    @property
    def complete(self) -> bool:
        return any(not rest.head and rest.tail is None for rest in self.rests)


@dataclass(frozen=True, slots=True)
class _Within:
    """Words of the model's own within a phrase."""

    tail: bytes
    recent: bytes = b""
    empty: bool = True


_State = _Before | _Saying | _Within


def _advance(state: _State, text: bytes, banned: Sequence[bytes]) -> _State | None:
    """Where a token's text leads; None: it is not allowed."""
    if isinstance(state, _Saying):
        rests = _after(state.rests, text)
        return _say(rests) if rests else None
    joined = state.recent + text.lower()
    if isinstance(state, _Before):
        if state.after:
            _, found, behind = joined.partition(state.after)
            if not found:
                return replace(state, recent=_recent(joined, (state.after,)))
            state, joined = replace(state, after=b""), behind
        reached = [(joined.find(opening) + len(opening), opening) for opening in state.openings if opening in joined]
        if not reached:
            return replace(state, recent=_recent(joined, state.openings))
        end, opening = min(reached)
        if joined[end:].strip():  # only space may stand between
            return None
        return _say(tuple(rest for rest in state.rests if rest.opening == opening))
    tail = state.tail.lower()
    watched = (tail, *banned)
    ends = [joined.find(one) + len(one) for one in watched if one in joined]
    recent = b"" if ends else _recent(joined, watched)
    words = joined.removesuffix(tail) if ends else joined[: len(joined) - len(recent)]
    if state.empty and not words.decode(errors="ignore").strip():
        return None
    if not ends:
        return _Within(state.tail, recent, empty=False)
    ended = min(ends) == len(joined) and joined.endswith(tail)
    return _Saying((_Rest(b"", b"", None),)) if ended else None


def _say(rests: tuple[_Rest, ...]) -> _Saying | _Within:
    own = next((rest.tail for rest in rests if not rest.head and rest.tail is not None), None)
    return _Saying(rests) if own is None else _Within(own)


def _after(rests: Iterable[_Rest], text: bytes) -> tuple[_Rest, ...]:
    return tuple(replace(rest, head=rest.head[len(text) :]) for rest in rests if rest.head.startswith(text))


def _bridges(state: _State) -> tuple[_Rest, ...]:
    """What the reply can go on with if its free text ends here."""
    if isinstance(state, _Before):
        return tuple(replace(rest, head=state.after + rest.opening + rest.head) for rest in state.rests)
    return state.rests if isinstance(state, _Saying) else (_Rest(b"", state.tail, None),)


def _recent(text: bytes, watched: Iterable[bytes]) -> bytes:
    """The longest end of a text that one of `watched` begins with."""
    longest = max(map(len, watched)) - 1
    ends = (text[len(text) - n :] for n in range(min(longest, len(text)), 0, -1))
    return next((end for end in ends if any(one.startswith(end) for one in watched)), b"")


_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level BPE writes as themselves
_BYTES = {chr(byte): byte for byte in _SHOWN} | {
    chr(256 + place): byte for place, byte in enumerate(byte for byte in range(256) if byte not in _SHOWN)
}


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """What each token adds to a text that is not empty; b"" for special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else json.loads(backend.to_str()).get("decoder")
    byte_level = "ByteLevel" in json.dumps(decoder)
    added = tokenizer.added_tokens_decoder
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    before = len(tokenizer.decode([anchor]))
    found = []
    for token, name in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        if token in added:
            found.append(b"" if added[token].special else added[token].content.encode())
        elif byte_level:
            found.append(bytes(_BYTES[character] for character in name or "" if character in _BYTES))
        elif match := _BYTE.fullmatch(name or ""):
            found.append(bytes([int(match[1], 16)]))
        else:
            found.append(tokenizer.decode([anchor, token])[before:].encode())
    return found
