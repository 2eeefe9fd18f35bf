"""Our own engine: samples from the model that is trained, in this process, and computes no token twice.

Rows of a batch have their own lengths (`opid_agents.sampling.kv_cache`), equal prompts are run once, prompts of very
different lengths are run apart, and what was computed for a game's last prompt is kept for its next one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from opid_agents.packing import buckets
from opid_agents.policy import Policy, require_numbers
from opid_agents.sampling.constraints import Constraint, Walk, blocked
from opid_agents.sampling.kv_cache import PrefixCache, RaggedCache
from opid_agents.sampling.sampler import Samples, SamplingParams, check_room, seeds_for
from opid_agents.streams import uniforms

# What moving a cached token to a batch of its own and back costs, in tokens computed by a model whose `even_length` is
# 1: a core makes about ten operations in the time it copies a byte.
_MOVING = 40.0


class HFSampler:
    """A `opid_agents.sampling.sampler.Sampler` on the Hugging Face model of a policy.

    Args:
        policy: whose model is sampled from; always its present weights.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._cache = PrefixCache()

    def sync(self) -> None:
        """Forget what the former weights computed. Optional: changed weights are noticed."""
        self._cache.clear()

    def close(self) -> None:
        """Give back the memory of the cache."""
        self._cache.clear()

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seeds: Sequence[int] | None = None,
        keys: Sequence[Hashable] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Samples:
        """As `opid_agents.sampling.sampler.Sampler.sample`."""
        check_room(prompts, params, self.policy.context)
        if not prompts:
            return Samples([], [], [])
        seeds = seeds_for(prompts, seeds)
        out = Samples([[] for _ in prompts], [[] for _ in prompts], [False] * len(prompts))
        given = [None] * len(prompts) if constraints is None else constraints
        walks = [None if one is None else Walk(one, self.policy.vocabulary, params.max_tokens) for one in given]
        if self.policy.shortcuts.cache:
            cache = PrefixCache() if keys is None else self._cache
            ragged = _Ragged(self.policy, cache, prompts, range(len(prompts)) if keys is None else keys)
            self._decode(ragged, list(range(len(prompts))), params, seeds, walks, out)
        else:
            for places in _equally_long(prompts):
                alike = _Alike(self.policy, [prompts[i] for i in places])
                self._decode(alike, places, params, seeds, walks, out)
        return out

    def _decode(
        self,
        batch: _Batch,
        active: list[int],
        params: SamplingParams,
        seeds: Sequence[int],
        walks: Sequence[Walk | None],
        out: Samples,
    ) -> None:
        """Sample token after token for the prompts at `active`, the rows of `batch`, until all replies have ended."""
        ends = _Ends(self.policy, params)
        replies, temperature = out.reply_ids, params.temperature
        points = _points([seeds[i] for i in active], params, self.policy.device)
        logits = batch.start()
        for count in range(1, params.max_tokens + 1):
            walking = [None if out.ended[i] else walks[i] for i in active]
            logits = _constrained(logits.float() / (temperature or 1.0), walking)
            scores = torch.log_softmax(logits, dim=-1)
            chosen = _draw(scores, points[:, count - 1]) if temperature else scores.argmax(-1, keepdim=True)
            picked = scores.gather(1, chosen)[:, 0]
            require_numbers(picked)
            values = picked.tolist()
            going = []
            for place, (i, token) in enumerate(zip(active, chosen[:, 0].tolist(), strict=True)):
                if out.ended[i]:
                    continue  # it is only carried along
                replies[i].append(token)
                out.log_probs[i].append(values[place])
                if (walk := walks[i]) is None:
                    out.ended[i] = ends.reached(replies[i])
                else:
                    walk.add(token)
                    out.ended[i] = walk.finished
                if not out.ended[i]:
                    going.append(place)
            if not going or count == params.max_tokens:
                return
            if 2 * len(going) <= len(active) and batch.keep(going):
                active = [active[place] for place in going]
                points = points[going]
            logits = batch.go_on([[] if out.ended[i] else replies[i][-1:] for i in active])


class _Batch(Protocol):
    """Rows that grow together."""

    def start(self) -> Tensor:
        """Logits ``[rows, vocabulary]`` at the end of the prompts."""

    def go_on(self, fresh: Sequence[Sequence[int]]) -> Tensor:
        """Logits after one more token in each row, or none in rows that have ended (whose logits mean nothing)."""

    def keep(self, places: Sequence[int]) -> bool:
        """Go on with some rows only; False: that is not possible, all stay."""


