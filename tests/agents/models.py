"""Tiny models and worlds made on the spot, so that nothing is downloaded and nothing is slow."""

from __future__ import annotations

import random

import torch
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.tokenizer import train_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

WORLD_TEXT = [
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a drawer 2, and a shelf 10.",
    "You arrive at cabinet 1. The cabinet 1 is closed.\n> open cabinet 1\n",
    "You pick up the mug 1 from the shelf 10.\n> go to drawer 2\n",
    "task: put a mug in shelf\nplan: go to shelf\nnext: look\n>",
] * 5


def tiny_llama(seed: int = 0, context: int = 256) -> Policy:
    """Two layers, random weights; the distribution is far from uniform, so that mistakes show."""
    policy = Policy.create(train_tokenizer(WORLD_TEXT, 400), ModelSize(32, 2, 2, 32, context), seed=seed)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.5)
    return policy


def tiny_gpt2(seed: int = 0, context: int = 256) -> Policy:
    """Another architecture: learned positions, and attention that adds its mask."""
    tokenizer = train_tokenizer(WORLD_TEXT, 400)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    return Policy(model, tokenizer)


def tiny_qwen3(window: int | None = None) -> Policy:
    """Grouped queries and normalised queries and keys; with `window` some layers see only so many tokens."""
    tokenizer = train_tokenizer(WORLD_TEXT, 400)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=32,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        use_sliding_window=window is not None,
        sliding_window=window,
        max_window_layers=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    return Policy(model, tokenizer)


def random_prompts(policy: Policy, lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Prompts of random tokens."""
    rng = random.Random(seed)
    return [[rng.randrange(2, len(policy.tokenizer)) for _ in range(length)] for length in lengths]


def tiny_recipe(*changes: str) -> Recipe:
    """Seconds, not minutes."""
    return change(
        Recipe(name="test", threads=1),
        [
            'world.arguments={"size": "small"}',
            "world.max_episode_steps=6",
            "model.hidden_size=16",
            "model.layers=1",
            "model.heads=2",
            "model.mlp_size=16",
            "model.vocabulary=400",
            "warm_start.demonstrations=12",
            "warm_start.steps=30",
            "warm_start.short_steps=20",
            "warm_start.check_every=30",
            "warm_start.check_tasks=4",
            "iterations=3",
            "tasks=3",
            "rollouts=4",
            "eval_tasks=4",
            *changes,
        ],
    )
