"""Playing ahead: which weights play which iteration, while earlier ones are still scored and learned from.

With a staleness of s the rollouts of iteration i are played by the weights after iteration i - 1 - s, or by the first
ones: as late as is allowed, and never by what just happens to be ready. So a run's numbers do not depend on how fast
anything is, and an interrupted run goes on with those of an unbroken one; for that its checkpoints hold the weights
that the next s iterations are played with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.skills.library import SkillLibrary
from opid_agents.training.player import Order, Player
from opid_agents.training.rollouts import Part
from opid_gym.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Version:
    """What a policy played with after some iteration."""

    weights: bytes
    library: SkillLibrary | None = None


@dataclass(slots=True)
class Ahead:
    """Orders rollouts from a player as early as the staleness allows.

    Attributes:
        player: who plays.
        staleness: how many updates the weights that play may miss, 1 or more.
        last: the last iteration of the run.
        versions: weights by the number of iterations that they have learned from.
        ordered: the last iteration that was ordered, or that an earlier part of the run has finished.
        seconds: that the player needed for the iteration taken last.
    """

    player: Player
    staleness: int
    last: int
    versions: dict[int, Version]
    ordered: int
    seconds: float = field(init=False, default=0.0)

    def remember(self, version: int, weights: bytes, library: SkillLibrary | None) -> None:
        """Keep what the policy plays with now, and forget what no iteration will be played with any more."""
        self.versions[version] = Version(weights, copy.deepcopy(library))
        for old in [number for number in self.versions if number < version - self.staleness]:
            del self.versions[old]

    def take(self, iteration: int, part: Callable[[int], Part]) -> list[Trajectory]:
        """The rollouts of an iteration; before it waits for them it orders all that can be played by now.

        Args:
            iteration: the next one.
            part: what is played in an iteration.

        Raises:
            opid_agents.training.player.PlayerLost: the player has ended.
        """
        for number in range(self.ordered + 1, min(iteration + self.staleness, self.last) + 1):
            wanted = part(number)
            version = self.versions[wanted.version]
            self.player.order(Order(wanted, version.weights, version.library))
            self.ordered = number
        played = self.player.take()
        self.seconds = played.seconds
        return played.trajectories

    def to_keep(self, finished: int) -> Mapping[int, bytes]:
        """The weights that the next iterations are played with, by version, as a checkpoint keeps them."""
        return {n: self.versions[n].weights for n in range(max(0, finished - self.staleness), finished)}


def make_player(recipe: Recipe, policy: Policy, start: Path, folder: Path, games: int) -> Player:
    """Who plays for a run: a process with a copy of the policy, on the recipe's device for rollouts.

    Args:
        recipe, policy: of the run.
        start: folder of a policy of this shape.
        folder: where vLLM is handed weights.
        games: played at once.
    """
    device = recipe.model.rollout_device or str(policy.device)
    theirs = change(recipe, {"model.device": device, "model.rollout_device": None, "staleness": 0})
    return Player(theirs, start, folder, games)


def version_for(iteration: int, staleness: int) -> int:
    """The number of iterations that the weights have learned from which play an iteration.

    >>> [version_for(iteration, 1) for iteration in (1, 2, 3, 4)]
    [0, 0, 1, 2]
    """
    return max(0, iteration - 1 - staleness)
