"""The shape of a decoder-only model, and what follows from it: weights, operations and bytes a token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from opid_agents.policy import find_model
from opid_agents.recipes.recipe import Recipe, RecipeError
from opid_agents.starts import bundled_start

_PUBLISHED = Path(__file__).parent / "models.json"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama-like decoder: grouped queries, a gated MLP, no biases to speak of.

    Attributes:
        hidden: width.
        layers: depth.
        heads, kv_heads, head_size: of attention: heads of queries, heads of keys and values, numbers in a head.
        mlp: width of the MLPs.
        vocabulary: tokens.
        tied: the output embedding is the input's.

    >>> ModelShape(2048, 36, 16, 2, 128, 11008, 151936, tied=True).weights  # Qwen2.5-3B has 3.09 billion
    3085697024
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocabulary: int
    tied: bool = True

    @property
    def body(self) -> int:
        """Weights that every token passes: all but the embeddings."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def head(self) -> int:
        """Weights of the output embedding, which only tokens with a logit pass."""
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        """All weights."""
        return self.body + self.head * (1 if self.tied else 2)

    @property
    def even_length(self) -> float:
        """Length at which attending to a sequence costs a token as much as the weights (`opid_agents.packing`)."""
        return 2 * self.body / (4 * self.layers * self.heads * self.head_size)

    def flops(self, tokens: float, pairs: float, logits: float) -> float:
        """Operations of a forward pass.

        Args:
            tokens: that pass the layers.
            pairs: of a query and a key, n^2 / 2 for a causal sequence of n tokens.
            logits: tokens that pass the output embedding.
        """
        attention = 4 * self.layers * self.heads * self.head_size * pairs
        return 2 * self.body * tokens + attention + 2 * self.head * logits

    def cache_bytes(self, bytes_each: int) -> int:
        """Bytes of keys and values that a token keeps, with numbers of `bytes_each` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_size * bytes_each

    def activation_bytes(self, bytes_each: int) -> int:
        """Bytes a token that all layers keep for the gradient, without checkpointing.

        In each layer: what goes into its two norms, four projections and two residuals, queries, keys, values and what
        attention gives, three tensors of the MLP's width, and float32 copies inside the norms.
        """
        wide = 4 * self.hidden + 2 * self.head_size * (self.heads + self.kv_heads) + 4 * self.mlp
        return self.layers * (wide * bytes_each + 2 * 4 * self.hidden)


def shape_of(recipe: Recipe) -> tuple[ModelShape, str]:
    """The shape of a recipe's model, and where it is known from.

    It is read from the model's folder; of a model that is not on this machine, from a table of published shapes.

    Raises:
        RecipeError: the model is neither here nor in the table.
    """
    model = recipe.model
    path = model.path or bundled_start(recipe)
    source = str(model.path) if model.path else "the start that comes with the recipe"
    if path is None:
        shape = ModelShape(
            model.hidden_size,
            model.layers,
            model.heads,
            model.heads,
            model.hidden_size // model.heads,
            model.mlp_size,
            model.vocabulary,
        )
        return shape, "the recipe"
    try:
        folder = find_model(path)
    except ValueError:
        published: dict[str, dict[str, Any]] = json.loads(_PUBLISHED.read_text(encoding="utf-8"))
        if str(path) not in published:
            raise RecipeError(
                f"model.path={str(path)!r} is not on this machine, and its shape is not known; allowed: a folder, or "
                f"one of {', '.join(sorted(published))}"
            ) from None
        return ModelShape(**published[str(path)]), "published shapes"
    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config(decoder=True)
    heads = config.num_attention_heads
    shape = ModelShape(
        config.hidden_size,
        config.num_hidden_layers,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        config.vocab_size,
        bool(config.tie_word_embeddings),
    )
    return shape, source
