"""LoRA (arXiv 2106.09685) by `peft`: a few trained numbers beside frozen weights.

With the adapters switched off the model is its base again, so a KL term needs no second model. Folders hold either the
adapters alone, which name their base by its path, or everything merged, which any program can load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from opid_agents.attention import text_config
from opid_gym.named import missing_extra

ADAPTER_CONFIG = "adapter_config.json"
_WRAPPERS = re.compile(r"(\.base_layer)+\.")
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Shape of the adapters.

    Attributes:
        rank: of each adapter.
        alpha: an adapter's output counts ``alpha / rank`` times.
        targets: names of the layers that get one, or ``all-linear``.
    """

    rank: int = 16
    alpha: float = 32
    targets: str | tuple[str, ...] = "all-linear"


def add_lora(model: PreTrainedModel, settings: LoraSettings, *, seed: int = 0) -> None:
    """Freeze `model` and put adapters in, the same for the same seed; they start without any effect.

    Raises:
        ValueError: the model has adapters already, `peft` is missing, or the targets are none of its layers.
    """
    if has_lora(model):
        raise ValueError("the model has LoRA adapters already")
    peft = _peft()
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model.add_adapter(config)
            _logits(model)
        except Exception as error:  # some layers do more than their weight says, and fail with an adapter around it
            raise ValueError(
                f"adapters do not work in {model.config.model_type!r} with targets {settings.targets!r} ({error}); "
                "name other layers"
            ) from None
    _prepare(model)


def has_lora(model: PreTrainedModel) -> bool:
    """Whether there are adapters in it."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def lora_rank(model: PreTrainedModel) -> int:
    """The largest rank of its adapters."""
    return max(weight.shape[0] for name, weight in model.named_parameters() if ".lora_A" in name)


@contextmanager
def without_lora(model: PreTrainedModel) -> Iterator[None]:
    """The base model, as long as this lasts."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def load_lora(directory: Path, **options: Any) -> PreTrainedModel:
    """The base model that an adapter folder names, with the adapters in it and ready to be trained on.

    Raises:
        ValueError: the base is not where the folder says, or `peft` is missing.
    """
    _peft()
    named = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    base = Path(named or "")
    if not named or not (base / "config.json").is_file():
        raise ValueError(f"the adapters in {str(directory)!r} belong to the model {named!r}, which is not there")
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, **options)
    model.load_adapter(str(directory), is_trainable=True)
    model.name_or_path = str(base)
    _prepare(model)
    # They were cast to the base's precision on the way in.
    saved = _read(directory)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(saved[name])
    return model


def is_untrained(directory: Path) -> bool:
    """Whether the adapters in a folder have no effect yet, so that their base is the policy itself."""
    if not (directory / _ADAPTER_WEIGHTS).is_file():
        return False
    return all(not bool(value.any()) for name, value in _read(directory).items() if "lora_B" in name)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model with the adapters added into the weights.

    Raises:
        ValueError: the copy is another model, because some layer uses its weight in a way of its own.
    """
    weights: dict[str, Tensor] = {
        _WRAPPERS.sub(".", name): value for name, value in model.state_dict().items() if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            # An adapter of a layer changes its weight; one of a bare parameter, e.g. of all experts at once, names it.
            key = _WRAPPERS.sub(".", f"{name}.{getattr(module, 'parameter_name', 'weight')}")
            delta = module.get_delta_weight(module.active_adapters[0])
            weights[key] = (weights[key].float() + delta.float()).to(weights[key].dtype)
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    plain.load_state_dict(weights)
    plain.generation_config = model.generation_config
    plain.to(model.device).eval()
    # As far apart as rounding in this precision goes; wrong adapters change logits by much more.
    expected, found = _logits(model), _logits(plain)
    if not torch.allclose(found, expected, atol=64 * torch.finfo(model.dtype).eps * float(expected.abs().max())):
        raise ValueError(
            f"adapters of {model.config.model_type!r} cannot be merged exactly: a layer uses its weight in its own "
            "way; save the adapters alone, or put them into other layers"
        )
    return plain


def _read(directory: Path) -> dict[str, Tensor]:
    """The saved adapters by the names of the model's parameters."""
    weights = load_file(directory / _ADAPTER_WEIGHTS)
    return {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): value
        for name, value in weights.items()
    }


@torch.no_grad()
def _logits(model: PreTrainedModel) -> Tensor:
    ids = torch.arange(8, device=model.device)[None] % text_config(model).vocab_size
    logits: Tensor = model(input_ids=ids).logits.float()
    return logits


def _prepare(model: PreTrainedModel) -> None:
    # Small steps would vanish in the rounding of bfloat16, so what is trained is float32 whatever the base is.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.eval()


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise missing_extra("LoRA", "peft", "lora") from None
    return peft
