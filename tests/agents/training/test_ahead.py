"""Rollouts that are played ahead by a process of their own (``staleness``), against those played in turn."""

import dataclasses
import json
import signal

import psutil
import pytest
import torch
from opid_agents.algorithms.losses import LossInputs, LossSettings, policy_loss, token_weights
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import RecipeError, change
from opid_agents.skills.library import LibrarySkill, SkillLibrary, append
from opid_agents.training import loop
from opid_agents.training.ahead import Ahead, version_for
from opid_agents.training.batch import Batch, StepSample
from opid_agents.training.player import Order, Played, PlayerLost, set_weights, weights_of
from opid_agents.training.rollouts import Part, play_part
from opid_agents.training.run import Run
from opid_agents.training.setup import lm_settings, load_policy, make_envs
from opid_agents.training.watcher import Silent

from opid_gym.trajectory import read_jsonl
from tests.agents.models import Critic, tiny_llama, tiny_recipe

RECIPE = tiny_recipe(
    Critic.NAME,  # has something to say of every episode, so that a policy that only stammers has a gradient
    "advantage.episode_weight=0.3",
    "advantage.step_weight=0.3",
    "staleness=1",
    "train_uniform_groups=true",
    "iterations=4",
    "tasks_per_iteration=2",
    "group_size=3",
    "world.max_episode_steps=4",
    "optimizer.learning_rate=1e-2",
)


class AtOnce:
    """A player in this process: it plays when it is ordered to, so that every run has its own numbers at once."""

    def __init__(self, recipe, policy, start, folder, games):
        self.recipe, self.policy = recipe, load_policy(start, recipe.model)
        self.envs = make_envs(recipe, recipe.world.train_split, games)
        self.played = []

    def order(self, order):
        set_weights(self.policy, order.weights)
        played = play_part(
            self.recipe, lm_settings(self.recipe), self.policy, self.envs, order.part, library=order.library
        )
        self.played.append(Played(played, 0.0))

    def take(self):
        return self.played.pop(0)

    def close(self):
        self.envs.close()


class Keeper(Silent):
    """Keeps the weights after each iteration; presses Ctrl-C in the rollouts of one."""

    def __init__(self, interrupt=None):
        self.run, self.versions, self.interrupt, self.begun = None, {}, interrupt, 0

    def stage(self, name, total):
        self.begun += name == "roll out"
        if name == "roll out" and self.begun == self.interrupt:
            raise KeyboardInterrupt
        return super().stage(name, total)

    def iteration(self, metrics):
        self.versions[metrics["iteration"]] = weights_of(self.run.policy)


def train(recipe, folder, *, resume=False, keeper=None):
    keeper = keeper or Keeper()
    with Run.open(recipe, folder, policy=None if resume else tiny_llama(), resume=resume, watch=keeper) as run:
        keeper.run = run
        keeper.versions.setdefault(0, weights_of(run.policy))
        loop.train(run)
    return keeper.versions


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("opid_agents.training.run.make_player", AtOnce)


def metrics_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{k: v for k, v in line.items() if not k.startswith(("seconds/", "ahead/"))} for line in lines]


def replies_of(folder):
    return [[step.reply for step in t.steps] for t in read_jsonl(folder / "trajectories.jsonl")]


@pytest.mark.parametrize("staleness", [1, 2])
def test_each_iteration_is_played_by_the_weights_that_the_staleness_allows(staleness, at_once, tmp_path):
    recipe = change(RECIPE, {"staleness": staleness})
    versions = train(recipe, tmp_path / "run")
    assert [version_for(i, staleness) for i in (1, 2, 3, 4)] == [0, 0, 3 - 1 - staleness, 4 - 1 - staleness]
    written = list(read_jsonl(tmp_path / "run" / "trajectories.jsonl"))
    assert [t.metadata["version"] for t in written] == [
        version_for(t.metadata["iteration"], staleness) for t in written
    ]
    policy = tiny_llama()
    with Run.open(change(recipe, {"staleness": 0}), tmp_path / "other", policy=tiny_llama()) as run:
        said = {}
        for version in range(4):
            set_weights(policy, versions[version])
            part = dataclasses.replace(run.part(4), version=version)
            said[version] = [
                [step.reply for step in t.steps] for t in play_part(recipe, run.settings, policy, run.envs, part)
            ]
    last = [[step.reply for step in t.steps] for t in written if t.metadata["iteration"] == 4]
    assert [version for version, replies in said.items() if replies == last] == [version_for(4, staleness)]


def test_where_weights_hardly_move_playing_ahead_changes_nothing(at_once, tmp_path):
    still = change(RECIPE, {"optimizer.learning_rate": 1e-12})
    train(still, tmp_path / "ahead")
    train(change(still, {"staleness": 0}), tmp_path / "in turn")
    assert replies_of(tmp_path / "ahead") == replies_of(tmp_path / "in turn")
    for ahead, turn in zip(metrics_of(tmp_path / "ahead"), metrics_of(tmp_path / "in turn"), strict=True):
        assert ahead["importance/mean"] == pytest.approx(1.0, abs=1e-4)
        for key in ("success", "train/loss", "train/grad_norm", "train/entropy"):
            assert ahead[key] == pytest.approx(turn[key], rel=1e-3, abs=1e-5)