class _Ragged:
    """Rows of any length, in a cache of ours."""

    def __init__(
        self, policy: Policy, cache: PrefixCache, prompts: Sequence[Sequence[int]], keys: Sequence[Hashable]
    ) -> None:
        self._policy = policy
        self._cache = cache
        self._prompts = prompts
        self._lengths = cache.open(policy.model, keys, prompts)
        self._store = cache.store
        self._whole = True  # whether the rows still are the cache's own

    def start(self) -> Tensor:
        prompts, known = self._prompts, self._lengths
        fresh = [prompt[n:] for prompt, n in zip(prompts, known, strict=True)]
        # A group's rollouts begin with equal prompts, and some go on alike for a while.
        first, index = _equal(prompts, known)
        longest = max(map(len, prompts))
        saved = (sum(map(len, fresh)) - sum(len(fresh[i]) for i in first)) * (1 + longest / self._policy.even_length)
        if saved <= (len(prompts) * self._moving(longest) if any(known) else 0):
            return self.go_on(fresh)
        once = self._store.select(first)
        logits = self._next_logits(once, [fresh[i] for i in first], [known[i] for i in first])
        self._cache.store = self._store = once.select(index)
        self._cache.ids = [list(prompt) for prompt in prompts]
        self._lengths = list(map(len, prompts))
        return logits[index]

    def go_on(self, fresh: Sequence[Sequence[int]]) -> Tensor:
        logits = self._next_logits(self._store, fresh, self._lengths)
        self._note(fresh)
        return logits

    def keep(self, places: Sequence[int]) -> bool:
        # The cache keeps what it has of the others; it only knows fewer of their tokens.
        self._store = self._store.select(places)
        self._lengths = [self._lengths[place] for place in places]
        self._whole = False
        return True

    def _note(self, fresh: Sequence[Sequence[int]]) -> None:
        self._lengths = [n + len(ids) for n, ids in zip(self._lengths, fresh, strict=True)]
        if self._whole:
            for known, ids in zip(self._cache.ids, fresh, strict=True):
                known += ids

    def _moving(self, longest: int) -> float:
        """What taking rows out of the cache and putting them back costs, in computed tokens a row."""
        return _MOVING * longest / self._policy.even_length

    def _next_logits(self, store: RaggedCache, fresh: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        """Rows of very different lengths are run apart from each other, so that none is padded to the longest."""
        moving = self._moving(max(n + len(ids) for n, ids in zip(lengths, fresh, strict=True)))
        # Rows that have ended may fill a part of their own: there is nothing to run.
        parts = [part for part in buckets([len(ids) for ids in fresh], moving) if any(fresh[i] for i in part)]
        if len(parts) == 1 and len(parts[0]) == len(fresh):
            return self._policy.extend(store, fresh, lengths)
        logits: Tensor | None = None
        for rows in parts:
            part = store.select(rows)
            out = self._policy.extend(part, [fresh[i] for i in rows], [lengths[i] for i in rows])
            store.put(part, rows)
            logits = out.new_zeros(len(fresh), out.shape[1]) if logits is None else logits
            logits[rows] = out
        assert logits is not None
        return logits


class _Alike:
    """Rows of one length with the model's own cache: for models that cannot have rows of unlike length in one.

    Where that is not exact either, everything is run anew for each token.
    """

    def __init__(self, policy: Policy, prompts: Sequence[Sequence[int]]) -> None:
        self._policy = policy
        self._ids = torch.tensor([list(prompt) for prompt in prompts], device=policy.device)
        self._past: Any = None

    def start(self) -> Tensor:
        return self._run(self._ids)

    def go_on(self, fresh: Sequence[Sequence[int]]) -> Tensor:
        new = torch.tensor([list(ids) or [self._policy.filler] for ids in fresh], device=self._policy.device)
        self._ids = torch.cat([self._ids, new], dim=1)
        return self._run(new if self._policy.shortcuts.own_cache else self._ids)

    def keep(self, places: Sequence[int]) -> bool:
        return False

    def _run(self, ids: Tensor) -> Tensor:
        logits, past = self._policy.run_alike(ids, self._past)
        if self._policy.shortcuts.own_cache:
            self._past = past
        return logits


def _equal(prompts: Sequence[Sequence[int]], known: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which of equal prompts is run: of each kind the one with most known tokens, and the kind of each prompt."""
    kinds: dict[tuple[int, ...], int] = {}
    index = [kinds.setdefault(tuple(prompt), len(kinds)) for prompt in prompts]
    first: dict[int, int] = {}
    for i, kind in enumerate(index):
        if kind not in first or known[i] > known[first[kind]]:
            first[kind] = i
    return [first[kind] for kind in range(len(kinds))], index


def _equally_long(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of the prompts, those of equal length together."""
    places: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(len(prompt), []).append(i)
    return list(places.values())


class _Ends:
    """Whether a growing reply is at its end."""

    def __init__(self, policy: Policy, params: SamplingParams) -> None:
        own = policy.end_ids if params.stop_token_ids is None else params.stop_token_ids
        self._tokens = own | policy.tokens_containing(params.stop)
        self._tokenizer = policy.tokenizer
        # A text of one byte stands in one token. A longer one may be spread over as many tokens as it has bytes; one
        # token more, because some tokenizers drop the space before the first word that they decode.
        self._texts = [text for text in params.stop if len(text.encode("utf-8", "replace")) > 1]
        self._tail = 1 + max((len(text.encode("utf-8", "replace")) for text in self._texts), default=0)

    def reached(self, reply: list[int]) -> bool:
        """Whether `reply`, which had not ended one token before, has ended now."""
        if reply[-1] in self._tokens:
            return True
        if not self._texts:
            return False
        text = self._tokenizer.decode(reply[-self._tail :])
        return any(stop in text for stop in self._texts)


def _constrained(logits: Tensor, walks: Sequence[Walk | None]) -> Tensor:
    if not any(walks):
        return logits
    masks = [None if walk is None else walk.allowed() for walk in walks]
    return logits.masked_fill_(blocked(masks, logits.shape[1], logits.device), -torch.inf)


def _points(seeds: Sequence[int], params: SamplingParams, device: torch.device) -> Tensor:
    """The random number of each token that the replies may have, ``[replies, max_tokens]`` in [0, 1)."""
    count = params.max_tokens if params.temperature else 0
    return torch.from_numpy(uniforms(seeds, count)).to(device)


def _draw(log_probs: Tensor, points: Tensor) -> Tensor:
    """One token a row by inversion: one random number each, where `torch.multinomial` draws one for every word."""
    cumulative = log_probs.double().exp().cumsum(-1)
    # "right" passes over tokens of probability 0; the point is below the total, so the result is a token.
    return torch.searchsorted(cumulative, points[:, None] * cumulative[:, -1:], right=True).clamp(
        max=cumulative.shape[1] - 1
    )
