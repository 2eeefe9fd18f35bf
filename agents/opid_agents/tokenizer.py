"""A byte-level BPE tokenizer trained on a world's own text, for small models trained from scratch.

A vocabulary of a few hundred tokens fits a small text world, and a small vocabulary is most of what makes a small
model fast. Every string survives a round trip, because the alphabet is all 256 bytes.

Newlines are tokens of their own and never merge with a neighbour. Tokenizing text that ends in a newline and then
more text is therefore the same as tokenizing both at once, so the prompt of one step, its reply and the prompt of
the next step are nested token sequences, which `opid_agents.policy` computes only once.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
# Key of the tokenizer's saved configuration that says that lines can be tokenized one by one.
LINE_BOUNDARIES = "line_boundaries"

# A word or a punctuation run with the space before it, each digit alone (numbers name instances: "door 12"), each
# newline alone.
_PIECES = r"\n|[^\S\n]?[\p{L}\p{M}]+|[^\S\n]?\p{N}|[^\S\n]?[^\s\p{L}\p{M}\p{N}]+|[^\S\n]+"
_SMALLEST = 256 + 2  # the byte alphabet and the two special tokens


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909) on `texts`.

    Args:
        texts: the world's text: observations, tasks, actions, and whatever else a prompt is made of.
        vocab_size: upper bound of the vocabulary; fewer tokens result if the texts hold fewer different words.

    Returns:
        A Hugging Face tokenizer. Text that spells a special token ("<|end|>") is encoded as plain characters.

    Raises:
        ValueError: `vocab_size` has no room for the 256 bytes.
    """
    if vocab_size < _SMALLEST:
        raise ValueError(f"vocab_size must be at least {_SMALLEST} (256 bytes and 2 special tokens), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **{LINE_BOUNDARIES: True},
    )
