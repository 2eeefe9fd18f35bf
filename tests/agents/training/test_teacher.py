import json

import pytest
from opid_agents.lm import LMSettings
from opid_agents.policy import ModelSize, Policy
from opid_agents.skills.extract import Skills
from opid_agents.tokenizer import train_tokenizer
from opid_agents.training.teacher import KINDS, AdvisedAgent, action_tokens, critical_steps, judge
from opid_agents.training.teacher_figure import teacher_figure
from opid_agents.training.warm_start import world_text

from opid_gym.registration import make_envs
from opid_gym.rollout import play
from tests.agents.models import tiny_recipe
from tests.agents.training.played import DEMONSTRATIONS

SETTINGS = LMSettings(max_reply_tokens=8)


@pytest.fixture(scope="module")
def policy():
    return Policy.create(train_tokenizer(world_text(SETTINGS, DEMONSTRATIONS), 600), ModelSize(16, 1, 2, 16))


@pytest.mark.parametrize("decisive", [False, True])
def test_where_hindsight_knows_better_the_policy_decides_again_told_so(policy, decisive):
    envs = make_envs("opid/ALFWorld-v0", 4, size="small", max_episode_steps=6)
    agent = AdvisedAgent(policy, SETTINGS, envs.world, decisive=decisive, temperature=1.0)
    steps = [step for t in play(envs, agent, envs.world.task_ids[:8]) for step in t.steps]
    envs.close()
    told = [step for step in steps if "next: " in step.prompt]
    assert (agent.steps, agent.advised) == (len(steps), len(told))
    assert len(told) > 0 or decisive
    for step in told:
        assert step.prompt.split("next: ")[1].split("\n")[0] in step.admissible_actions


@pytest.fixture(scope="module")
def report(policy):
    return judge(tiny_recipe("world.max_episode_steps=4"), policy, tasks=6, hints=20)


def test_a_report_is_paired_and_survives_json(report):
    told = json.loads(json.dumps(report.to_dict()))
    assert {len(report.results[kind].episodes) for kind in KINDS} == {6}
    assert [e.task_id for e in report.results["none"].episodes] == [e.task_id for e in report.results["both"].episodes]
    for key in ("following", "success", "success_with_step_skills", "success_with_episode_skills", "success_with_both"):
        assert 0 <= told[key] <= 1
    assert told["tasks"] == 6
    assert told["shifts"]["failure"]["steps"] > 0
    assert told["shifts"]["failure"]["rest"] is not None  # a space and a line end are no part of the action
    assert "step skills make no difference that 6 tasks can show" in told["judgement"]
    assert 0 <= told["following_expert"] <= 1
    assert told["critical_steps"]["agree"] == 0  # hindsight never names what was done
    # A step at which hindsight knows better is decided twice.
    assert told["cost"]["step"]["tokens"] > told["cost"]["none"]["tokens"] > 0
    assert told["cost"]["step"]["seconds"] > 0


def test_a_critical_step_may_be_told_what_was_done_there_anyway():
    first, second = DEMONSTRATIONS[:2]
    skills = [Skills("", "", {0: first.steps[0].action, 1: "be patient"}), None]
    critical = critical_steps([first, second], skills)
    assert critical.steps == 2 / (len(first) + len(second))
    assert critical.agree == 1 / 2


def test_a_picture_shows_what_the_report_says(report):
    success, shifts = teacher_figure(report).axes
    heights = [bar.get_height() for bar in success.patches]
    assert heights[0] == report.results["none"].success.estimate
    assert len(heights) == len(KINDS) * len(success.get_xticks())
    assert shifts.get_title().startswith("shift")


def test_the_tokens_of_an_action_are_found_in_its_reply(policy):
    reply = policy.encode_reply(" <think>go to shelf 1?</think> go to shelf 1\n")
    inside = action_tokens(policy, reply, "go to shelf 1")
    spelled = policy.decode([i for i, own in zip(reply, inside, strict=True) if own])
    assert spelled.strip() == "go to shelf 1"
    assert not inside[-1]
    assert action_tokens(policy, reply, "nothing of the kind") == [True] * len(reply)
