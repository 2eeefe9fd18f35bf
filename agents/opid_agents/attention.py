"""What each token of a pass may see, in the form that a model's attention takes.

A model that looks at everything before a token takes one mask. One with *sliding windows* takes a narrower mask in some
layers or in all: Hugging Face's models accept ready-made masks, and then leave the window to who made them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

_FULL, _SLIDING = "full_attention", "sliding_attention"


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of the language model, which in a model of several kinds of input is a part of the whole."""
    return model.config.get_text_config(decoder=True)


def layer_types(model: PreTrainedModel) -> set[str]:
    """Kinds of layers that the configuration names; empty: it names none."""
    return set(getattr(text_config(model), "layer_types", None) or ())


def window(model: PreTrainedModel) -> int | None:
    """How many tokens a layer with a sliding window sees, the current one included; None: there are no such layers."""
    config, types = text_config(model), layer_types(model)
    if types and _SLIDING not in types:
        return None
    return getattr(config, "sliding_window", None)


def attention_masks(model: PreTrainedModel, seen: Tensor, distance: Tensor | None) -> Tensor | dict[str, Tensor]:
    """Masks for a forward pass, as numbers to add to attention scores: every attention takes these, fastest on CPU.

    Args:
        model: which layers there are.
        seen: bool ``[rows, 1, queries, keys]``, what a token may see if no window limits it.
        distance: ``[rows, 1, queries, keys]``, how many positions a key stands before its query; needed where
            `window` is not None.
    """
    whole = _added(seen, model.dtype)
    size = window(model)
    if size is None:
        return whole
    assert distance is not None
    narrow = _added(seen & (distance < size), model.dtype)
    types = layer_types(model)
    return {kind: narrow if kind == _SLIDING else whole for kind in types} if types else narrow


def branch_masks(model: PreTrainedModel, start: Tensor, after: Tensor, positions: Tensor) -> Any:
    """Masks of rows with branches (`opid_agents.packing`), as the model's attention takes them.

    A token sees the first `after` tokens of its row, and those from `start` up to itself. With FlexAttention
    (``attn_implementation="flex_attention"``) that rule goes to the kernel as it is, and no square mask is ever made.

    Args:
        model: which layers and which attention there are.
        start, after: ``[rows, tokens]``.
        positions: ``[rows, tokens]``, of each token in its own sequence.
    """
    size = window(model)
    if text_config(model)._attn_implementation == "flex_attention":
        kinds = {None: None} if size is None else dict.fromkeys(layer_types(model) or {_SLIDING})
        masks = {
            kind: _block_mask(start, after, positions, size if kind == _SLIDING else None, model.device)
            for kind in kinds
        }
        return masks if layer_types(model) and size is not None else next(iter(masks.values()))
    place = torch.arange(start.shape[1], device=start.device)
    seen = (place <= place[:, None]) & ((place < after[..., None]) | (place >= start[..., None]))
    distance = None if size is None else (positions[..., None] - positions[:, None, :])[:, None]
    return attention_masks(model, seen[:, None], distance)


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)


def _block_mask(start: Tensor, after: Tensor, positions: Tensor, size: int | None, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key <= query) & ((key < after[row, query]) | (key >= start[row, query]))
        return own if size is None else own & (positions[row, query] - positions[row, key] < size)

    rows, width = start.shape
    return create_block_mask(seen, rows, None, width, width, device=device)
