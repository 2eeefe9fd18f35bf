"""Tiny random models of today's architectures, made from their configurations."""

from __future__ import annotations

from typing import Any

import torch
from opid_agents.policy import Policy
from opid_agents.tokenizer import train_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from tests.agents.models import WORLD_TEXT

_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
_GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
_WINDOW: dict[str, Any] = {"sliding_window": 8}
_MIXED: dict[str, Any] = _WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}

# model_type, or model_type/variant -> what differs from `_COMMON`; GPT-2's relatives have names of their own.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": _WINDOW,
    "mixtral": _WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen2/window": _WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma": {},
    "gemma2": _MIXED | {"query_pre_attn_scalar": 8},
    "gemma3_text": _MIXED | {"query_pre_attn_scalar": 8},
    "phi": {},
    "phi3": _WINDOW,
    "gpt_oss": _MIXED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo": {},
    "olmo2": {},
    "olmo3": _MIXED,
    "smollm3": {},
    "granite": {},
    "cohere": {},
    "cohere2": _MIXED,
    "starcoder2": _WINDOW,
    "stablelm": {},
    "glm": {"partial_rotary_factor": 0.5},
    "glm4": {"partial_rotary_factor": 0.5},
    "nemotron": {},
    "ernie4_5": {},
    "exaone4": _MIXED,
    "helium": {},
    "seed_oss": {},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "head_dim": None,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
    "gpt_neox": {},
    "persimmon": {},
    "apertus": {},
    "arcee": {},
    "hunyuan_v1_dense": {},
    "minimax": {},
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 4},
    "gpt_bigcode": _GPT,
    "codegen": _GPT | {"rotary_dim": 4},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 16},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"alibi": False, "head_dim": None},
    "falcon/alibi": {"alibi": True, "head_dim": None},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 8, "n_groups": 1, "chunk_size": 8},
    "jamba": {
        "num_hidden_layers": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 4,
    },
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "recurrent", "attention"],
        "attention_window_size": 16,
    },
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bamba": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_n_groups": 1,
        "attn_layer_indices": [1],
    },
    "llama4_text": {},
    "xglm": {},
    "biogpt": {},
    "ctrl": {},
    "bert": {"is_decoder": True},
}


def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(WORLD_TEXT, 400)


def make_model(name: str, vocabulary: int, **options: Any) -> Any:
    """The tiny model called `name`, the same every time."""
    own = ARCHITECTURES[name]
    base = {} if own.keys() & _GPT.keys() - {"initializer_range"} else _COMMON
    config = AutoConfig.for_model(
        name.split("/")[0],
        vocab_size=vocabulary,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        **{key: value for key, value in (base | own).items() if value is not None},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, **options)


def make_policy(name: str) -> Policy:
    words = tokenizer()
    return Policy(make_model(name, len(words)), words)
