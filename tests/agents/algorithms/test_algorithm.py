"""The table of algorithms: what each of them makes of the same record."""

import dataclasses
import math

import pytest
import torch
from opid_agents.algorithms import (
    ALGORITHMS,
    AdvantageInputs,
    AdvantageSettings,
    LossInputs,
    LossSettings,
    get_algorithm,
)
from opid_agents.algorithms.advantages import outcome_advantage
from opid_agents.algorithms.algorithm import teacher_scores, trained_samples
from opid_agents.algorithms.distributions import Distribution
from opid_agents.algorithms.losses import policy_loss

# Those with the wrong skills differ in nothing that is tested here.
TRAINED = sorted(name for name, algorithm in ALGORITHMS.items() if algorithm.advantage and not algorithm.swap)
DISTILLING = sorted(name for name, algorithm in ALGORITHMS.items() if algorithm.distills and not algorithm.swap)


def inputs(name: str = "opid", own: dict | None = None, **changes) -> AdvantageInputs:
    """Two trajectories of one step: a success with an episode skill, a failure with a step skill. Outcome +-0.5."""
    algorithm = get_algorithm(name)
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
        "other_episode_log_probs": torch.full((2, 2), -2.0),
        "other_step_log_probs": torch.full((2, 2), -0.75),
        "disagrees": torch.tensor([False, True]),
        "settings": AdvantageSettings(mode="mean_norm", episode_weight=0.1, step_weight=0.2),
        "constants": algorithm.with_constants(own or {}),
    }
    return AdvantageInputs(**(values | changes))


def first_column(name: str, given: AdvantageInputs) -> list[float]:
    return get_algorithm(name).advantage(given).advantages[:, 0].tolist()


@pytest.mark.parametrize(
    ("name", "own", "expected"),
    [
        ("grpo", {}, [0.5, -0.5]),
        ("rloo", {}, [1.0, -1.0]),
        ("gigpo", {}, [1.0, -1.0]),
        ("gigpo", {"weight": 0.5}, [0.75, -0.75]),
        ("skill_grpo", {}, [0.5, -0.5]),
        ("opid", {}, [0.5 - 0.1 * 2, -0.5 + 0.2 * 0.5]),
        ("opid_random_skill", {}, [0.3, -0.4]),
        ("opid_other_task_skill", {}, [0.3, -0.4]),
        ("opid_constant", {}, [0.5 - 0.1 * 2, -0.5 - 0.2 * 2]),
        ("opid_constant", {"success": 1.0}, [0.6, -0.9]),
        ("opsd", {}, [-2.0, 0.5]),
        ("grpo_opsd", {}, [0.5, -0.5]),
        ("skill_sd", {}, [0.5, -0.5]),
        ("sdar", {}, [0.5, -0.5]),
        ("rlsd", {}, [0.5 * (0.5 + 0.5 * 0.8), -0.5 * (0.5 + 0.5 * 0.8)]),  # exp(-2) and exp(-0.5) are below 0.8
        ("rlsd", {"mix": 0.0}, [0.5, -0.5]),
    ],
)
def test_advantages_hand_computed(name, own, expected):
    assert first_column(name, inputs(name, own)) == pytest.approx(expected)


@pytest.mark.parametrize("name", TRAINED)
def test_without_a_skill_an_algorithm_is_grpo_or_one_that_never_had_a_teacher(name):
    bare = inputs(name, episode_log_probs=None, step_log_probs=None, episode_mask=None, step_mask=None)
    alone = ("opsd", "opsd_as_released", "opsd_full", "sdpo", "sdft", "sdft_reverse")
    expected = [0.0, 0.0] if name in alone else {"rloo": [1.0, -1.0], "gigpo": [1.0, -1.0]}.get(name, [0.5, -0.5])
    assert first_column(name, bare) == pytest.approx(expected)


@pytest.mark.parametrize("name", TRAINED)
def test_what_an_algorithm_returns_adds_up(name):
    advantage = get_algorithm(name).advantage(inputs(name))
    total = advantage.outcome + advantage.skill_term + (0.0 if advantage.extra is None else advantage.extra)
    torch.testing.assert_close(total, advantage.advantages)
    assert not advantage.advantages.requires_grad


@pytest.mark.parametrize("name", TRAINED)
def test_padding_is_never_read(name):
    clean = inputs(
        name, response_mask=torch.tensor([[1, 0], [1, 0]]), token_level_rewards=torch.tensor([[1.0, 0], [0, 0]])
    )
    poison = {
        key: torch.where(clean.response_mask != 0, getattr(clean, key), math.nan)
        for key in (
            "old_log_probs",
            "episode_log_probs",
            "step_log_probs",
            "other_episode_log_probs",
            "other_step_log_probs",
        )
    }
    a = get_algorithm(name).advantage(clean).advantages
    b = get_algorithm(name).advantage(dataclasses.replace(clean, **poison)).advantages
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
        get_algorithm("gigpo").advantage(inputs("gigpo", anchors=None))


