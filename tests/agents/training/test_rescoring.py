"""Stage 4 in detail, and teachers with weights of their own."""

import json

import pytest
import torch
from opid_agents.lm import LMAgent
from opid_agents.policy import Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.skills.route import Route
from opid_agents.training.batch import Batch, step_samples
from opid_agents.training.kept_teacher import Teacher
from opid_agents.training.rescoring import (
    rescore_old,
    rescore_with_skills,
    rescores_old,
    routed_only,
    skilled_prompts,
    teacher_replies,
)
from opid_agents.training.setup import lm_settings, make_envs
from opid_agents.training.stages import action_start, kind_of_state
from opid_agents.training.warm_start import make_start
from opid_agents.training.watcher import Silent

from opid_gym.rollout import play
from tests.agents.models import Critic, tiny_llama, tiny_recipe, train


@pytest.fixture(scope="module")
def played():
    """A policy, its settings, and a batch of what it played, three samples of which hear a skill."""
    recipe = tiny_recipe(Critic.NAME, "iterations=1")
    policy = make_start(recipe).policy
    settings = lm_settings(recipe)
    envs = make_envs(recipe, "train", 2)
    agent = LMAgent(policy, settings, temperature=1.0, record_tokens=True)
    trajectories = list(play(envs, agent, list(envs.world.task_ids)[:2]))
    envs.close()
    samples = step_samples(trajectories)
    routes = [Route()] * len(samples)
    routes[0], routes[1], routes[2] = Route(episode="look around"), Route(step="look"), Route(step="inventory")
    return policy, settings, Batch.of(trajectories, samples, routes)


