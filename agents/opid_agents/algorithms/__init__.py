"""Algorithms: advantages and losses as pure functions of tensors. Nothing here knows a recipe, a world or a file."""

from opid_agents.algorithms.algorithm import AdvantageInputs, AdvantageSettings, Algorithm
from opid_agents.algorithms.losses import LossInputs, LossOutput, LossSettings
from opid_agents.algorithms.table import ALGORITHMS, get_algorithm

__all__ = [
    "ALGORITHMS",
    "AdvantageInputs",
    "AdvantageSettings",
    "Algorithm",
    "LossInputs",
    "LossOutput",
    "LossSettings",
    "get_algorithm",
]
