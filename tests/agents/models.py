"""Tiny models and worlds made on the spot, so that nothing is downloaded and nothing is slow."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.skills.extract import Extraction, Skills
from opid_agents.tokenizer import train_tokenizer
from opid_agents.training import loop
from opid_agents.training.run import Run
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
    """Grouped queries and normalised queries and keys; with `window` some layers see only that number of tokens."""
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


def plain_log_probs(policy: Policy, prompt: list[int], reply: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Of the reply's tokens, the plain way: one unpadded sequence through the whole model."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)]


def passes(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the token matrices that models are run on from now on."""
    seen: list[tuple[int, ...]] = []
    run = Policy.run

    def counted(self: Policy, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        seen.append(tuple(ids.shape))
        return run(self, ids, **inputs)

    monkeypatch.setattr(Policy, "run", counted)
    return seen


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
            "warm_start.read_steps=5",
            "warm_start.check_every=30",
            "warm_start.check_tasks=4",
            "iterations=3",
            "tasks_per_iteration=3",
            "group_size=4",
            "evaluation.tasks=4",
            "pictures=false",
            *changes,
        ],
    )


def train(recipe: Recipe, out: Path, *, policy: Policy | None = None, resume: bool = False, watch=None) -> Policy:
    """A run without the evaluation at its end."""
    with Run.open(recipe, out, policy=policy, resume=resume, watch=watch) as run:
        return loop.train(run)


class Critic:
    """An extractor that has something to say about every episode, even of a policy that only stammers."""

    NAME = "skills.extractor=tests.agents.models:Critic"

    def __init__(self, recipe: Recipe) -> None:
        self.skills = Skills("seen", "look in new places", {1: "look"})

    def extract_all(self, groups, wanted=lambda trajectory: True) -> Extraction:
        return Extraction([[self.skills if wanted(t) else None for t in group] for group in groups])
