"""Our games under TRL's own GRPO trainer: a model that calls the tool plays, and is paid by the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from opid_gym.interop.trl import text_games
from tests.corridor import Corridor  # noqa: F401  (registers itself)

trl = pytest.importorskip("trl", reason="trl is not installed")
CORRIDOR = {"lengths": [2], "max_episode_steps": 3}


def test_a_game_is_played_through_its_tool() -> None:
    make = text_games("tests/Corridor-v0", **CORRIDOR)
    first, second = make(), make()
    assert first.reset() == "Your task: walk 2 to the right\n\nYou are at 0.\nYou can: left, right"
    second.reset(task_id="walk-2", prompt="another column")
    assert first.act("right") == "You are at 1.\nYou can: left, right"
    assert second.act("left") == "You are at -1.\nYou can: left, right"
    assert first.act("right") == "You are at 2.\nThe episode is over."
    assert first.act("right") == "The episode is over."
    assert (first.get_reward(), second.get_reward()) == (1.0, 0.0)
    first.reset()
    assert first.get_reward() == 0.0


def test_trls_trainer_makes_plays_and_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    import datasets
    from opid_agents.tokenizer import train_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    make = text_games("tests/Corridor-v0", lengths=[1], max_episode_steps=3)
    call = '<tool_call>\n{"name": "act", "arguments": {"action": "right"}}\n</tool_call>'
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    tokenizer: Any = train_tokenizer([call, template], 300)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                intermediate_size=128, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
            )
        )  # fmt: skip
        # A model that has learned one thing: to call the tool when it is its turn.
        game = make()
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Play.{game.reset()}"}],
            tools=[game.act],
            tokenize=False,
            add_generation_prompt=True,
        )
        asked, reply = tokenizer.encode(prompt), tokenizer.encode(call + "<|im_end|>")
        ids = torch.tensor([asked + reply])
        labels = torch.tensor([[-100] * len(asked) + reply])
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    rewards: list[float] = []

    def watch(environments: list[Any], **columns: Any) -> list[float]:
        rewards.extend(game.get_reward() for game in environments)
        return [0.0] * len(environments)

    trainer = trl.GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "Play."}]}] * 2),
        environment_factory=make,
        reward_funcs=watch,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, num_generations=2,
            max_completion_length=200, max_tool_calling_iterations=3, report_to=[], use_cpu=True, save_strategy="no",
            temperature=0.2, disable_tqdm=True,
        ),
    )  # fmt: skip
    trainer.train()
    assert rewards
    assert max(rewards) == 1.0
