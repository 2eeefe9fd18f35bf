"""The GPU benchmark: without a GPU it says so; everything but the GPU is run small on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # as for a script that is run there

import gpu  # noqa: E402
import weight_parts  # noqa: E402

START = ROOT / "agents" / "opid_agents" / "starts" / "tiny-alfworld"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([])
    assert capsys.readouterr().out == "no GPU: nothing was measured\n"


def test_both_models_are_measured_small_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight_parts.split(START, tmp_path / "parts", 2**18)
    gpu.main(["--device", "cpu", "--tiny", "--iterations", "1", "--parts", str(tmp_path / "parts"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == []
    assert list(found["models"]) == ["SmolLM2-135M", "Qwen2.5-1.5B, random"]
    for model in found["models"].values():
        assert model["opid_over_grpo"] > 0
        assert 0 < model["opid"]["env_share"] < 1
        assert model["opid"]["rescored_tokens_a_second"] > 0
        assert model["grpo"]["rescored_tokens_a_second"] == 0
        assert model["grpo"]["mfu/update"] > 0
        assert model["vllm"].keys() <= {"missing", "sampled_tokens_a_second", "over_ours"}
    gpu.show(found)
    assert "Qwen2.5-1.5B, random, opid" in capsys.readouterr().out


def test_what_there_is_no_time_for_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--tiny", "--minutes", "0", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert "Qwen2.5-1.5B, random: opid" in found["left_out"]
    assert found["models"]["SmolLM2-135M"] == {}


def test_parts_are_small_and_joined_they_are_the_folder(tmp_path: Path) -> None:
    source, parts = tmp_path / "source", tmp_path / "parts"
    source.mkdir()
    (source / "model.safetensors").write_bytes(bytes(range(256)) * 50)
    (source / "empty.json").write_bytes(b"")
    weight_parts.split(source, parts, 1000)
    assert sum(part.name.startswith("model.safetensors.") for part in parts.iterdir()) == 13
    assert all(part.stat().st_size <= 1000 for part in parts.iterdir() if part.name != "parts.json")
    weight_parts.join(parts, tmp_path / "whole")
    for file in source.iterdir():
        assert (tmp_path / "whole" / file.name).read_bytes() == file.read_bytes()
    (parts / "model.safetensors.001").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"model.safetensors, joined from the parts"):
        weight_parts.join(parts, tmp_path / "again")
