import json

import pytest
import torch
from opid_agents.algorithms.optimizer import MasterAdamW, make_optimizer
from opid_agents.lora import LoraSettings, is_untrained
from opid_agents.packing import pack
from opid_agents.policy import Policy
from transformers import AutoModelForCausalLM

from tests.agents.models import random_prompts, tiny_llama, tiny_recipe, train

SHAPE = LoraSettings(rank=4, alpha=8)
PROMPTS, REPLIES = random_prompts(tiny_llama(), [9, 30]), [[5, 6], [7]]


@pytest.fixture
def adapted(tmp_path):
    policy = tiny_llama()
    policy.add_lora(SHAPE, tmp_path / "base")
    return policy


def train_a_little(policy):
    optimizer = make_optimizer(policy.trained(), learning_rate=0.05, weight_decay=0.0)
    for _ in range(3):
        policy.log_probs(pack(PROMPTS, REPLIES)).log_probs.sum().neg().backward()
        optimizer.step()
        optimizer.zero_grad()


def weights_of(policy):
    return {name: p.detach().clone() for name, p in policy.model.named_parameters()}


def test_only_adapters_are_trained_and_without_them_the_base_speaks(adapted):
    plain, before = tiny_llama().score(PROMPTS, REPLIES), weights_of(adapted)
    assert adapted.score(PROMPTS, REPLIES) == plain  # fresh adapters change nothing
    assert sum(p.numel() for p in adapted.trained()) < 0.5 * sum(p.numel() for p in adapted.model.parameters())
    train_a_little(adapted)
    changed = {name for name, p in weights_of(adapted).items() if not torch.equal(p, before[name])}
    assert changed
    assert all(".lora_" in name for name in changed)
    assert adapted.score(PROMPTS, REPLIES) != plain
    assert adapted.base_scores(PROMPTS, REPLIES) == plain
    assert adapted.score(PROMPTS, REPLIES) != plain  # they are back


def test_adapters_are_saved_alone_or_merged(adapted, tmp_path):
    adapted.save(tmp_path / "fresh")
    assert is_untrained(tmp_path / "fresh")
    train_a_little(adapted)
    wanted = adapted.score(PROMPTS, REPLIES)
    adapted.save(tmp_path / "adapters")
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    assert not is_untrained(tmp_path / "adapters")
    again = Policy.load(tmp_path / "adapters")
    assert again.has_lora
    assert again.score(PROMPTS, REPLIES) == wanted
    assert len(again.trained()) == len(adapted.trained())

    adapted.save(tmp_path / "whole", merge=True)
    whole = Policy.load(tmp_path / "whole")
    assert not whole.has_lora
    for merged, right in zip(whole.score(PROMPTS, REPLIES), wanted, strict=True):
        assert merged == pytest.approx(right, abs=1e-4)
    # Any program can read it, and the policy that was saved goes on as before.
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "whole").num_parameters() == tiny_llama().model.num_parameters()
    )
    assert adapted.score(PROMPTS, REPLIES) == wanted


def test_the_same_seed_gives_the_same_adapters(tmp_path):
    drawn = []
    for seed in (1, 1, 2):
        policy = tiny_llama()
        policy.add_lora(SHAPE, tmp_path / "base", seed=seed)
        drawn.append([p.detach().clone() for p in policy.trained()])
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))


def test_adapters_without_their_base_are_refused(adapted, tmp_path):
    adapted.save(tmp_path / "adapters")
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        adapted.add_lora(SHAPE, tmp_path / "base")
    (tmp_path / "base" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"adapters in '.*adapters' belong to the model '.*base', which is not there"):
        Policy.load(tmp_path / "adapters")


RUN = (
    "train_uniform_groups=true",
    "advantage.step_weight=0.1",
    "optimizer.learning_rate=1e-2",
    "loss.kl_coef=0.01",
    "lora.rank=4",
)
SHORT = ("iterations=2", "tasks_per_iteration=2", "group_size=2", "world.max_episode_steps=3")


def numbers(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{key: value for key, value in line.items() if not key.startswith("seconds/")} for line in lines]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_lora_run_is_the_unbroken_one_to_the_last_bit(tmp_path, dtype):
    recipe = tiny_recipe(*RUN, *SHORT, f"model.dtype={dtype}")
    first = recipe.model_copy(update={"iterations": 1})
    tiny_llama(context=512).save(tmp_path / "model")

    def start():
        return Policy.load(tmp_path / "model", dtype=dtype)

    train(recipe, tmp_path / "unbroken", policy=start())
    train(first, tmp_path / "broken", policy=start())
    train(recipe, tmp_path / "broken", resume=True)
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "unbroken")
    assert numbers(tmp_path / "unbroken")[-1]["train/ref_kl"] > 0
    last = "checkpoints/iteration-000002"
    a, b = (Policy.load(tmp_path / name / last, dtype=dtype) for name in ("broken", "unbroken"))
    for one, other in zip(a.trained(), b.trained(), strict=True):
        assert torch.equal(one, other)
    states = [torch.load(tmp_path / name / last / "optimizer.pt")["state"] for name in ("broken", "unbroken")]
    for key, state in states[0].items():
        assert all(torch.equal(state[name], states[1][key][name]) for name in ("exp_avg", "exp_avg_sq"))
    assert not Policy.load(tmp_path / "broken" / "model").has_lora


def test_low_precision_weights_keep_their_small_changes():
    policy = tiny_llama()
    policy.model.to(torch.bfloat16)
    optimizer = make_optimizer(policy.trained(), learning_rate=1e-5, weight_decay=0.0)
    assert isinstance(optimizer, MasterAdamW)
    before = [w.detach().clone() for w in policy.trained()]
    for _ in range(200):
        for weight in policy.trained():
            weight.grad = torch.ones_like(weight, dtype=torch.float32)  # as they are added up
        optimizer.step()
        optimizer.zero_grad()
    # 200 steps of 1e-5: each is below the rounding of most weights, their sum is not.
    moved = torch.cat(
        [(a.float() - b.detach().float()).flatten() for a, b in zip(before, policy.trained(), strict=True)]
    )
    assert float(moved.mean()) == pytest.approx(2e-3, rel=0.2)
    other = make_optimizer(policy.trained(), learning_rate=1.0, weight_decay=0.0)
    other.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(optimizer.masters, other.masters, strict=True))
    assert other.param_groups[0]["lr"] == 1e-5


def test_gradients_of_many_parts_are_added_up_in_float32():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    make_optimizer([weight], learning_rate=1e-3, weight_decay=0.0)
    for _ in range(1500):
        (weight * torch.tensor(1e-3, dtype=torch.bfloat16)).sum().backward()
    exact = 1500 * float(torch.tensor(1e-3, dtype=torch.bfloat16))
    assert weight.grad.tolist() == pytest.approx([exact] * 3, rel=1e-5)