def test_only_what_hears_a_skill_is_scored_and_has_a_teacher(played):
    policy, settings, batch = played
    teacher = rescore_with_skills(policy, settings, batch, temperature=1.0, distributions=True).teacher
    assert teacher.episode_mask.nonzero()[:, 0].tolist() == [0]
    assert teacher.step_mask.nonzero()[:, 0].tolist() == [1, 2]
    assert teacher.occupancy == 1.0
    assert [one is not None for one in teacher.distributions] == [True, True, True, *[False] * (len(batch) - 3)]
    for i, scores in ((0, teacher.episode), (1, teacher.step), (2, teacher.step)):
        reply = torch.tensor(batch.samples[i].reply_ids)
        whole = teacher.distributions[i].log_probs
        torch.testing.assert_close(whole.exp().sum(-1), torch.ones(len(reply)))
        torch.testing.assert_close(whole.gather(1, reply[:, None])[:, 0], scores[i, : len(reply)], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(scores[i, : len(reply)], batch.old_log_probs[i, : len(reply)])


def test_a_sample_without_a_skill_to_contrast_with_hears_none(played):
    policy, settings, batch = played
    others = [Route()] * len(batch)
    others[1] = Route(step="close your eyes")
    teacher = rescore_with_skills(policy, settings, batch, temperature=1.0, others=others).teacher
    assert teacher.step_mask.nonzero()[:, 0].tolist() == [1]
    assert not teacher.episode_mask.any()
    assert not torch.equal(teacher.other_step[1], teacher.step[1])


def test_the_teachers_own_reply_is_one_to_the_prompt_with_the_step_skill(played):
    policy, settings, batch = played
    sampler = HFSampler(policy)
    given = (sampler, policy, settings)
    replies = teacher_replies(*given, batch, temperature=0.0, seed=0)
    asked = [prompt for prompt in skilled_prompts(policy, settings, batch, batch.routes) if prompt.kind == "step"]
    alone = sampler.sample([p.ids for p in asked], SamplingParams(settings.max_reply_tokens, 0.0, settings.stop))
    expected = [reply if ended else None for reply, ended in zip(alone.reply_ids, alone.ended, strict=True)]
    assert [replies[i] for i in (1, 2)] == expected
    assert [i for i, reply in enumerate(replies) if reply is not None and i not in (1, 2)] == []
    # Sampled: equal seeds give equal replies, and a part of the batch those of the whole.
    drawn = teacher_replies(*given, batch, temperature=1.0, seed=3)
    assert teacher_replies(*given, batch, temperature=1.0, seed=3) == drawn
    assert teacher_replies(*given, batch.take([0, 2]), temperature=1.0, seed=3) == [drawn[0], drawn[2]]


def test_routing_alone_scores_nothing(played):
    policy, settings, batch = played
    teacher = routed_only(policy, settings, batch).teacher
    assert teacher.step_mask.nonzero()[:, 0].tolist() == [1, 2]
    assert teacher.rescored_tokens == 0
    assert not teacher.step.any()


@pytest.mark.parametrize(
    ("dtype", "setting", "wanted"),
    [
        ("float32", "auto", False),
        ("float32", "true", True),
        ("bfloat16", "auto", True),
        ("float16", "auto", True),
        ("bfloat16", "false", False),
    ],
)
def test_what_was_sampled_is_scored_again_where_that_rounds_differently(dtype, setting, wanted):
    policy = tiny_llama()
    policy.model.to(getattr(torch, dtype))
    assert rescores_old(tiny_recipe(f"sampler.rescore_old={setting}"), policy) is wanted
    assert rescores_old(tiny_recipe("sampler.kind=vllm"), policy)


def test_in_half_precision_updates_start_at_the_policys_own_log_probabilities(played, tmp_path):
    policy, _, batch = played
    policy.save(tmp_path / "start")
    half = Policy.load(tmp_path / "start", dtype="bfloat16")
    scored = rescore_old(half, batch, temperature=0.7)
    samples = batch.samples
    own = half.score([s.prompt_ids for s in samples], [s.reply_ids for s in samples], temperature=0.7)
    assert [s.log_probs for s in scored.samples] == own
    torch.testing.assert_close(scored.old_log_probs[0, : len(own[0])], torch.tensor(own[0]))
    recipe = tiny_recipe("iterations=1", "algorithm=grpo", "train_uniform_groups=true", "model.dtype=bfloat16")
    train(recipe, tmp_path / "run", policy=half)
    (line,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open())
    assert 0 < line["sampler/mean"] < 0.05
    assert 0 < line["sampler/kl"] < line["sampler/mean"]


def test_where_the_action_begins():
    policy = tiny_llama()
    reply = "<think>look, a shelf 10</think><action>go to shelf 10</action>"
    ids = policy.encode_reply(reply)
    first = action_start(policy, ids, ["action"])
    assert policy.decode(ids[first:]).startswith("go to shelf 10")
    assert action_start(policy, ids, []) == action_start(policy, ids, ["answer"]) == 0


def test_states_are_of_one_kind_if_only_their_numbers_differ():
    assert kind_of_state("You see a mug 12.") == kind_of_state("You see a mug 3.") != kind_of_state("You see a cup 3.")


class TestTeacher:
    def test_it_follows_the_policy_by_its_rate(self):
        teacher, policy = Teacher(tiny_llama(seed=0), rate=0.25), tiny_llama(seed=1)
        before = [weight.clone() for weight in teacher.policy.trained()]
        teacher.follow(policy)
        for old, now, goal in zip(before, teacher.policy.trained(), policy.trained(), strict=True):
            torch.testing.assert_close(now, 0.75 * old + 0.25 * goal)

    def test_small_steps_are_not_lost_in_half_precision(self):
        start = tiny_llama(seed=0)
        start.model.to(torch.bfloat16)
        teacher, policy = Teacher(start, rate=1e-4), tiny_llama(seed=1)
        first = [weight.clone() for weight in start.trained()]
        for _ in range(2000):
            teacher.follow(policy)
        moved = [(now - old).abs().max() for old, now in zip(first, start.trained(), strict=True)]
        assert max(moved) > 0.01

    def test_it_stays_the_start_without_a_rate(self):
        teacher = Teacher(tiny_llama(seed=0))
        teacher.follow(tiny_llama(seed=1))
        for weight, start in zip(teacher.policy.trained(), tiny_llama(seed=0).trained(), strict=True):
            assert torch.equal(weight, start)

    def test_a_rate_is_a_share(self):
        with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 2"):
            Teacher(tiny_llama(), rate=2)


class Stop(Silent):
    """Interrupts a run in its second iteration, after the update."""

    def iteration(self, metrics):
        if metrics["iteration"] == 2:
            raise KeyboardInterrupt


def test_a_run_with_a_moving_teacher_goes_on_with_the_numbers_of_an_unbroken_one(tmp_path):
    recipe = tiny_recipe(Critic.NAME, "algorithm=sdpo", "optimizer.learning_rate=1e-2", "constants.ema_rate=0.5")
    start = make_start(recipe).policy
    start.save(tmp_path / "start")
    train(recipe, tmp_path / "whole", policy=Policy.load(tmp_path / "start"))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", policy=Policy.load(tmp_path / "start"), watch=Stop())
    train(recipe, tmp_path / "broken", resume=True)

    def numbers(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        return [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]

    assert numbers(tmp_path / "broken") == numbers(tmp_path / "whole")
    assert len({line["train/distillation"] for line in numbers(tmp_path / "whole")}) == 3
