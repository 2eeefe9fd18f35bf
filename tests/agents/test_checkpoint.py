import json

import pytest
import torch
from opid_agents.learning.checkpoint import (
    Progress,
    latest_checkpoint,
    load_optimizer,
    load_progress,
    save_checkpoint,
    stream,
)
from opid_agents.learning.records import RunFolder
from opid_agents.policy import Policy

from tests.agents.models import tiny_llama, tiny_recipe


def trained():
    policy = tiny_llama()
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.1)
    policy.score([[3]], [[4]])
    sum((p**2).sum() for p in policy.model.parameters()).backward()
    optimizer.step()
    return policy, optimizer


def test_everything_comes_back(tmp_path):
    policy, optimizer = trained()
    progress = Progress(iteration=3, episodes=24, env_steps=200, skipped_updates=2, skipped_in_a_row=1, written=9)
    saved = save_checkpoint(tmp_path, policy, optimizer, progress)
    assert latest_checkpoint(tmp_path) == saved
    assert load_progress(saved) == progress
    again = Policy.load(saved)
    for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = torch.optim.AdamW(again.model.parameters(), lr=0.5)
    load_optimizer(saved, fresh)
    assert fresh.param_groups[0]["lr"] == 0.1
    for a, b in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])


def test_two_are_kept_and_the_newest_is_found(tmp_path):
    policy, optimizer = trained()
    for iteration in (1, 2, 9, 10):
        save_checkpoint(tmp_path, policy, optimizer, Progress(iteration=iteration))
    assert load_progress(latest_checkpoint(tmp_path)).iteration == 10
    assert len(list(tmp_path.iterdir())) == 2


def test_one_that_was_never_finished_does_not_count(tmp_path, monkeypatch):
    policy, optimizer = trained()
    save_checkpoint(tmp_path, policy, optimizer, Progress(iteration=1))
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, policy, optimizer, Progress(iteration=2))
    assert load_progress(latest_checkpoint(tmp_path)).iteration == 1


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_streams_differ_by_every_name_and_are_the_same_everywhere():
    assert len({stream(0, "a", 1), stream(0, "a", 2), stream(0, "b", 1), stream(1, "a", 1)}) == 4
    assert stream(0, "rollout", 1) == stream(0, "rollout", 1)
    assert 0 <= stream("x") < 2**56


def test_lines_after_the_checkpoint_and_torn_lines_are_forgotten(tmp_path):
    folder = RunFolder.open(tmp_path, tiny_recipe(), resume=False)
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n{"iterat')
    (tmp_path / "trajectories.jsonl").write_text('{"metadata": {"iteration": 2}}\n{"metadata": {"iteration": 3}}\n')
    folder.forget_after(Progress(iteration=2))
    assert [json.loads(line)["iteration"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 2]
    assert len((tmp_path / "trajectories.jsonl").read_text().splitlines()) == 1


def test_a_folder_belongs_to_one_recipe(tmp_path):
    RunFolder.open(tmp_path, tiny_recipe("skills.clip=2"), resume=False)
    folder = RunFolder.open(tmp_path, tiny_recipe(), resume=False)  # nothing had begun there
    folder.write_metrics({"iteration": 1})
    with pytest.raises(ValueError, match="holds a run already; resume it"):
        RunFolder.open(tmp_path, tiny_recipe(), resume=False)
    with pytest.raises(ValueError, match=r"another recipe: skills.clip was None and is 2.0"):
        RunFolder.open(tmp_path, tiny_recipe("skills.clip=2"), resume=True)
    RunFolder.open(tmp_path, tiny_recipe("iterations=9"), resume=True)
