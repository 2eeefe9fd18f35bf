"""A policy: a causal language model with its tokenizer, loaded, saved and scored without waste.

Log-probabilities are those of the distribution that is sampled from: logits divided by the temperature, then
softmax. `Policy.score`, `Policy.log_probs` and the samplers of `opid_agents.sampling` agree on this, so the
log-probabilities that come with a sample are its `old` log-probabilities and need no second pass.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from jaxtyping import Float
from jinja2 import TemplateError
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from opid_agents.algorithms.distributions import Distribution, entropy
from opid_agents.attention import attention_masks, branch_masks, text_config, window
from opid_agents.lora import ADAPTER_CONFIG, LoraSettings, add_lora, has_lora, load_lora, merged, without_lora
from opid_agents.packing import Row, batches, pack, share
from opid_agents.sampling.constraints import Masks, TokenMask, Vocabulary, blocked
from opid_agents.sampling.kv_cache import RaggedCache
from opid_agents.selfcheck import Shortcuts, find_shortcuts
from opid_agents.tokenizer import LINE_BOUNDARIES
from opid_gym.files import replacing_folder

if TYPE_CHECKING:
    from opid_agents.sharding import Shards

T = TypeVar("T")

SETTINGS_FILE = "opid_agent.json"
_MOST_LOGITS = 2**26  # made at once: 256 MB in float32
_MARK = "\ufdd0"  # a code point that is no character and stands in no text
_KEPT_LINES = 50_000  # tokenized lines kept: the lines of a history come back in every prompt of an episode


@dataclass(frozen=True, slots=True)
class RowLogProbs:
    """Log-probabilities of the reply tokens of some rows, as flat vectors of n tokens.

    Attributes:
        log_probs: ``[n]``; carries a gradient unless computed without.
        entropies: ``[n]``, entropy of the distribution at each token, in nats; with gradient if that was asked for.
        sample, position: ``[n]``, which token of which sample each entry is.
        distribution: ``[n, V]``, log-probabilities of all tokens of the vocabulary; None: not asked for.
    """

    log_probs: Float[Tensor, " tokens"]
    entropies: Float[Tensor, " tokens"]
    sample: Tensor
    position: Tensor
    distribution: Float[Tensor, "tokens vocabulary"] | None = None


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Shape of a small Llama-architecture model made from scratch."""

    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    mlp_size: int = 256
    context: int = 1024


