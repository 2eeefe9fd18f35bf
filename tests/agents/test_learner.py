"""The table of learners: what each of them makes of the same record."""

import dataclasses
import math

import pytest
import torch
from opid_agents.learning.advantages import outcome_advantage
from opid_agents.learning.learner import (
    LEARNERS,
    AdvantageInputs,
    AdvantageSettings,
    get_learner,
    teacher_scores,
    trained_samples,
)
from opid_agents.learning.losses import LossInputs, LossSettings, policy_loss

TRAINED = sorted(name for name, learner in LEARNERS.items() if learner.advantage)
DISTILLING = sorted(name for name, learner in LEARNERS.items() if learner.distills)


def inputs(settings: dict | None = None, **changes) -> AdvantageInputs:
    """Two trajectories of one step: a success with an episode skill, a failure with a step skill. Outcome +-0.5."""
    constants = {"mode": "mean_norm", "episode_weight": 0.1, "step_weight": 0.2} | (settings or {})
    values = {
        "token_level_rewards": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        "response_mask": torch.ones(2, 2),
        "task_ids": ["t", "t"],
        "old_log_probs": torch.full((2, 2), -1.0),
        "episode_log_probs": torch.full((2, 2), -3.0),
        "step_log_probs": torch.full((2, 2), -0.5),
        "episode_mask": torch.tensor([True, False]),
        "step_mask": torch.tensor([False, True]),
        "trajectory_ids": [0, 1],
        "step_returns": torch.tensor([1.0, 0.0]),
        "anchors": ["hall", "hall"],
        "success": torch.tensor([True, False]),
        "settings": AdvantageSettings(**constants),
    }
    return AdvantageInputs(**(values | changes))


def first_column(name: str, given: AdvantageInputs) -> list[float]:
    return get_learner(name).advantage(given).advantages[:, 0].tolist()


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("grpo", {}, [0.5, -0.5]),
        ("rloo", {}, [1.0, -1.0]),
        ("gigpo", {}, [1.0, -1.0]),
        ("gigpo", {"state_weight": 0.5}, [0.75, -0.75]),
        ("skill_grpo", {}, [0.5, -0.5]),
        ("opid", {}, [0.5 - 0.1 * 2, -0.5 + 0.2 * 0.5]),
        ("opid_random_skill", {}, [0.3, -0.4]),
        ("opid_other_task_skill", {}, [0.3, -0.4]),
        ("opid_constant", {}, [0.5 - 0.1 * 2, -0.5 - 0.2 * 2]),
        ("opid_constant", {"constant_success": 1.0}, [0.6, -0.9]),
        ("opsd", {}, [-2.0, 0.5]),
        ("grpo_opsd", {}, [0.5, -0.5]),
        ("skill_sd", {}, [0.5, -0.5]),
        ("sdar", {}, [0.5, -0.5]),
        ("rlsd", {}, [0.5 * (0.5 + 0.5 * 0.8), -0.5 * (0.5 + 0.5 * 0.8)]),  # exp(-2) and exp(-0.5) are below 0.8
        ("rlsd", {"rlsd_mix": 0.0}, [0.5, -0.5]),
    ],
)
def test_advantages_hand_computed(name, settings, expected):
    assert first_column(name, inputs(settings)) == pytest.approx(expected)


@pytest.mark.parametrize("name", TRAINED)
def test_without_a_skill_a_learner_is_grpo_or_one_that_never_had_a_teacher(name):
    bare = inputs(episode_log_probs=None, step_log_probs=None, episode_mask=None, step_mask=None)
    expected = {"rloo": [1.0, -1.0], "gigpo": [1.0, -1.0], "opsd": [0.0, 0.0]}.get(name, [0.5, -0.5])
    assert first_column(name, bare) == pytest.approx(expected)


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_learner_returns_adds_up(name):
    advantage = get_learner(name).advantage(inputs())
    total = advantage.outcome + advantage.skill_term + (0.0 if advantage.extra is None else advantage.extra)
    torch.testing.assert_close(total, advantage.advantages)
    assert not advantage.advantages.requires_grad


@pytest.mark.parametrize("name", TRAINED)
def test_padding_is_never_read(name):
    clean = inputs(response_mask=torch.tensor([[1, 0], [1, 0]]), token_level_rewards=torch.tensor([[1.0, 0], [0, 0]]))
    poison = {
        key: torch.where(clean.response_mask != 0, getattr(clean, key), math.nan)
        for key in ("old_log_probs", "episode_log_probs", "step_log_probs")
    }
    a = get_learner(name).advantage(clean).advantages
    b = get_learner(name).advantage(dataclasses.replace(clean, **poison)).advantages
    assert torch.equal(a, b)
    assert a[:, 1].tolist() == [0.0, 0.0]


