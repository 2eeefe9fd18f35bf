"""The table of algorithms.

To add one to the table, write a function from `AdvantageInputs` to `Advantage` (or from `LossInputs` to `LossOutput`)
and one entry in `ALGORITHMS`; one that lives elsewhere is named ``module:name``.

Methods stand here as in their papers. Where the public code does something else, that is an algorithm of its own,
called ``..._as_released``. ``opid_...`` are forms of our own, except ``opid`` and ``opid_as_released``.

For everything with a teacher there are controls: its teacher with the wrong skills (``..._random_skill``,
``..._other_task_skill``), everything but its teacher (``..._constant``, or ``opid_constant``), and for all of them
``imitate_advice`` (``srpo_advice`` for those that take failures out of the outcome's term). A gain that a control has
as well does not come from what the control lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from opid_agents.algorithms.algorithm import Algorithm
from opid_agents.algorithms.auxiliary import (
    divergence_loss,
    grpo_opsd_loss,
    sdar_loss,
    sdpo_loss,
    skill_sd_loss,
    srpo_loss,
    srpo_reply_loss,
    teacher_alone,
    ucob_loss,
)
from opid_agents.algorithms.baselines import dr_grpo, dr_grpo_loss, gigpo, grpo, gspo_loss, rloo
from opid_agents.algorithms.shaping import (
    adrs,
    opid,
    opid_as_released,
    opid_bounded,
    opid_bounded_constant,
    opid_constant,
    opid_contrast,
    opid_disagree,
    opid_disagree_constant,
    opid_gated,
    opid_window,
    opid_window_constant,
    opsd,
    rlcsd,
    rlsd,
    srpo_advice,
    stepopsd,
)
from opid_gym.named import did_you_mean, load_named

_CONSTANT = {"success": -2.0, "failure": -2.0}
_WINDOW = {"start": 20, "length": 50}
_BOUNDS = {"low": 0.5, "high": 2.0}
_SRPO = {"weight": 1.0, "alpha": 0.5, "top_k": 100, "strength": 1.0, "ema_rate": 0.05}


def _distilling(name: str, advantage: Any, loss: Any, **options: Any) -> Algorithm:
    """An algorithm whose loss has the teacher; what it teaches does not depend on whether outcomes differ."""
    return Algorithm(name, advantage, loss, teacher="scores", distills=True, needs_variance=False, **options)


def _wrong_skills(algorithm: Algorithm) -> Iterable[Algorithm]:
    """The controls of an algorithm whose teacher has the wrong skills."""
    return (
        replace(algorithm, name=f"{algorithm.name}_random_skill", swap="shuffled"),
        replace(algorithm, name=f"{algorithm.name}_other_task_skill", swap="other_task"),
    )


_WITHOUT_TEACHER = (
    Algorithm("vanilla", None),
    Algorithm("skill_prompt", None, library=True, library_at_test=True),
    Algorithm("grpo", grpo),
    Algorithm("rloo", rloo),
    Algorithm("gigpo", gigpo, constants={"weight": 1.0, "similarity": None}, needs_variance=False),
    Algorithm("dr_grpo", dr_grpo, dr_grpo_loss),
    Algorithm("gspo", grpo, gspo_loss, constants={"clip_low": 3e-4, "clip_high": 4e-4}),
    Algorithm("skill_grpo", grpo, library=True, library_at_test=None),
)

_PUBLISHED = (
    Algorithm("opid", opid, teacher="scores"),
    Algorithm("opid_as_released", opid_as_released, constants={"weight": 0.001}, teacher="scores"),
    Algorithm("opsd", opsd, teacher="scores", needs_variance=False),
    _distilling("opsd_as_released", teacher_alone, sdar_loss, constants={"weight": 0.01, "sharpness": 5.0}),
    _distilling(
        "opsd_full",
        teacher_alone,
        divergence_loss,
        constants={"weight": 1.0, "alpha": 0.5, "top_k": 0},
        teacher_weights="start",
        distributions=True,
    ),
    _distilling("grpo_opsd", grpo, grpo_opsd_loss, constants={"weight": 0.01}),
    _distilling("grpo_opsd_as_released", grpo, sdar_loss, constants={"weight": 0.01, "sharpness": 0.0}),
    _distilling("skill_sd", grpo, skill_sd_loss, constants={"weight": 0.1}),
    _distilling("skill_sd_as_released", grpo, skill_sd_loss, constants={"weight": 0.001}),
    Algorithm("rlsd", rlsd, constants={"mix": 0.5, "iterations": 50, "clip": 0.2}, teacher="scores"),
    Algorithm("rlsd_as_released", rlsd, constants={"mix": 0.5, "iterations": 100, "clip": 0.2}, teacher="scores"),
    _distilling("sdar", grpo, sdar_loss, constants={"weight": 0.01, "sharpness": 5.0}),
    # The term of the code is the paper's; what differs is a setting of search QA (`sdar_loss`).
    _distilling("sdar_as_released", grpo, sdar_loss, constants={"weight": 0.01, "sharpness": 5.0}),
    _distilling(
        "sdpo",
        teacher_alone,
        sdpo_loss,
        constants={"weight": 1.0, "alpha": 0.5, "top_k": 100, "limit": 2.0, "ema_rate": 0.05},
        teacher_weights="ema",
        distributions=True,
    ),
    _distilling(
        "sdft",
        teacher_alone,
        divergence_loss,
        constants={"weight": 1.0, "alpha": 0.0, "top_k": 0, "ema_rate": 0.05},
        teacher_weights="ema",
        distributions=True,
    ),
    _distilling(
        "sdft_reverse",
        teacher_alone,
        divergence_loss,
        constants={"weight": 1.0, "alpha": 1.0, "top_k": 0, "ema_rate": 0.05},
        teacher_weights="ema",
        distributions=True,
    ),
    _distilling("srpo", grpo, srpo_loss, constants=_SRPO, teacher_weights="ema", distributions=True),
    _distilling(
        "ucob",
        grpo,
        ucob_loss,
        constants={"weight": 0.1, "top_k": 32, "margin": 0.05, "temperature": 0.2, "limit": 2.0},
        distributions=True,
    ),
    Algorithm("stepopsd", stepopsd, constants={"mix": 0.5, "clip": 0.2}, teacher="scores", action_tokens=True),
    Algorithm("rlcsd", rlcsd, constants={"mix": 0.5, "clip": 0.2}, teacher="scores", other_skill=True),
    Algorithm("adrs", adrs, constants={"weight": 0.02, **_WINDOW}, teacher="scores"),
)

_OWN = (
    Algorithm("opid_contrast", opid_contrast, teacher="scores", other_skill=True),
    _distilling(
        "opid_forward_kl",
        grpo,
        divergence_loss,
        constants={"weight": 0.1, "alpha": 0.0, "top_k": 0},
        distributions=True,
    ),
    Algorithm("opid_bounded", opid_bounded, constants=_BOUNDS, teacher="scores"),
    Algorithm("opid_disagree", opid_disagree, teacher="scores"),
    Algorithm("opid_gated", opid_gated, teacher="scores"),
    Algorithm("opid_window", opid_window, constants=_WINDOW, teacher="scores"),
    Algorithm("opid_reply", opid, constants={"imitation_weight": 0.1}, teacher="scores", imitates="reply"),
    _distilling(
        "srpo_reply",
        grpo,
        srpo_reply_loss,
        constants={**_SRPO, "imitation_weight": 0.1},
        teacher_weights="ema",
        distributions=True,
        imitates="reply",
    ),
)

# What is constant in all of them needs no teacher; for those that are not named here it is `opid_constant`.
_CONTROLS = (
    Algorithm("opid_constant", opid_constant, constants=_CONSTANT, teacher="routing"),
    Algorithm("opid_bounded_constant", opid_bounded_constant, constants=_CONSTANT | _BOUNDS, teacher="routing"),
    Algorithm("opid_disagree_constant", opid_disagree_constant, constants=_CONSTANT, teacher="routing"),
    Algorithm("opid_window_constant", opid_window_constant, constants=_CONSTANT | _WINDOW, teacher="routing"),
    Algorithm("imitate_advice", grpo, constants={"imitation_weight": 0.1}, teacher="routing", imitates="advice"),
    Algorithm(
        "srpo_advice",
        srpo_advice,
        constants={"imitation_weight": 0.1},
        teacher="routing",
        imitates="advice",
        needs_variance=False,
    ),
)

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        *_WITHOUT_TEACHER,
        *_PUBLISHED,
        *_OWN,
        *_CONTROLS,
        *(control for form in (*_PUBLISHED, *_OWN) for control in _wrong_skills(form)),
    )
}


def allowed_names() -> str:
    """What an algorithm may be called, for messages; controls with the wrong skills as a rule, not one by one."""
    names = sorted(name for name, algorithm in ALGORITHMS.items() if algorithm.swap is None)
    return f"{names}, NAME_random_skill or NAME_other_task_skill for one with a teacher, or module:name"


def get_algorithm(name: str) -> Algorithm:
    """The algorithm called `name` in `ALGORITHMS`, or one of your own, as ``module:name``.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if ":" not in name:
        hint = did_you_mean(name, ALGORITHMS)
        raise ValueError(f"unknown algorithm {name!r}; {hint and hint + ' '}allowed: {allowed_names()}")
    found = load_named(name, "algorithm")
    if not isinstance(found, Algorithm):
        raise ValueError(f"{name!r} is a {type(found).__name__}, not an opid_agents.algorithms.Algorithm")
    return found