@dataclass(slots=True)
class Policy:
    """Holder of a Hugging Face causal language model and its tokenizer.

    What a model cannot do in a batch as it does alone is found out here (`opid_agents.selfcheck`), and then done alone.

    Args:
        model: any decoder-only causal language model.
        tokenizer: its tokenizer. If it has a chat template, prompts are wrapped as one user message.
        settings: whatever `save` should write beside the model, so that an agent can be rebuilt from the
            folder alone.
        max_tokens: maximum tokens of one forward pass without gradients, padding included.
        train_tokens: the same with gradients.
        mask_entries: maximum entries of the attention masks of one pass; rows that share a beginning need square ones.
        context_limit: longest sequence to be used; None: the longest that the model takes.
        gradient_checkpointing: keep only the layers' inputs for the gradient and compute the rest anew: a third more
            work for much less memory.

    Attributes:
        shards: how the model is divided among several processes; None: it is whole. See `shard`.
        shortcuts: what of a batch is exact for this model.
        filler: the token that padding is made of.
        even_length: length of a sequence at which attending to all of it costs a token as much as everything else
            (`opid_agents.packing.share`).

    Raises:
        ValueError: the model cannot be used; the message says why.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = 8192
    train_tokens: int = 4096
    mask_entries: int = 2**24
    context_limit: int | None = None
    gradient_checkpointing: bool = False
    shards: Shards | None = field(init=False, default=None)
    shortcuts: Shortcuts = field(init=False, default=Shortcuts())
    filler: int = field(init=False, repr=False)
    even_length: float = field(init=False, repr=False)
    _longest: int = field(init=False, repr=False)
    _head_apart: bool = field(init=False, repr=False)
    _line_ends_are_boundaries: bool = field(init=False, repr=False)
    _end_token: int | None = field(init=False, repr=False, default=None)
    _vocabulary: Vocabulary | None = field(init=False, repr=False, default=None)
    _lines: dict[str, list[int]] = field(init=False, repr=False, default_factory=dict)
    _containing: dict[tuple[str, ...], frozenset[int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.model.eval()
        kind = self.model.config.model_type
        if self.model.config.is_encoder_decoder:
            raise ValueError(f"{kind!r} is an encoder with a decoder; a decoder-only language model is needed")
        if self.gradient_checkpointing:
            self.checkpoint_layers()
        self.filler = int(self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)
        self._head_apart = _head_apart(self.model)
        self.even_length = _even_length(self.model)
        self._longest = _longest(self.model)
        self._line_ends_are_boundaries = bool(self.tokenizer.init_kwargs.get(LINE_BOUNDARIES))
        self.shortcuts = find_shortcuts(self)

    @classmethod
    def create(cls, tokenizer: PreTrainedTokenizerBase, size: ModelSize | None = None, *, seed: int = 0) -> Policy:
        """A small Llama-architecture model with random weights, the same for the same seed."""
        size = size or ModelSize()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden_size,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            intermediate_size=size.mlp_size,
            max_position_embeddings=size.context,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            # Hugging Face's 0.02 suits wide models; a narrow one starts much faster from the usual 1/sqrt(width).
            initializer_range=size.hidden_size**-0.5,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        return cls(model, tokenizer)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Policy:
        """Read a folder in Hugging Face format, written by `save` or by anyone else. Downloads nothing.

        Args:
            directory: a whole model, or LoRA adapters whose base is on this machine; or the name of a model of the
                Hugging Face hub that was downloaded before.
            device: where to put it; ``auto`` takes a GPU if there is one.
            dtype: of the weights (adapters stay float32).
            attn_implementation: ``eager``, ``sdpa``, ``flex_attention`` ...; None: transformers' choice for the model.
                ``flex_attention`` needs a GPU, and shares beginnings of rows without square masks.
            options: limits and gradient checkpointing, see `Policy`.

        Raises:
            ValueError: the folder is missing or holds no model, or the model cannot be used; the message names it.
        """
        path = find_model(directory)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        for how in ("is_local", "local_files_only"):  # how it was found is no part of it, and is not saved with it
            tokenizer.init_kwargs.pop(how, None)
        given: dict[str, Any] = {"dtype": getattr(torch, dtype)}
        if attn_implementation is not None:
            given["attn_implementation"] = attn_implementation
        if (path / ADAPTER_CONFIG).is_file():
            with quiet():
                model = load_lora(path, **given)
        else:
            model = load_model(path, **given)
        settings_file = path / SETTINGS_FILE
        settings = {}
        if settings_file.is_file():
            try:
                settings = json.loads(settings_file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{settings_file} is not JSON: {error}") from None
        return cls(model.to(_device(device)), tokenizer, settings, **options)

    def to(self, device: str) -> Policy:
        """Move the model; ``auto`` takes a GPU if there is one."""
        self.model.to(_device(device))
        return self

    def set_dtype(self, dtype: str) -> None:
        """Round the weights to another precision, ``float32`` or ``bfloat16``, and find out what is exact with it."""
        if self.model.dtype != getattr(torch, dtype):
            self.model.to(getattr(torch, dtype))
            self.shortcuts = find_shortcuts(self)

    def set_attention(self, implementation: str) -> None:
        """Compute attention in another way, see `load`, and find out what is exact with it.

        Raises:
            ValueError: the model cannot, or a package is missing.
        """
        if text_config(self.model)._attn_implementation == implementation:
            return
        refused = f"attn_implementation={implementation} is not possible with {self.model.config.model_type!r}"
        try:
            self.model.set_attn_implementation(implementation)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{refused}: {str(error).splitlines()[0][:300]}") from None
        if text_config(self.model)._attn_implementation != implementation:  # some only warn
            raise ValueError(f"{refused} once it is made; load it with it (Policy.load)")
        self.shortcuts = find_shortcuts(self)

    def checkpoint_layers(self) -> None:
        """Train with gradient checkpointing from now on, see `Policy`.

        Raises:
            ValueError: the model cannot.
        """
        _prepare_checkpointing(self.model)
        self.gradient_checkpointing = True

    def save(self, directory: str | Path, *, merge: bool = False) -> None:
        """Write model, tokenizer and settings in Hugging Face format (safetensors).

        Of a model with LoRA adapters only these are written, and the path of their base; `merge` writes one whole model
        instead. Of a divided model the first process writes the whole; the others must call this as well.
        """
        whole = self.model if self.shards is None else self.shards.whole_model()
        if whole is None:
            return  # another process writes
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        with quiet():
            (merged(whole) if merge and self.has_lora else whole).save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        text = json.dumps(self.settings, indent=2, ensure_ascii=False)
        (path / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        # safetensors makes its files readable for their owner alone.
        usual = (path / SETTINGS_FILE).stat().st_mode & 0o777
        for weights in path.glob("*.safetensors"):
            weights.chmod(usual)

    @property
    def has_lora(self) -> bool:
        """Whether LoRA adapters are trained instead of the weights."""
        return has_lora(self.model)

    def add_lora(self, settings: LoraSettings, base: str | Path, *, seed: int = 0) -> None:
        """Train adapters from now on; the weights as they are become the base.

        Args:
            settings: their shape.
            base: a folder that holds these very weights, or where they are written (and sealed,
                `opid_gym.files.seal`) if nothing is there. Saved adapters refer to it.
            seed: of the adapters' first numbers.

        Raises:
            ValueError: something else is in the folder, or the adapters do not work in the model.
        """
        path = Path(base).resolve()
        if path.exists() and any(path.iterdir()):
            find_model(path)
        else:
            with replacing_folder(path) as scratch:
                self.save(scratch)
        self.model.name_or_path = str(path)
        add_lora(self.model, settings, seed=seed)

    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that training changes; of a divided model this process's parts of them."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def whole(self, value: Tensor) -> Tensor:
        """A weight, gradient or norm, of a divided model put together from all processes."""
        return value if self.shards is None else value.full_tensor()  # type: ignore[attr-defined]

    def shard(self) -> None:
        """Divide the model among the processes (`opid_agents.sharding`); the optimizer is made after that.

        Raises:
            ValueError: this model cannot be divided.
        """
        from opid_agents.sharding import Shards

        self.shards = Shards.of(self.model)

    def exchange_gradients(self, now: bool) -> None:
        """Of a divided model: whether gradients are exchanged after the next pass, as they must be after the last."""
        if self.shards is not None:
            self.shards.exchange_gradients(now)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """For playing and scoring: within it, each process has all weights of a divided model."""
        with nullcontext() if self.shards is None else self.shards.gathered():
            yield

    def _compute(self, computation: Callable[[], T]) -> T:
        """What uses weights goes through here, because those of a divided model have to come together for it."""
        return computation() if self.shards is None else self.shards.compute(computation)

    def base_scores(
        self,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
        masks: Masks | None = None,
    ) -> list[list[float]]:
        """As `score`, by the model without its adapters."""
        with without_lora(self.model):
            return self.score(prompts, replies, temperature=temperature, masks=masks)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; the parts of a divided model are kept in float32."""
        return self.model.dtype if self.shards is None else self.shards.dtype

    @property
    def context(self) -> int:
        """The longest sequence that is used."""
        return self._longest if self.context_limit is None else min(self._longest, self.context_limit)

    def encode(self, prompt: str, template_arguments: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a prompt; wrapped as a user message if the tokenizer has a chat template. Never empty.

        Text that spells a special token, as an observation may, stays text.

        Args:
            prompt: what the user says.
            template_arguments: further arguments of the chat template, e.g. ``{"enable_thinking": False}`` of Qwen3's.
        """
        text = _whole_characters(prompt)
        if self.tokenizer.chat_template:
            text, spelled = self._mark_special(text)
            message = [{"role": "user", "content": text}]
            text = self.tokenizer.apply_chat_template(
                message, add_generation_prompt=True, tokenize=False, **(template_arguments or {})
            )
            return self._encode_marked(text, spelled)
        if self._line_ends_are_boundaries:
            *lines, last = text.split("\n")
            ids = [i for line in lines for i in self._line(line + "\n")] + self._line(last)
            return ids or [self.filler]
        text, spelled = self._mark_special(text)
        if spelled:
            begin = self.tokenizer("")["input_ids"][:1]  # the token that begins every text, if there is one
            return [*begin, *self._encode_marked(text, spelled)]
        return self.tokenizer(text)["input_ids"] or [self.filler]

    def _mark_special(self, text: str) -> tuple[str, list[str]]:
        """The text with a mark in place of each spelled special token, and what stood there."""
        if self.tokenizer.init_kwargs.get("split_special_tokens"):
            return text, []
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        if not any(token in text for token in special):
            return text, []
        pattern = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))
        text = text.replace(_MARK, "\ufffd")
        return pattern.sub(_MARK, text), pattern.findall(text)

    def _encode_marked(self, text: str, spelled: Sequence[str]) -> list[int]:
        """Tokens of a text in which marks stand for spelled special tokens, these as ordinary characters."""
        if not spelled:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids
        ids = []
        for piece, special in zip_longest(text.split(_MARK), spelled, fillvalue=""):
            ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
            if special:
                ids += self.tokenizer(special, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _line(self, line: str) -> list[int]:
        ids = self._lines.get(line)
        if ids is None:
            if len(self._lines) >= _KEPT_LINES:
                self._lines.clear()
            ids = self._lines[line] = self.tokenizer(line)["input_ids"]
        return ids

    def encode_reply(self, reply: str) -> list[int]:
        """Token ids of a reply as it continues a prompt: nothing is added."""
        ids: list[int] = self.tokenizer(_whole_characters(reply), add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    @property
    def end_ids(self) -> frozenset[int]:
        """The model's own end tokens: those of its generation settings, the tokenizer's, and the chat template's."""
        configured = self.model.generation_config.eos_token_id if self.model.generation_config else None
        own = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*own, self.tokenizer.eos_token_id, self.end_token] if i is not None)

    @property
    def end_token(self) -> int | None:
        """The token that ends a reply; None if there is none.

        It is what the chat template closes an assistant's turn with, else the tokenizer's end token.
        """
        if self._end_token is None:
            self._end_token = self._template_end()
        return self.tokenizer.eos_token_id if self._end_token < 0 else self._end_token

    def _template_end(self) -> int:
        """The first special token after an assistant's words in the chat template; -1 if there is none."""
        if not self.tokenizer.chat_template:
            return -1
        words = "Reply"
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": words}]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        except TemplateError:  # one that knows no assistant
            return -1
        after = self.tokenizer(text[text.rindex(words) + len(words) :], add_special_tokens=False)["input_ids"]
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return next((i for i in after if i in special), -1)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens by what they spell, for constrained decoding."""
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self.tokenizer)
        return self._vocabulary

    def tokens_containing(self, texts: Sequence[str]) -> frozenset[int]:
        """Every token whose own text contains one of `texts`."""
        key = tuple(texts)
        if not key:
            return frozenset()
        if key not in self._containing:
            words = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
            self._containing[key] = frozenset(i for i, word in enumerate(words) if any(text in word for text in key))
        return self._containing[key]

    def rows(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], *, max_tokens: int | None = None
    ) -> list[Row]:
        """Samples as rows for `log_probs`, nothing computed twice where that can be had for less.

        Args:
            prompts, replies: token ids.
            max_tokens: maximum tokens of a row that several samples share; None: `train_tokens`.
        """
        rows = pack(prompts, replies)
        if not self.shortcuts.branches:
            return rows
        longest = self.train_tokens if max_tokens is None else max_tokens
        return share(rows, self.even_length, min(longest, math.isqrt(int(min(self._max_mask, 2**62)))))

    def batches(self, rows: Sequence[Row], max_tokens: int | None = None) -> Iterator[list[Row]]:
        """Rows in batches for `log_probs`, each of at most `max_tokens` tokens (None: `train_tokens`).

        Only a single sample that is longer than that makes a longer pass.
        """
        longest = self.train_tokens if max_tokens is None else max_tokens
        return batches(rows, longest, max_mask=self._max_mask, padding=self.shortcuts.padding)

    @property
    def _max_mask(self) -> float:
        """Entries that masks may have; FlexAttention makes none."""
        flex = text_config(self.model)._attn_implementation == "flex_attention"
        return math.inf if flex else self.mask_entries

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
        masks: Masks | None = None,
    ) -> list[list[float]]:
        """Log-probability of each reply token after its prompt; nested and equal samples are computed once.

        Args:
            prompts, replies: token ids.
            temperature: logits are divided by it.
            masks: what each reply was constrained to when it was sampled (`opid_agents.sampling.constraints`); None:
                nothing was constrained.

        Raises:
            ValueError: a log-probability is not a number.
        """
        scored: list[list[float]] = [[0.0] * len(reply) for reply in replies]
        rows = self.rows(prompts, replies, max_tokens=self.max_tokens)
        for batch in self.batches(rows, self.max_tokens):
            out = self.log_probs(batch, temperature=temperature, masks=masks)
            require_numbers(out.log_probs)
            for i, position, value in zip(
                out.sample.tolist(), out.position.tolist(), out.log_probs.tolist(), strict=True
            ):
                scored[i][position] = value
        return scored

    @torch.no_grad()
    def distributions(
        self,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        masks: Masks | None = None,
    ) -> list[Distribution]:
        """The distribution at each token of each reply: all of it, or its `top_k` likeliest tokens.

        As much memory as the replies have tokens times `top_k` (the vocabulary's size); nothing more is kept.

        Raises:
            ValueError: a log-probability is not a number.
        """
        found: list[tuple[Tensor, Tensor, Distribution]] = []
        for batch in self.batches(self.rows(prompts, replies, max_tokens=self.max_tokens), self.max_tokens):
            out = self.log_probs(batch, temperature=temperature, distribution=True, masks=masks)
            require_numbers(out.log_probs)
            assert out.distribution is not None
            found.append((out.sample, out.position, Distribution.of(out.distribution, top_k)))
        wanted: list[Distribution] = []
        places = {}
        for part, (sample, position, _) in enumerate(found):
            for row, place in enumerate(zip(sample.tolist(), position.tolist(), strict=True)):
                places[place] = (part, row)
        for i, reply in enumerate(replies):
            if not len(reply):
                wanted.append(Distribution(torch.zeros(0, 0, device=self.device)))
                continue
            # All tokens of a sample are in one batch.
            part = places[i, 0][0]
            index = torch.tensor([places[i, t][1] for t in range(len(reply))], device=self.device)
            wanted.append(found[part][2].rows(index))
        return wanted

    def log_probs(
        self,
        rows: Sequence[Row],
        *,
        temperature: float = 1.0,
        entropy_gradient: bool = False,
        distribution: bool = False,
        masks: Masks | None = None,
    ) -> RowLogProbs:
        """Log-probabilities of the reply tokens of `rows` in one forward pass; with gradients unless switched off.

        Args:
            rows: see `rows` and `batches`.
            temperature: logits are divided by it.
            entropy_gradient: entropies carry their gradient, for a bonus; it costs memory for another ``[n, V]``.
            distribution: return whole distributions, too.
            masks: of each sample, see `score`.
        """
        entries = []
        for r, row in enumerate(rows):
            # A branch follows the trunk and not what stands before it in the row.
            follows = {branch.start: branch.after - 1 for branch in row.branches}
            entries += [
                (r, follows.get(place, place - 1), row.ids[place], span.sample, place - span.start)
                for span in row.spans
                for place in range(span.start, span.stop)
            ]
        row_index, before, target, sample, position = torch.tensor(entries, device=self.device).unbind(1)
        limits = None
        if masks is not None and any(masks[span.sample] is not None for row in rows for span in row.spans):
            limits = [_mask_at(masks[s], p) for *_, s, p in entries]

        def part(hidden: Tensor, target: Tensor, first: int) -> tuple[Tensor, ...]:
            logits = _at_least_float32(self.to_logits(hidden)) / temperature
            if limits is not None:
                out = blocked(limits[first : first + len(target)], logits.shape[1], logits.device)
                # Not minus infinity: 0 times that is no number, and an entropy has such terms.
                logits = logits.masked_fill(out, torch.finfo(logits.dtype).min)
            scores = torch.log_softmax(logits, dim=-1)
            with nullcontext() if entropy_gradient else torch.no_grad():
                entropies = entropy(scores)
            whole = (scores,) if distribution else ()
            return scores.gather(1, target[:, None])[:, 0], entropies, *whole

        found = self._compute(lambda: self._in_parts(part, self.run_rows(rows)[row_index, before], target))
        return RowLogProbs(found[0], found[1], sample, position, *found[2:])

    def _in_parts(self, part: Callable[..., tuple[Tensor, ...]], hidden: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Logits of a large vocabulary are made in parts and not kept."""
        size = max(1, _MOST_LOGITS // text_config(self.model).vocab_size)
        if len(target) <= size:
            return part(hidden, target, 0)
        parts = [
            checkpoint(part, h, t, n * size, use_reentrant=False) if torch.is_grad_enabled() else part(h, t, n * size)
            for n, (h, t) in enumerate(zip(hidden.split(size), target.split(size), strict=True))
        ]
        return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))

    def run_rows(self, rows: Sequence[Row]) -> Tensor:
        """One forward pass over rows, padded to one length; see `run` for what it returns."""
        width = max(len(row.ids) for row in rows)
        # Padding stands on the right, where causal attention cannot look at it.
        ids = torch.tensor([[*row.ids, *[self.filler] * (width - len(row.ids))] for row in rows], device=self.device)
        with self._checkpointed():
            return self.run(ids, **self._sight(rows, width), use_cache=False)

    def _sight(self, rows: Sequence[Row], width: int) -> dict[str, Any]:
        """Which tokens each token sees, and where it stands in its own sequence, as arguments of the model."""
        if not any(row.branches for row in rows):
            return {"attention_mask": torch.ones(len(rows), width, dtype=torch.long, device=self.device)}
        start = torch.zeros(len(rows), width, dtype=torch.long)
        after = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.arange(width).repeat(len(rows), 1)
        for r, row in enumerate(rows):
            for branch in row.branches:
                start[r, branch.start : branch.stop] = branch.start
                after[r, branch.start : branch.stop] = branch.after
                positions[r, branch.start : branch.stop] -= branch.start - branch.after
            # Padding's position must only be a valid one.
            positions[r, len(row.ids) :] = 0
        start, after, positions = (vector.to(self.device) for vector in (start, after, positions))
        return {"attention_mask": branch_masks(self.model, start, after, positions), "position_ids": positions}

    def extend(self, store: RaggedCache, fresh: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        """Run each row's `fresh` tokens after the first `lengths` ones in a cache.

        Args:
            store: its rows; gets the new tokens' keys and values.
            fresh: new tokens of each row; rows without any are only carried along.
            lengths: how many tokens of each row the cache holds.

        Returns:
            Logits ``[rows, vocabulary]`` at the end of each row.
        """
        return self._compute(lambda: self._extend(store, fresh, lengths))

    def _extend(self, store: RaggedCache, fresh: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        counts = torch.tensor([len(ids) for ids in fresh], device=self.device)
        width = int(counts.max())
        ids = torch.tensor([[*row, *[self.filler] * (width - len(row))] for row in fresh], device=self.device)
        starts = torch.tensor(list(lengths), device=self.device)
        # What padding writes stands behind the row's end, where nothing looks before real tokens replace it.
        positions = (starts[:, None] + torch.arange(width, device=self.device)).clamp(max=self.context - 1)
        last = (counts - 1).clamp(min=0)
        # Long prompts of many rows go in several passes, one stretch of tokens after the other.
        step = min(self.max_tokens, self.mask_entries // (width + max(lengths))) // len(fresh)
        ends: list[Tensor] = []
        order: list[Tensor] = []
        for first in range(0, width, max(1, step)):
            part = slice(first, first + max(1, step))
            seen = store.expect(positions[:, part])
            masks = attention_masks(self.model, seen, None if window(self.model) is None else store.distance())
            hidden = self.run(
                ids[:, part],
                attention_mask=masks,
                position_ids=positions[:, part],
                past_key_values=store,
                use_cache=True,
            )
            ending = ((last >= first) & (last < first + hidden.shape[1])).nonzero()[:, 0]
            ends.append(hidden[ending, last[ending] - first])
            order.append(ending)
        return self.to_logits(torch.cat(ends)[torch.cat(order).argsort()])

    def run_alike(self, ids: Tensor, past: Any = None) -> tuple[Tensor, Any]:
        """Run the tokens ``[rows, tokens]`` of rows that are equally long, with the model's own cache.

        Args:
            ids: new tokens.
            past: the cache of what stands before them.

        Returns:
            Logits ``[rows, vocabulary]`` at the end, and the cache; None if the model gives none back.
        """
        known = {} if past is None else {"past_key_values": past}
        out = self._compute(lambda: self._whole_model(input_ids=ids, use_cache=True, **known))
        return out.logits[:, -1], getattr(out, "past_key_values", None)

    @property
    def _whole_model(self) -> Callable[..., Any]:
        """The model as a function, to be called within `_compute`; a divided one is not to come together twice."""
        return self.model if self.shards is None else self.model.forward

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        """Within it, layers keep nothing but their inputs for the gradient, if the policy is set so."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            yield
            return
        # Layers look at their own mode only; what is inside them stays in evaluation mode, without dropout.
        layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def run(self, ids: Tensor, **inputs: Any) -> Tensor:
        """One forward pass over token ids ``[rows, tokens]``.

        Returns:
            What `to_logits` makes logits of: hidden states, or the logits themselves where a model does more after
            its last hidden state than to multiply it by the output embedding.
        """
        if self._head_apart:
            return self.model.base_model(input_ids=ids, **inputs).last_hidden_state
        return self._whole_model(input_ids=ids, **inputs).logits

    def to_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary of some of the vectors that `run` returned."""
        return self.model.get_output_embeddings()(hidden) if self._head_apart else hidden


def require_numbers(log_probs: Tensor) -> None:
    """Check log-probabilities.

    Raises:
        ValueError: one is not a number.
    """
    if bool(log_probs.isnan().any()):
        raise ValueError("the model's log-probabilities are not numbers (NaN): its weights are damaged")


def find_model(name: str | Path) -> Path:
    """The folder of a model: `name` itself, or where the hub's model of that name was downloaded to.

    Raises:
        ValueError: neither is there.
    """
    path = Path(name)
    if any((path / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
        return path.resolve()
    if not path.exists() and str(name).count("/") == 1:
        try:
            return Path(snapshot_download(str(name), local_files_only=True))
        except (OSError, ValueError):
            raise ValueError(
                f"no model {str(name)!r}: neither a folder nor downloaded from the hub (hf download {name}); "
                "give the folder of another one with model.path=DIR"
            ) from None
    raise ValueError(f"no model in {str(name)!r}: a folder with a config.json in Hugging Face format is needed")


def load_model(path: Path, **options: Any) -> PreTrainedModel:
    """The causal language model in a folder.

    Args:
        path: in Hugging Face format.
        options: of ``from_pretrained``.

    Raises:
        ValueError: there is no such model in it, or an option does not suit it.
    """
    try:
        with quiet():
            return AutoModelForCausalLM.from_pretrained(path, local_files_only=True, **options)
    except (ImportError, KeyError, OSError, ValueError) as error:
        # Hugging Face's own message may list hundreds of classes after its first sentence.
        reason = str(error).split("\n")[0].removesuffix("Model type should be one of")[:300]
        raise ValueError(f"the model in {str(path)!r} cannot be loaded as a causal language model: {reason}") from None


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars, which would tear up ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _head_apart(model: PreTrainedModel) -> bool:
    """Whether logits are just the output embedding of the last hidden state, and can be had for some positions only."""
    head = model.get_output_embeddings()
    if head is None:
        return False
    ids = torch.tensor([[0, 1]], device=model.device)
    with torch.no_grad():
        try:
            whole = model(input_ids=ids).logits
            apart = head(model.base_model(input_ids=ids).last_hidden_state)
        except Exception:  # what does not run at all is refused by the self-check, with a reason
            return False
    return bool(torch.equal(whole, apart))


def _prepare_checkpointing(model: PreTrainedModel) -> None:
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"gradient checkpointing is not possible with {model.config.model_type!r}")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # Some layers have dropout of their own, which looks at the mode that checkpointing looks at.
            for name, value in vars(layer).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(layer, name, 0.0)


def _longest(model: PreTrainedModel) -> int:
    """Tokens of the longest sequence that a model takes."""
    config = text_config(model)
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**20)


def _even_length(model: PreTrainedModel) -> float:
    """Length of a sequence at which attending to all of it costs a token as much as everything else (`packing.share`).

    A weight costs 2 operations a token, and a score in one layer 4 for each number of a query: two for the score, two
    for the sum of values.
    """
    config = text_config(model)
    head = model.get_output_embeddings()  # is run for reply tokens only
    left_out = [module for module in model.modules() if isinstance(module, torch.nn.Embedding) or module is head]
    ids = {id(module.weight) for module in left_out}
    # Adapters are left out too: how rows are joined must not change when they are put in.
    weights = sum(p.numel() for name, p in model.named_parameters() if id(p) not in ids and ".lora_" not in name)
    heads = getattr(config, "num_attention_heads", None) or 1  # there are models without any
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * weights / (4 * config.num_hidden_layers * heads * head_size)


def _mask_at(masks: Sequence[TokenMask] | None, position: int) -> TokenMask | None:
    return None if masks is None else masks[position]


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _whole_characters(text: str) -> str:
    """Replace lone surrogates (half a character), which tokenizers refuse."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
