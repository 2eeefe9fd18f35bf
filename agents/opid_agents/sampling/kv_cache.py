"""Keys and values of many games, each with its own length, kept between the steps of an episode.

A prompt that begins with the tokens of the prompt before it needs only its new tokens computed. Rows are
left-aligned and their lengths differ, which Hugging Face's own caches cannot express; position ids and a
four-dimensional mask, both made here, make it exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from transformers import Cache

from opid_agents.packing import common_prefix

_GROWTH = 128  # capacity grows in steps: every growth copies


class RaggedCache(Cache):
    """What Hugging Face's attention layers call back; `positions` must be set before each forward pass.

    Attributes:
        positions: ``[rows, tokens]``, where the tokens of the coming pass stand in their rows.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.positions: Tensor = torch.zeros(rows, 0, dtype=torch.long)
        self._places: Tensor = torch.zeros(rows, 1, dtype=torch.long)  # each row's number
        self._width = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def expect(self, positions: Tensor) -> Tensor:
        """Announce a pass over tokens at `positions`; returns its bool attention mask ``[rows, 1, tokens, width]``."""
        self.positions = positions
        self._places = torch.arange(self.rows, device=positions.device)[:, None]
        self._width = int(positions.max()) + 1
        return torch.arange(self._width, device=positions.device) <= positions[:, None, :, None]

    def distance(self) -> Tensor:
        """How many positions each key stands before each token of the announced pass, ``[rows, 1, tokens, width]``."""
        return self.positions[:, None, :, None] - torch.arange(self._width, device=self.positions.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values ``[rows, heads, tokens, size]``; return all up to the longest row."""
        if layer_idx == len(self._keys):
            self._keys.append(key_states.new_zeros(*key_states.shape[:2], 0, key_states.shape[3]))
            self._values.append(value_states.new_zeros(*value_states.shape[:2], 0, value_states.shape[3]))
        return (
            self._write(self._keys, layer_idx, key_states),
            self._write(self._values, layer_idx, value_states),
        )

    def _write(self, buffers: list[Tensor], layer: int, new: Tensor) -> Tensor:
        buffer = buffers[layer] = _grown(buffers[layer], self._width)
        buffer[self._places, :, self.positions] = new.transpose(1, 2)
        return buffer[:, :, : self._width]

    def select(self, rows: Sequence[int]) -> RaggedCache:
        """A copy that holds only `rows`, in that order."""
        chosen = RaggedCache(len(rows))
        if self._keys:
            index = torch.tensor(rows, device=self._keys[0].device)
            used = _capacity(self._width + 1)  # with room for what comes, so that the next token need not copy again
            chosen._width = self._width
            chosen._keys = [buffer[:, :, :used].index_select(0, index) for buffer in self._keys]
            chosen._values = [buffer[:, :, :used].index_select(0, index) for buffer in self._values]
        return chosen

    def put(self, part: RaggedCache, rows: Sequence[int]) -> None:
        """Write back what `select` gave for `rows`, with the tokens that came to it since."""
        self._width = max(self._width, part._width)
        if not self._keys:
            for mine, theirs in ((self._keys, part._keys), (self._values, part._values)):
                mine += [b.new_zeros(self.rows, b.shape[1], _capacity(self._width), b.shape[3]) for b in theirs]
        index = torch.tensor(rows, device=self._keys[0].device)
        for mine, theirs in ((self._keys, part._keys), (self._values, part._values)):
            for layer, buffer in enumerate(theirs):
                mine[layer] = _grown(mine[layer], self._width)
                mine[layer][index, :, : part._width] = buffer[:, :, : part._width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Asked by models that were given no positions; they always are."""
        return 0


def _capacity(width: int) -> int:
    return -(-width // _GROWTH) * _GROWTH


def _grown(buffer: Tensor, width: int) -> Tensor:
    if buffer.shape[2] >= width:
        return buffer
    grown = buffer.new_zeros(*buffer.shape[:2], _capacity(width), buffer.shape[3])
    grown[:, :, : buffer.shape[2]] = buffer
    return grown


class PrefixCache:
    """Remembers, by key (a game's number), which tokens have been computed.

    It forgets everything as soon as a weight of the model changes.
    """

    def __init__(self) -> None:
        self.keys: list[Hashable] = []
        self.ids: list[list[int]] = []
        self.store = RaggedCache(0)
        self._weights: tuple[int, ...] = ()

    def open(self, model: torch.nn.Module, keys: Sequence[Hashable], prompts: Sequence[Sequence[int]]) -> list[int]:
        """Arrange the rows as `keys`; returns how many leading tokens of each prompt are known (never all of them)."""
        # In-place updates, as every optimizer and `load_state_dict` makes them, count up a tensor's version.
        weights = tuple(p._version for p in model.parameters())
        if weights != self._weights:
            self.clear()
            self._weights = weights
        keys = list(keys)
        if keys != self.keys:
            place = {key: i for i, key in enumerate(self.keys)}
            kept = [place.get(key, -1) for key in keys]
            if self.keys and any(i >= 0 for i in kept):
                self.store = self.store.select([max(i, 0) for i in kept])
            else:
                self.store = RaggedCache(len(keys))
            self.ids = [self.ids[i] if i >= 0 else [] for i in kept]
            self.keys = keys
        shared = [
            min(common_prefix(ids, prompt), len(prompt) - 1) for ids, prompt in zip(self.ids, prompts, strict=True)
        ]
        self.ids = [ids[:n] for ids, n in zip(self.ids, shared, strict=True)]
        return shared

    def clear(self) -> None:
        """Forget everything."""
        self.keys, self.ids, self.store = [], [], RaggedCache(0)