def test_one_teacher_a_sample_the_step_skill_first():
    both = inputs(episode_mask=[True, True], step_mask=[False, True])
    teacher, mask = teacher_scores(both)
    assert teacher.tolist() == [[-3.0, -3.0], [-0.5, -0.5]]
    assert mask.all()
    teacher, mask = teacher_scores(inputs(step_mask=None))
    assert mask.tolist() == [[True, True], [False, False]]
    assert teacher[1].tolist() == [-1.0, -1.0]


def loss_inputs(name: str, log_probs: torch.Tensor, **changes) -> LossInputs:
    teacher, mask = teacher_scores(inputs())
    values = {
        "log_probs": log_probs,
        "old_log_probs": torch.full((2, 2), -1.0),
        "advantages": torch.zeros(2, 2),
        "teacher_log_probs": teacher,
        "teacher_mask": mask,
        "distribution": torch.stack([log_probs, (1 - log_probs.exp()).log()], -1),
        "teacher_distribution": Distribution(
            torch.stack([teacher, (1 - teacher.exp()).log()], -1).view(4, 2),
        ),
        "success": torch.tensor([True, False]),
        "state_gap": torch.tensor([0.0, 0.5]),
        "constants": get_algorithm(name).with_constants({"weight": 0.5}),
    }
    return LossInputs.from_padded(torch.ones(2, 2), **(values | changes))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo_opsd", 0.5 * (2.0 - 0.5) / 2),
        ("skill_sd", 0.5 * ((math.exp(-2) - 1 + 2) + (math.exp(0.5) - 1 - 0.5)) / 2),
        ("sdar", 0.5 * (-2 / (1 + math.exp(10)) + 0.5 / (1 + math.exp(-2.5))) / 2),
    ],
)
def test_distilling_losses_hand_computed(name, expected):
    out = get_algorithm(name).loss(loss_inputs(name, torch.full((2, 2), -1.0)))
    assert out.loss.item() == pytest.approx(expected)
    assert out.metrics["distillation"] == pytest.approx(2 * expected)
    assert out.metrics["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("name", DISTILLING)
def test_a_distilling_loss_without_a_teacher_is_the_plain_one(name):
    given = loss_inputs(
        name, torch.full((2, 2), -1.2), advantages=torch.ones(2, 2), teacher_log_probs=None, teacher_mask=None
    )
    assert get_algorithm(name).loss(given).loss.item() == policy_loss(given).loss.item()


def test_which_samples_an_update_needs():
    given = inputs(token_level_rewards=torch.zeros(2, 2))  # no outcome variance
    plain, kl = LossSettings(), LossSettings(kl_coef=0.1)
    mask = teacher_scores(inputs(step_mask=None))[1]
    grpo, sdar = get_algorithm("grpo"), get_algorithm("sdar")
    assert trained_samples(grpo, grpo.advantage(given), plain).tolist() == [False, False]
    assert trained_samples(grpo, grpo.advantage(given), kl).tolist() == [True, True]
    assert trained_samples(sdar, sdar.advantage(given), plain, mask).tolist() == [True, False]
    opid = get_algorithm("opid")
    assert trained_samples(opid, opid.advantage(dataclasses.replace(given, step_mask=None)), plain).tolist() == [
        True,
        False,
    ]


def test_grpo_is_the_outcome_whatever_the_skills_say():
    given = inputs()
    expected = outcome_advantage(given.token_level_rewards, given.response_mask, given.task_ids, mode="mean_norm")
    assert torch.equal(get_algorithm("grpo").advantage(given).advantages, expected)


def test_the_table():
    assert all(name == algorithm.name for name, algorithm in ALGORITHMS.items())
    assert {"vanilla", "skill_prompt", "grpo", "rloo", "gigpo", "opsd", "grpo_opsd", "skill_grpo"} < set(ALGORITHMS)
    assert {"skill_sd", "rlsd", "sdar", "opid", "opid_constant", "opid_random_skill"} < set(ALGORITHMS)
    assert get_algorithm("opid").needs_skills
    assert not get_algorithm("grpo").needs_skills
    with pytest.raises(ValueError, match=r"unknown algorithm 'gropo'; did you mean 'grpo'\? allowed: "):
        get_algorithm("gropo")
