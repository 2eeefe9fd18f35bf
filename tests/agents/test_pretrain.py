import collections
import random
from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from opid_agents.learning.pretrain import (
    Demonstrator,
    HintMix,
    WarmStartData,
    WarmStartSettings,
    advice_at,
    following_rate,
    learned_steps,
    load_expert,
    spoken,
    warm_start,
)
from opid_agents.learning.train import Silent
from opid_agents.learning.warm import make_start, world_text
from opid_agents.lm import LMSettings
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import change
from opid_agents.tokenizer import train_tokenizer

import opid_gym
from opid_gym.rollout import play
from tests.agents.models import tiny_recipe

gym.register_envs(opid_gym)
EXPERT = "opid_gym_envs.alfworld.searching:SearchingExpert"
SETTINGS = LMSettings(max_reply_tokens=12)


def demonstrate(noise, count=24, seed=0):
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=8, size="small", autoreset_mode=AutoresetMode.DISABLED)
    played = play(
        envs,
        Demonstrator(envs, load_expert(EXPERT), noise=noise, seed=seed),
        list(envs.unwrapped.world.task_ids)[:count],
    )
    return sorted(played, key=lambda t: t.metadata["index"])


DEMONSTRATIONS = demonstrate(0.2)


@pytest.fixture(scope="module")
def policy():
    return Policy.create(train_tokenizer(world_text(SETTINGS, DEMONSTRATIONS), 800), ModelSize(32, 2, 2, 64))


def text_of(policy, row):
    return policy.decode(row.ids)


def test_demonstrations_are_the_same_for_the_same_seed_and_solve_their_tasks():
    assert [t.to_json() for t in demonstrate(0.2)] == [t.to_json() for t in DEMONSTRATIONS]
    assert all(t.success for t in demonstrate(0.0))


def test_any_world_with_an_expert_can_be_demonstrated():
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=4, size="small", autoreset_mode=AutoresetMode.DISABLED)
    played = list(play(envs, Demonstrator(envs), list(envs.unwrapped.world.task_ids)[:8]))
    assert all(t.success for t in played)
    assert all(step.data["expert"] == step.action for t in played for step in t.steps)


def test_actions_with_a_place_for_words_are_no_hints():
    assert spoken(["search[<your query>]", "click[< prev]", "click[next >]"]) == ["click[< prev]", "click[next >]"]
    assert spoken(None) == []


def test_noise_changes_what_is_played_and_not_what_is_learned():
    steps = [step for t in DEMONSTRATIONS for step in t.steps]
    differ = [step.action != step.data["expert"] for step in steps]
    assert 0.05 < np.mean(differ) < 0.25
    assert all(step.data["expert"] in step.admissible_actions for step in steps)
    assert any(step.action not in step.admissible_actions for step in steps)


def test_the_mix_has_the_shares_it_says(policy):
    data = WarmStartData(policy, SETTINGS, demonstrate(0.0), HintMix(plain=0.5, plan=0.2, next=0.3))
    rng = random.Random(0)
    kinds = collections.Counter(data.draw(rng)[0] for _ in range(2000))
    assert {kind: round(n / 2000, 1) for kind, n in kinds.items()} == {"plain": 0.5, "plan": 0.2, "next": 0.3}


def test_examples_say_what_they_should(policy):
    data = WarmStartData(policy, SETTINGS, DEMONSTRATIONS, HintMix(plain=1, plan=1, next=1, next_from_expert=0))
    rng = random.Random(1)
    seen = set()
    for _ in range(60):
        kind, (row,) = data.draw(rng)
        text = text_of(policy, row)
        seen.add(kind)
        assert ("plan: " in text) == (kind == "plan")
        assert ("next: " in text) == (kind == "next")
        replies = [policy.decode(row.ids[span.start : span.stop]) for span in row.spans]
        assert all(reply.startswith(" ") and reply.endswith("\n") for reply in replies)
        assert sum("\n" in reply for reply in replies) == len(row.spans)
        if kind == "next":
            asked = text.split("next: ")[1].split("\n")[0]
            last = max(row.spans, key=lambda span: span.stop)
            assert policy.decode(row.ids[last.start : last.stop]) == f" {asked}\n"
            assert last.stop == len(row.ids)
    assert seen == {"plain", "plan", "next"}