def test_the_baseline_may_run_over_trajectories():
    long = {
        "token_level_rewards": torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
        "response_mask": torch.ones(3, 2),
        "task_ids": ["t"] * 3,
        "old_log_probs": torch.zeros(3, 2),
        "trajectory_ids": [0, 0, 1],
    }
    third = AdvantageInputs(**long, settings=AdvantageSettings(mode="mean_norm"))
    half = AdvantageInputs(**long, settings=AdvantageSettings(mode="mean_norm", baseline="trajectories"))
    for name in ("grpo", "opid"):
        assert first_column(name, third) == pytest.approx([1 / 3, 1 / 3, -2 / 3])
        assert first_column(name, half) == pytest.approx([0.5, 0.5, -0.5])


def test_a_missing_part_is_named():
    with pytest.raises(ValueError, match="anchors is None"):
        get_learner("gigpo").advantage(inputs(anchors=None))


def test_one_teacher_a_sample_the_step_skill_first():
    both = inputs(episode_mask=[True, True], step_mask=[False, True])
    teacher, mask = teacher_scores(both)
    assert teacher.tolist() == [[-3.0, -3.0], [-0.5, -0.5]]
    assert mask.all()
    teacher, mask = teacher_scores(inputs(step_mask=None))
    assert mask.tolist() == [[True, True], [False, False]]
    assert teacher[1].tolist() == [-1.0, -1.0]


def loss_inputs(log_probs: torch.Tensor, **changes) -> LossInputs:
    teacher, mask = teacher_scores(inputs())
    values = {
        "log_probs": log_probs,
        "old_log_probs": torch.full((2, 2), -1.0),
        "advantages": torch.zeros(2, 2),
        "response_mask": torch.ones(2, 2),
        "teacher_log_probs": teacher,
        "teacher_mask": mask,
        "settings": LossSettings(distill_weight=0.5),
    }
    return LossInputs(**(values | changes))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo_opsd", 0.5 * (2.0 - 0.5) / 2),
        ("skill_sd", 0.5 * ((math.exp(-2) - 1 + 2) + (math.exp(0.5) - 1 - 0.5)) / 2),
        ("sdar", 0.5 * (-2 / (1 + math.exp(10)) + 0.5 / (1 + math.exp(-2.5))) / 2),
    ],
)
def test_distilling_losses_hand_computed(name, expected):
    out = get_learner(name).loss(loss_inputs(torch.full((2, 2), -1.0)))
    assert out.loss.item() == pytest.approx(expected)
    assert out.metrics["distillation"] == pytest.approx(2 * expected)
    assert out.metrics["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("name", DISTILLING)
def test_a_distilling_loss_without_a_teacher_is_the_plain_one(name):
    given = loss_inputs(torch.full((2, 2), -1.2), advantages=torch.ones(2, 2), teacher_log_probs=None)
    assert get_learner(name).loss(given).loss.item() == policy_loss(given).loss.item()


@pytest.mark.parametrize("name", DISTILLING)
def test_parts_of_a_batch_add_up_to_the_whole(name):
    learner = get_learner(name)
    log_probs = torch.tensor([[-1.1, -0.7], [-2.0, -0.9]])
    whole = learner.loss(loss_inputs(log_probs, advantages=torch.ones(2, 2))).loss
    parts = []
    for i in range(2):
        given = loss_inputs(log_probs, advantages=torch.ones(2, 2), total_weight=4.0)
        rows = {
            f.name: value[i : i + 1] if isinstance(value := getattr(given, f.name), torch.Tensor) else value
            for f in dataclasses.fields(given)
        }
        parts.append(learner.loss(LossInputs(**rows)).loss)
    torch.testing.assert_close(sum(parts), whole)


def test_which_samples_an_update_needs():
    given = inputs(token_level_rewards=torch.zeros(2, 2))  # no outcome variance
    plain, kl = LossSettings(), LossSettings(kl_weight=0.1)
    mask = teacher_scores(inputs(step_mask=None))[1]
    grpo, sdar = get_learner("grpo"), get_learner("sdar")
    assert trained_samples(grpo, grpo.advantage(given), plain).tolist() == [False, False]
    assert trained_samples(grpo, grpo.advantage(given), kl).tolist() == [True, True]
    assert trained_samples(sdar, sdar.advantage(given), plain, mask).tolist() == [True, False]
    opid = get_learner("opid")
    assert trained_samples(opid, opid.advantage(dataclasses.replace(given, step_mask=None)), plain).tolist() == [
        True,
        False,
    ]


def test_grpo_is_the_outcome_whatever_the_skills_say():
    given = inputs()
    expected = outcome_advantage(given.token_level_rewards, given.response_mask, given.task_ids, mode="mean_norm")
    assert torch.equal(get_learner("grpo").advantage(given).advantages, expected)


def test_the_table():
    assert all(name == learner.name for name, learner in LEARNERS.items())
    assert {"vanilla", "skill_prompt", "grpo", "rloo", "gigpo", "opsd", "grpo_opsd", "skill_grpo"} < set(LEARNERS)
    assert {"skill_sd", "rlsd", "sdar", "opid", "opid_constant", "opid_random_skill"} < set(LEARNERS)
    assert get_learner("opid").needs_skills
    assert not get_learner("grpo").needs_skills
    with pytest.raises(ValueError, match=r"unknown learner 'gropo'; allowed: \['gigpo', 'grpo', "):
        get_learner("gropo")
