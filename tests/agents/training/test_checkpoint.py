import json

import pytest
import torch
from opid_agents.policy import Policy
from opid_agents.training.checkpoint import (
    Progress,
    latest_checkpoint,
    load_optimizer,
    load_progress,
    save_checkpoint,
)
from opid_agents.training.run_folder import RunFolder

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
    saved = save_checkpoint(tmp_path, policy, optimizer, progress).path
    assert latest_checkpoint(tmp_path) == saved
    assert load_progress(saved) == progress
    again = Policy.load(saved)
    for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = torch.optim.AdamW(again.model.parameters(), lr=0.5)
    load_optimizer(saved, fresh, again)
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


def test_lines_after_the_checkpoint_and_torn_lines_are_forgotten(tmp_path):
    folder = RunFolder.open(tmp_path, tiny_recipe(), resume=False)
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n{"iterat')
    (tmp_path / "trajectories.jsonl").write_text('{"metadata": {"iteration": 2}}\n{"metadata": {"iteration": 3}}\n')
    folder.forget_after(Progress(iteration=2))
    assert [json.loads(line)["iteration"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 2]
    assert len((tmp_path / "trajectories.jsonl").read_text().splitlines()) == 1


def test_a_folder_belongs_to_one_recipe(tmp_path):
    RunFolder.open(tmp_path, tiny_recipe("advantage.clip=2"), resume=False)
    folder = RunFolder.open(tmp_path, tiny_recipe(), resume=False)  # nothing had begun there
    folder.write_metrics({"iteration": 1})
    with pytest.raises(ValueError, match="holds a run already; resume it"):
        RunFolder.open(tmp_path, tiny_recipe(), resume=False)
    with pytest.raises(ValueError, match=r"another recipe: advantage.clip was None and is 2.0"):
        RunFolder.open(tmp_path, tiny_recipe("advantage.clip=2"), resume=True)
    RunFolder.open(tmp_path, tiny_recipe("iterations=9"), resume=True)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_one_is_left_out_and_named_and_the_one_before_is_kept(harm, tmp_path):
    policy, optimizer = trained()
    for iteration in (1, 2):
        save_checkpoint(tmp_path, policy, optimizer, Progress(iteration=iteration))
    harm(tmp_path / "iteration-000002" / "optimizer.pt")
    told = []
    found = latest_checkpoint(tmp_path, lambda path, wrong: told.append((path.name, wrong)))
    assert found == tmp_path / "iteration-000001"
    [(name, wrong)] = told
    assert name == "iteration-000002"
    assert wrong.startswith("optimizer.pt ")
    save_checkpoint(tmp_path, policy, optimizer, Progress(iteration=4))
    assert {path.name for path in tmp_path.iterdir()} == {"iteration-000001", "iteration-000004"}


def test_what_the_records_lack_is_named(tmp_path):
    folder = RunFolder.open(tmp_path, tiny_recipe(), resume=False)
    lines = [json.dumps({"iteration": i}) + "\n" for i in (1, 2, 3, 4, 5)]
    (tmp_path / "metrics.jsonl").write_bytes((lines[0] + "\0" * 30 + "\n" + lines[3] + lines[4]).encode())
    (tmp_path / "trajectories.jsonl").write_text('{"metadata": {"iteration": 1}}\n')
    progress = Progress(iteration=4, written=8)
    assert folder.forget_after(progress) == 1
    assert folder.missing(progress) == [
        "metrics.jsonl lacks iterations 2, 3",
        "trajectories.jsonl holds 1 of 8 trajectories",
    ]
    assert folder.missing(Progress(iteration=1, written=1)) == []


def test_what_the_analysis_has_cost_outlives_the_metrics(tmp_path):
    folder = RunFolder.open(tmp_path, tiny_recipe(), resume=False)
    folder.spend({"calls": 3, "cost": 0.5})
    folder.spend({"calls": 4, "failures": 1})
    (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
    assert folder.spent() == {"calls": 7, "cost": 0.5, "failures": 1}
    (tmp_path / "analysis_spent.json").write_text('{"calls": 7, "co')
    with pytest.raises(ValueError, match=r"analysis_spent.json' is damaged .* remove it to begin at zero"):
        folder.spent()


def test_a_torn_recipe_is_named_and_written_anew_and_compared_with_its_copy(tmp_path):
    folder = RunFolder.open(tmp_path, tiny_recipe(), resume=False)
    whole = (tmp_path / "recipe.json").read_text()
    folder.write_metrics({"iteration": 1})
    told = []
    for torn in (whole[:100], "", "\0" * 200, "[" * 100_000):
        (tmp_path / "recipe.json").write_text(torn)
        RunFolder.open(tmp_path, tiny_recipe(), resume=True, warn=told.append)
        assert (tmp_path / "recipe.json").read_text() == whole
    assert len(told) == 4
    assert f"{tmp_path / 'recipe.json'} was damaged" in told[0]
    folder.start.mkdir()
    (folder.start / "recipe.json").write_text(whole)
    (tmp_path / "recipe.json").write_text(whole[:100])
    with pytest.raises(ValueError, match=r"another recipe: advantage.clip was None and is 2.0"):
        RunFolder.open(tmp_path, tiny_recipe("advantage.clip=2"), resume=True)


def test_files_can_be_read_by_who_may_read_their_neighbours_and_saving_again_changes_nothing(tmp_path):
    tiny_llama().save(tmp_path / "a")
    Policy.load(tmp_path / "a").save(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == names
    assert len({(tmp_path / "a" / name).stat().st_mode for name in names}) == 1
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