def test_only_steps_where_the_expert_was_heeded_are_learned(policy):
    first = next(t for t in DEMONSTRATIONS if len(learned_steps(t)) < len(t.steps))
    data = WarmStartData(policy, SETTINGS, [first], HintMix(plain=1, plan=0, next=0))
    _, (row,) = data.draw(random.Random(0))
    replies = [
        policy.decode(row.ids[span.start : span.stop]) for span in sorted(row.spans, key=lambda span: span.start)
    ]
    assert replies == [f" {first.steps[i].action}\n" for i in learned_steps(first)]
    assert all(advice_at(first, i) == first.steps[i].action for i in learned_steps(first))


def test_imitation_lowers_the_loss_and_is_the_same_for_the_same_seed(policy):
    def losses():
        model = Policy.create(policy.tokenizer, ModelSize(16, 1, 2, 16))
        data = WarmStartData(model, SETTINGS, DEMONSTRATIONS, HintMix())
        found = []
        settings = WarmStartSettings(steps=25, short_steps=15, short_batch=8, batch_episodes=2, learning_rate=1e-2)
        warm_start(model, data, settings, on_step=lambda step, loss: found.append(loss))
        return found

    first = losses()
    assert first == losses()
    assert np.mean(first[-5:]) < 0.8 * np.mean(first[:5])


def test_a_check_can_stop_it(policy):
    model = Policy.create(policy.tokenizer, ModelSize(16, 1, 2, 16))
    data = WarmStartData(model, SETTINGS, DEMONSTRATIONS, HintMix())
    settings = WarmStartSettings(steps=30, short_steps=2, short_batch=2, batch_episodes=1, check_every=3)
    asked = []
    assert warm_start(model, data, settings, check=lambda step: asked.append(step) or step == 9) == 9
    assert asked == [3, 6, 9]


def test_following_is_measured_on_what_the_model_says(policy):
    assert following_rate(policy, SETTINGS, DEMONSTRATIONS, samples=20) < 0.2


def test_a_start_is_whole_and_its_checks_are_told():
    told = []
    result = make_start(tiny_recipe(), on_check=told.append)
    assert tuple(told) == result.checks
    assert result.steps == 30
    assert LMSettings.from_json(result.policy.settings).action_format.admissible


@pytest.mark.parametrize("shares", [(-1, 1, 1), (0, 0, 0)])
def test_a_mix_that_is_none_is_refused(shares):
    with pytest.raises(ValueError, match="shares of the hint mix"):
        HintMix(*shares)


@pytest.mark.parametrize("path", ["nowhere:Expert", "opid_gym.rollout:Nobody", "no colon", ""])
def test_an_unknown_expert_is_named(path):
    with pytest.raises(ValueError, match=r"no expert .*module:Class"):
        load_expert(path)


def test_a_start_that_was_interrupted_goes_on_and_is_the_one_of_an_unbroken_run(tmp_path):
    recipe = tiny_recipe("warm_start.check_every=10", "warm_start.check_from=30")
    whole = make_start(recipe)
    for seed, killed_at in ((1, 25), (0, 12), (0, 28)):  # the first one, of another recipe, must leave no trace
        with pytest.raises(KeyboardInterrupt):
            make_start(change(recipe, {"seed": seed}), Interrupts(killed_at), checkpoints=tmp_path / "warm")
    broken = make_start(recipe, checkpoints=tmp_path / "warm")
    assert broken.checks == whole.checks
    pairs = zip(broken.policy.model.parameters(), whole.policy.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not (tmp_path / "warm").exists()


class Interrupts(Silent):
    """Somebody who presses Ctrl-C at the update with this number, counted from the beginning."""

    def __init__(self, update):
        self.left = update

    def stage(self, name, total):
        return nullcontext(self.advance if name == "imitate" else lambda done: None)

    def advance(self, done):
        self.left -= done
        if not self.left:
            raise KeyboardInterrupt
