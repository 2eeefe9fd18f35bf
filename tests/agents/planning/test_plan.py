"""Plans against what models really compute and keep, and against an iteration that is really run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from opid_agents.planning.command import plan
from opid_agents.planning.estimate import memory_of
from opid_agents.planning.machine import gpu
from opid_agents.planning.plan import make_plan
from opid_agents.planning.shape import ModelShape, shape_of
from opid_agents.planning.workload import StandIn, sample_here
from opid_agents.policy import Policy
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import RecipeError, change
from opid_agents.starts import bundled_start
from opid_agents.training.batch import step_samples
from opid_agents.training.run import Run
from opid_agents.training.stages import extract, rescore, roll_out, route
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from tests.agents.models import tiny_qwen3

SMALL = change(
    get_recipe("tiny-alfworld"),
    {
        "threads": 1,
        "tasks_per_iteration": 4,
        "group_size": 4,
        "world.max_episode_steps": 10,
        "train_uniform_groups": True,
    },
)
PAPER = get_recipe("paper-alfworld")


def llama(**options) -> LlamaForCausalLM:
    """Grouped queries, an MLP of a usual width, and a vocabulary that does not outweigh all else."""
    config = LlamaConfig(
        vocab_size=300, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=384, max_position_embeddings=512, tie_word_embeddings=True, **options,
    )  # fmt: skip
    return LlamaForCausalLM(config)


LLAMA = ModelShape(128, 3, 4, 2, 32, 384, 300)


def test_weights_are_counted_but_for_the_norms(tmp_path: Path) -> None:
    policy = tiny_qwen3()
    policy.save(tmp_path)
    shape, source = shape_of(change(SMALL, {"model.path": str(tmp_path)}))
    assert source == str(tmp_path)
    matrices = sum(p.numel() for p in policy.model.parameters() if p.ndim == 2)
    assert shape.weights == matrices
    assert shape.even_length == pytest.approx(policy.even_length, rel=0.02)


def test_operations_are_those_that_torch_counts() -> None:
    model = llama(attn_implementation="eager")
    ids = torch.randint(300, (2, 50))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    assert counter.get_total_flops() == pytest.approx(LLAMA.flops(100, 2 * 50**2, 100), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_what_autograd_keeps(dtype: torch.dtype) -> None:
    model = llama(attn_implementation="sdpa").to(dtype).model
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = 200
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(input_ids=torch.randint(300, (1, tokens)), use_cache=False).last_hidden_state
    assert hidden.requires_grad
    found = LLAMA.activation_bytes(dtype.itemsize) * tokens
    assert found == pytest.approx(sum(kept.values()), rel=0.25)


def test_a_published_model_needs_no_folder_and_an_unknown_one_is_refused() -> None:
    shape, source = shape_of(PAPER)
    assert source == "published shapes"
    assert shape.weights == pytest.approx(3.09e9, rel=0.01)
    with pytest.raises(RecipeError, match=r"model.path='Some/Model' is not on this machine.*Qwen/Qwen2.5-3B-Instruct"):
        shape_of(change(PAPER, {"model.path": "Some/Model"}))
    with pytest.raises(ValueError, match="unknown GPU 'h101'; did you mean 'h100'"):
        gpu("h101", 1, shape)


def test_paper_alfworld_on_eight_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    plan(["group_size=2"], recipe="paper-alfworld", gpus=8, gpu="h100", as_json=True)
    made = json.loads(capsys.readouterr().out)
    assert made["machine"] == "8 x NVIDIA H100 SXM 80 GB"
    assert set(made["seconds"]) == {"roll out", "extract and route", "re-score", "update", "evaluate"}
    assert made["total_hours"] == pytest.approx(made["iteration_seconds"] * 160 * 8 / 3600)
    assert made["tokens"]["reply"] == pytest.approx(256 * 32 * 30, rel=0.1)  # as assumed: replies of half the limit
    assert 0 < made["tokens"]["trained"] <= made["tokens"]["prompt"] + made["tokens"]["reply"]
    assert any("assumed, not measured" in sentence for sentence in made["assumptions"])
    assert any("analyzer" in sentence for sentence in made["assumptions"])


def test_memory_is_weights_gradients_moments_and_copies_and_is_divided_where_it_does_not_fit() -> None:
    recipe = change(PAPER, {"group_size": 2, "loss.kl_coef": 0.0})
    shape, _ = shape_of(recipe)
    work = sample_here(recipe, shape)
    one, eight = gpu("a100", 1, shape), gpu("a100", 8, shape)
    whole = memory_of(recipe, shape, work, one, shard=False)
    stays = sum(whole[name] for name in ("weights", "gradients", "optimizer", "frozen copies"))
    assert stays == 18 * shape.weights  # 2 bytes, float32 gradients and copies, two moments
    divided = memory_of(recipe, shape, work, eight, shard=True)
    assert divided["optimizer"] == whole["optimizer"] / 8
    assert divided["whole weights for playing"] == whole["weights"]
    adapters = memory_of(change(recipe, {"lora.rank": 32}), shape, work, one, shard=False)
    assert adapters["weights"] == whole["weights"]
    assert adapters["optimizer"] < 0.05 * whole["optimizer"]
    big = change(recipe, {"model.path": "Qwen/Qwen2.5-7B-Instruct"})
    assert make_plan(big, gpus=1, kind="a100").fits is False
    found = make_plan(big, gpus=8, kind="a100")
    assert (found.parallel, found.fits) == ("shard", True)


def test_a_plan_for_this_cpu_knows_the_tokens_of_a_real_iteration(tmp_path: Path) -> None:
    made = make_plan(SMALL, gpus=0)
    policy = Policy.load(bundled_start(SMALL))
    with Run.open(SMALL, tmp_path, policy=policy) as run:
        trajectories = roll_out(run, 1)
        skills, _ = extract(run, trajectories, 1)
        batch = rescore(run, route(run, trajectories, skills, 1), 1)
    samples = step_samples(trajectories)
    assert made.tokens["reply"] == pytest.approx(sum(len(s.reply_ids) for s in samples), rel=0.3)
    assert made.tokens["prompt"] == pytest.approx(sum(len(s.prompt_ids) for s in samples), rel=0.3)
    assert made.tokens["rescored"] == pytest.approx(batch.teacher.rescored_tokens, rel=0.5)
    assert made.fits is None
    assert all(value > 0 for value in made.seconds.values())
    with pytest.raises(RecipeError, match="an iteration is as short as a calibration"):
        make_plan(change(SMALL, {"tasks_per_iteration": 2}), gpus=0)


def test_the_stand_in_counts_like_a_tokenizer_of_small_words() -> None:
    text = "You arrive at desk 1. On the desk 1, you see a pen 1."
    assert len(StandIn().encode(text)) == 20
