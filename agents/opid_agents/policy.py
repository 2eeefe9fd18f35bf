"""A policy: a causal language model with its tokenizer, sampled from and scored without waste.

Log-probabilities are those of the distribution that is sampled from: logits divided by the temperature, then
softmax. `Policy.sample`, `Policy.score` and `Policy.log_probs` agree on this, so the log-probabilities that come
with a sample are its `old` log-probabilities and need no second pass.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import snapshot_download
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from opid_agents.kv_cache import PrefixCache, RaggedCache
from opid_agents.lora import ADAPTER_CONFIG, LoraSettings, add_lora, has_lora, load_lora, merged, without_lora
from opid_agents.packing import Row, batches, buckets, pack, share
from opid_agents.tokenizer import LINE_BOUNDARIES

SETTINGS_FILE = "opid_agent.json"
# What moving a cached token to a batch of its own and back costs, in tokens computed by a model whose `_even_length` is
# 1: a core makes about ten operations in the time it copies a byte.
_MOVING = 40.0
_KEPT_LINES = 50_000  # tokenized lines kept: the lines of a history come back in every prompt of an episode


@dataclass(frozen=True, slots=True)
class Samples:
    """Sampled replies: token ids, stop token included, and the log-probability of each token."""

    reply_ids: list[list[int]]
    log_probs: list[list[float]]


class Sampler(Protocol):
    """Replies to prompts, as `Policy.sample` gives them."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: frozenset[int] | None = None,
        cache: PrefixCache | None = None,
        keys: Sequence[Hashable] | None = None,
    ) -> Samples: ...