def test_an_interrupted_run_goes_on_with_the_same_numbers(at_once, tmp_path):
    recipe = change(RECIPE, {"staleness": 2, "checkpoint_every": 4})
    train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", keeper=Keeper(interrupt=4))
    train(recipe, tmp_path / "stopped", resume=True)
    assert metrics_of(tmp_path / "stopped") == metrics_of(tmp_path / "whole")
    assert replies_of(tmp_path / "stopped") == replies_of(tmp_path / "whole")
    found, expected = (weights_of(Policy.load(tmp_path / name / "model")) for name in ("stopped", "whole"))
    assert found == expected


def test_what_was_sampled_by_older_weights_is_counted_and_reported(at_once, tmp_path):
    train(RECIPE, tmp_path)
    first, *others = metrics_of(tmp_path)
    assert first["staleness/mean"] == 0.0
    assert first["importance/effective"] == pytest.approx(1.0, abs=1e-6)
    for line in others:
        assert line["staleness/mean"] == 1.0
        assert line["staleness/1"] == line["train/trained_samples"] or line["groups/trained"] == 2
        assert line["importance/effective"] < 0.9999
        assert line["importance/largest"] <= 2.0
        assert line["sampler/kl"] > 0
    text = (tmp_path / "report.md").read_text()
    assert "Samples by the number of updates that the weights had missed that sampled them: 0: " in text


def test_a_process_plays_what_this_one_would_have_played_and_ends_with_the_run(at_once, tmp_path, monkeypatch):
    recipe = change(RECIPE, {"iterations": 3})
    train(recipe, tmp_path / "here")
    monkeypatch.undo()
    with Run.open(recipe, tmp_path / "beside", policy=tiny_llama()) as run:
        player = run.ahead.player
        child = psutil.Process(player.pid)
        child.send_signal(signal.SIGINT)  # Ctrl-C goes to all processes of a terminal; this one is ended in order
        loop.train(run)
        player.order(Order(Part(9, 9, ["no such task"], [0]), weights_of(run.policy)))
        with pytest.raises(Exception, match="no such task"):
            player.take()
        child.kill()
        with pytest.raises(PlayerLost, match="was ended by SIGKILL; the run can go on from its last checkpoint"):
            player.take()
    assert metrics_of(tmp_path / "beside") == metrics_of(tmp_path / "here")
    assert not child.is_running()


def test_a_library_is_that_of_the_weights_which_are_played_with(tmp_path):
    ordered = []

    class Noted:
        def order(self, order):
            ordered.append((order.part.iteration, order.weights, len(order.library)))

        def take(self):
            return Played([], 1.5)

    library = SkillLibrary()
    ahead = Ahead(Noted(), 1, 4, {}, 0)
    for iteration in (1, 2, 3, 4):
        ahead.remember(iteration - 1, b"%d" % (iteration - 1), library)
        ahead.take(iteration, lambda number: Part(number, version_for(number, 1), [], []))
        new = [LibrarySkill(iteration, "sum", f"task {iteration}", "use the calculator")]
        library.add(new)
        append(tmp_path / "library.jsonl", new)
    assert ordered == [(1, b"0", 0), (2, b"0", 0), (3, b"1", 1), (4, b"2", 2)]
    assert ahead.to_keep(3) == {2: b"2"}
    assert len(SkillLibrary.load(tmp_path / "library.jsonl", until=2)) == 2
    assert len(SkillLibrary.load(tmp_path / "library.jsonl")) == 4


def test_tokens_of_older_weights_count_by_their_truncated_ratio():
    sampled, scored = [[-1.0, -2.0, -0.5], [-3.0]], [[-1.2, -1.0, -0.5], [-1.0]]
    samples = [
        StepSample(i, 0, 0, [1], [2] * len(values), values, score=1.0, success=True) for i, values in enumerate(sampled)
    ]
    batch = Batch.of([], samples).with_old_log_probs(scored, importance_limit=2.0)
    ratios = torch.tensor([[-0.2, 1.0, 0.0], [2.0, 0.0, 0.0]]).exp().clamp(max=2.0)
    ratios[1, 1:] = 0.0
    torch.testing.assert_close(batch.importance, ratios)
    assert Batch.of([], samples).with_old_log_probs(scored).importance is None

    log_probs = torch.tensor([-1.2, -1.0, -0.5, -1.0], requires_grad=True)
    inputs = LossInputs(
        log_probs=log_probs,
        old_log_probs=log_probs.detach(),
        advantages=torch.tensor([1.0, -2.0, 0.5, 3.0]),
        sample=torch.tensor([0, 0, 0, 1]),
        position=torch.tensor([0, 1, 2, 0]),
        lengths=torch.tensor([3, 1]),
        total_tokens=8.0,
        settings=LossSettings(),
        importance=ratios[ratios > 0],
    )
    policy_loss(inputs).loss.backward()
    torch.testing.assert_close(log_probs.grad, -inputs.advantages * inputs.importance / 8.0)
    ones = dataclasses.replace(inputs, importance=torch.ones(4))
    torch.testing.assert_close(token_weights(ones), token_weights(dataclasses.replace(inputs, importance=None)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["staleness=1", "sampler.rescore_old=false"], "rescore_old=false does not go with staleness=1"),
        (["staleness=1", "parallel=shard"], "parallel: got 'shard' with staleness=1; allowed: replicate, auto"),
        (["model.rollout_device=cuda:1"], "set staleness=1, or model.rollout_device=none"),
    ],
)
def test_what_does_not_go_with_playing_ahead_is_refused(changes, message, at_once, tmp_path):
    with pytest.raises(RecipeError, match=message):
        Run.open(tiny_recipe(*changes), tmp_path, policy=tiny_llama())