@dataclass(frozen=True, slots=True)
class RowLogProbs:
    """Log-probabilities of the reply tokens of some rows, as flat vectors of n tokens.

    Attributes:
        log_probs: ``[n]``; carries a gradient unless computed without.
        entropies: ``[n]``, entropy of the distribution at each token, in nats, without gradient.
        sample, position: ``[n]``, which token of which sample each entry is.
    """

    log_probs: Float[Tensor, " tokens"]
    entropies: Float[Tensor, " tokens"]
    sample: Tensor
    position: Tensor


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

    Args:
        model: any decoder-only causal LM with full attention in every layer.
        tokenizer: its tokenizer. If it has a chat template, prompts are wrapped as one user message.
        settings: whatever `save` should write beside the model, so that an agent can be rebuilt from the
            folder alone.
        max_tokens: how many tokens (with padding) one forward pass may hold when scoring.
        train_tokens: the same for passes with gradients.

    Raises:
        ValueError: the model has layers of another kind, e.g. with a sliding window.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = 8192
    train_tokens: int = 4096
    _head_apart: bool = field(init=False, repr=False)
    _filler: int = field(init=False, repr=False)
    _even: float = field(init=False, repr=False)
    _line_ends_are_boundaries: bool = field(init=False, repr=False)
    _lines: dict[str, list[int]] = field(init=False, repr=False, default_factory=dict)
    _stops: dict[tuple[str, ...], frozenset[int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.model.eval()
        config = self.model.config
        if others := sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"}):
            raise ValueError(
                f"only models with full attention can be used: {config.model_type!r} has layers of {', '.join(others)}"
            )
        self._head_apart = _head_apart(self.model)
        self._filler = int(self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)
        self._even = _even_length(self.model)
        self._line_ends_are_boundaries = bool(self.tokenizer.init_kwargs.get(LINE_BOUNDARIES))

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
    def load(cls, directory: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Policy:
        """Read a folder in Hugging Face format, written by `save` or by anyone else. Downloads nothing.

        Args:
            directory: a whole model, or LoRA adapters whose base is on this machine; or the name of a model of the
                Hugging Face hub that was downloaded before.
            device: where to put it; ``auto`` takes a GPU if there is one.
            dtype: of the weights (adapters stay float32).

        Raises:
            ValueError: the folder is missing or holds no model; the message names it.
        """
        path = find_model(directory)
        adapters = (path / ADAPTER_CONFIG).is_file()
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        with quiet():
            if adapters:
                model = load_lora(path, dtype=getattr(torch, dtype))
            else:
                model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=getattr(torch, dtype))
        settings_file = path / SETTINGS_FILE
        settings = {}
        if settings_file.is_file():
            try:
                settings = json.loads(settings_file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{settings_file} is not JSON: {error}") from None
        return cls(model, tokenizer, settings).to(device)

    def to(self, device: str) -> Policy:
        """Move the model; ``auto`` takes a GPU if there is one."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(device)
        return self

    def save(self, directory: str | Path, *, merge: bool = False) -> None:
        """Write model, tokenizer and settings in Hugging Face format (safetensors).

        Of a model with LoRA adapters only these are written, and the path of their base; `merge` writes one whole model
        instead.
        """
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        with quiet():
            (merged(self.model) if merge and self.has_lora else self.model).save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        text = json.dumps(self.settings, indent=2, ensure_ascii=False)
        (path / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")

    @property
    def has_lora(self) -> bool:
        """Whether LoRA adapters are trained instead of the weights."""
        return has_lora(self.model)

    def add_lora(self, settings: LoraSettings, base: str | Path, *, seed: int = 0) -> None:
        """Train adapters from now on; the weights as they are become the base.

        Args:
            settings: their shape.
            base: a folder that holds these very weights, or where they are written if nothing is there. Saved adapters
                refer to it.
            seed: of the adapters' first numbers.
        """
        path = Path(base).resolve()
        if not (path / "config.json").is_file():
            self.save(path)
        self.model.name_or_path = str(path)
        add_lora(self.model, settings, seed=seed)

    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that training changes."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def base_scores(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """As `score`, by the model without its adapters."""
        with without_lora(self.model):
            return self.score(prompts, replies, temperature=temperature)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def context(self) -> int:
        """The longest sequence the model takes."""
        config = self.model.config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**20)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt; wrapped as a user message if the tokenizer has a chat template. Never empty."""
        text = _whole_characters(prompt)
        if self.tokenizer.chat_template:
            message = [{"role": "user", "content": text}]
            text = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._line_ends_are_boundaries:
            *lines, last = text.split("\n")
            ids = [i for line in lines for i in self._line(line + "\n")] + self._line(last)
        else:
            ids = self.tokenizer(text)["input_ids"]
        return ids or [self._filler]

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

    def stop_ids(self, stop: Sequence[str] = ()) -> frozenset[int]:
        """Tokens that end a reply: the model's own end tokens, and every token whose text contains one of `stop`."""
        if tuple(stop) in self._stops:
            return self._stops[tuple(stop)]
        configured = self.model.generation_config.eos_token_id if self.model.generation_config else None
        own = configured if isinstance(configured, list) else [configured]
        ids = {i for i in [*own, self.tokenizer.eos_token_id] if i is not None}
        if stop:
            for i in range(len(self.tokenizer)):
                text = self.tokenizer.decode([i])
                if any(s in text for s in stop):
                    ids.add(i)
        self._stops[tuple(stop)] = frozenset(ids)
        return self._stops[tuple(stop)]

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: frozenset[int] | None = None,
        cache: PrefixCache | None = None,
        keys: Sequence[Hashable] | None = None,
    ) -> Samples:
        """Sample one reply to each prompt, all at once.

        Args:
            prompts: token ids, at least one each.
            max_new_tokens: a reply has at most so many tokens.
            temperature: 0 takes the likeliest token; the log-probabilities are then those at temperature 1.
            generator: source of randomness; None: torch's global one.
            stop: tokens that end a reply; None: `stop_ids()`.
            cache: remembers computed prefixes between calls; rows are found again by `keys`.
            keys: one for each prompt; None: their positions.

        Returns:
            Replies in the order of `prompts`.

        Raises:
            ValueError: an empty prompt, a prompt that leaves no room for the reply, or a number out of range.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
        if temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {temperature}")
        for i, prompt in enumerate(prompts):
            if not 1 <= len(prompt) <= self.context - max_new_tokens:
                raise ValueError(
                    f"prompt {i} has {len(prompt)} tokens; allowed: 1 to {self.context - max_new_tokens} "
                    f"(context {self.context} less max_new_tokens {max_new_tokens})"
                )
        if not prompts:
            return Samples([], [])
        stop = self.stop_ids() if stop is None else stop
        cache = PrefixCache() if cache is None else cache
        known = cache.open(self.model, range(len(prompts)) if keys is None else keys, prompts)
        logits = None if any(known) else self._first_logits(cache, prompts)
        store = cache.store
        active = list(range(len(prompts)))
        fresh = [list(prompt[n:]) for prompt, n in zip(prompts, known, strict=True)]
        lengths = list(known)
        kept = True  # whether `store` still is the cache's own
        replies: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        for _ in range(max_new_tokens):
            if logits is None:
                logits = self._next_logits(store, fresh, lengths)
            lengths = [n + len(ids) for n, ids in zip(lengths, fresh, strict=True)]
            if kept:
                for i, ids in zip(active, fresh, strict=True):
                    cache.ids[i] += ids
            scores = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
            chosen = _draw(scores, generator) if temperature else scores.argmax(-1, keepdim=True)
            values = scores.gather(1, chosen)[:, 0].tolist()
            logits = None
            going = []
            for place, (i, token) in enumerate(zip(active, chosen[:, 0].tolist(), strict=True)):
                if replies[i] and not fresh[place]:
                    continue  # it ended earlier and is only carried along
                replies[i].append(token)
                log_probs[i].append(values[place])
                if token not in stop:
                    going.append(place)
            if not going:
                break
            if 2 * len(going) <= len(active):
                # Finished rows leave. The cache keeps what it has of the others; it only knows fewer of their
                # tokens.
                store = store.select(going)
                kept = False
                active = [active[place] for place in going]
                lengths = [lengths[place] for place in going]
                fresh = [[replies[i][-1]] for i in active]
            else:
                still = set(going)
                fresh = [[replies[i][-1]] if place in still else [] for place, i in enumerate(active)]
        return Samples(replies, log_probs)

    def rows(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> list[Row]:
        """Samples as rows for `log_probs`, nothing computed twice where that can be had for less."""
        return share(pack(prompts, replies), self._even)

    @torch.no_grad()
    def score(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Log-probability of each reply token after its prompt; nested and equal samples are computed once."""
        scored: list[list[float]] = [[0.0] * len(reply) for reply in replies]
        for batch in batches(self.rows(prompts, replies), self.max_tokens):
            out = self.log_probs(batch, temperature=temperature)
            for i, position, value in zip(
                out.sample.tolist(), out.position.tolist(), out.log_probs.tolist(), strict=True
            ):
                scored[i][position] = value
        return scored

    def log_probs(self, rows: Sequence[Row], *, temperature: float = 1.0) -> RowLogProbs:
        """Log-probabilities of the reply tokens of `rows` in one forward pass; with gradients unless switched off."""
        width = max(len(row.ids) for row in rows)
        # Padding stands on the right, where causal attention cannot look at it.
        ids = torch.tensor([[*row.ids, *[self._filler] * (width - len(row.ids))] for row in rows], device=self.device)
        hidden = self._run(ids, **self._sight(rows, width))
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
        logits = self._to_logits(hidden[row_index, before]).float() / temperature
        scores = torch.log_softmax(logits, dim=-1)
        with torch.no_grad():
            entropies = -(scores.exp() * scores).sum(-1)
        return RowLogProbs(scores.gather(1, target[:, None])[:, 0], entropies, sample, position)

    def _sight(self, rows: Sequence[Row], width: int) -> dict[str, Tensor]:
        """Which tokens each token sees, and where it stands in its own sequence, as arguments of the model."""
        if not any(row.branches for row in rows):
            return {"attention_mask": torch.ones(len(rows), width, dtype=torch.long, device=self.device)}
        seen = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(rows), 1, 1)
        positions = torch.arange(width).repeat(len(rows), 1)
        for r, row in enumerate(rows):
            for branch in row.branches:
                seen[r, branch.start : branch.stop, branch.after : branch.start] = False
                positions[r, branch.start : branch.stop] -= branch.start - branch.after
            # Padding sees itself alone; its position must only be a valid one.
            positions[r, len(row.ids) :] = 0
        return {"attention_mask": self._added(seen[:, None].to(self.device)), "position_ids": positions.to(self.device)}

    def _added(self, seen: Tensor) -> Tensor:
        """A mask as numbers to add to attention scores; every attention takes it, and on CPU it is the fastest form."""
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(self.model.dtype).min)

    def _first_logits(self, cache: PrefixCache, prompts: Sequence[Sequence[int]]) -> Tensor | None:
        """Run equal prompts once, as a group's rollouts begin with them; None if all differ."""
        places: dict[tuple[int, ...], int] = {}
        index = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        if len(places) == len(prompts):
            return None
        once = RaggedCache(len(places))
        logits = self._next_logits(once, list(places), [0] * len(places))
        cache.store = once.select(index)
        return logits[index]

    def _next_logits(self, store: RaggedCache, fresh: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        """Run each row's `fresh` tokens after its first `lengths` ones; logits ``[rows, vocabulary]`` at the end.

        Rows of very different lengths are run apart from each other, so that none is padded to the longest.
        """
        # Taking rows out of the cache and putting them back costs as much as so many tokens a row.
        longest = max(n + len(ids) for n, ids in zip(lengths, fresh, strict=True))
        moving = _MOVING * longest / self._even
        parts = buckets([len(ids) for ids in fresh], moving)
        if len(parts) == 1:
            return self._run_fresh(store, fresh, lengths)
        logits: dict[int, Tensor] = {}
        for rows in parts:
            part = store.select(rows)
            out = self._run_fresh(part, [fresh[i] for i in rows], [lengths[i] for i in rows])
            store.put(part, rows)
            logits |= dict(zip(rows, out, strict=True))
        return torch.stack([logits[i] for i in range(len(fresh))])

    def _run_fresh(self, store: RaggedCache, fresh: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        counts = torch.tensor([len(ids) for ids in fresh], device=self.device)
        width = int(counts.max())
        ids = torch.tensor([[*row, *[self._filler] * (width - len(row))] for row in fresh], device=self.device)
        starts = torch.tensor(list(lengths), device=self.device)
        # What padding writes stands behind the row's end, where nothing looks before real tokens replace it.
        positions = (starts[:, None] + torch.arange(width, device=self.device)).clamp(max=self.context - 1)
        mask = self._added(store.expect(positions))
        hidden = self._run(ids, attention_mask=mask, position_ids=positions, past_key_values=store, use_cache=True)
        return self._to_logits(hidden[torch.arange(len(fresh), device=self.device), (counts - 1).clamp(min=0)])

    def _run(self, ids: Tensor, **inputs: Any) -> Tensor:
        """Hidden states, or logits at once where the two cannot be told apart: the head is then the identity."""
        if self._head_apart:
            return self.model.base_model(input_ids=ids, **inputs).last_hidden_state
        return self.model(input_ids=ids, **inputs).logits

    def _to_logits(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden) if self._head_apart else hidden


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
        whole = model(input_ids=ids).logits
        try:
            apart = head(model.base_model(input_ids=ids).last_hidden_state)
        except (AttributeError, TypeError):
            return False
    return bool(torch.equal(whole, apart))


def _even_length(model: PreTrainedModel) -> float:
    """Length of a sequence at which attending to all of it costs a token as much as everything else (`packing.share`).

    A weight costs 2 operations a token, and a score in one layer 4 for each number of a query: two for the score, two
    for the sum of values.
    """
    config = model.config
    head = model.get_output_embeddings()  # is run for reply tokens only
    left_out = [module for module in model.modules() if isinstance(module, torch.nn.Embedding) or module is head]
    ids = {id(module.weight) for module in left_out}
    # Adapters are left out too: how rows are joined must not change when they are put in.
    weights = sum(p.numel() for name, p in model.named_parameters() if id(p) not in ids and ".lora_" not in name)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * weights / (4 * config.num_hidden_layers * config.num_attention_heads * head_size)


def _draw(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """One token a row by inversion: one random number each, where `torch.multinomial` draws one for every word."""
    cumulative = log_probs.double().exp().cumsum(-1)
    point = torch.rand(len(cumulative), 1, dtype=torch.float64, device=cumulative.device, generator=generator)
    # "right" passes over tokens of probability 0; the point is below the total, so the result is a token.
    return torch.searchsorted(cumulative, point * cumulative[:, -1:], right=True).clamp(max=cumulative.shape[1] - 1)


def _whole_characters(text: str) -> str:
    """Replace lone surrogates (half a character), which tokenizers refuse."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
