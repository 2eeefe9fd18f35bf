"""The world protocol: what somebody writes to add a benchmark.

A world knows a set of tasks and plays many games of them at once. It knows nothing of Gymnasium, seeds,
time limits, autoreset or recording: `opid_gym.env.TextEnv` (one game) and `opid_gym.vector.TextVectorEnv`
(a batch) add those to any world, so every world behaves the same there.

Methods take and return *batches*, because some worlds can only be fast that way (search QA answers the queries of
all games with one retrieval call). A world that has nothing to share simply loops.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from opid_gym.trajectory import StepHindsight, Trajectory


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do in a world.

    Attributes:
        id: stable name, the same in every process and on every machine; results are paired by it.
        type: the group a result is reported under (e.g. ``pick_heat_then_place_in_recep``).
        text: the instruction as the agent reads it.
    """

    id: str
    type: str
    text: str


@dataclass(slots=True)  # not frozen: that would take three times as long to make, and one is made every step
class Turn:
    """What the world shows after a reset or an action.

    Attributes:
        observation: the world's own text, nothing added.
        reward: reward of the action just played (0.0 after a reset).
        terminated: the world has ended the episode. Time limits are not the world's business.
        truncated: the episode cannot go on for a reason outside the task, such as a browser that crashed; the reason is
            in `extras` under ``crashed`` or ``too_slow``.
        won: the task is solved as of now.
        admissible_actions: every action the world would accept now, in the world's order; None where actions
            are free text.
        anchor: a text that names the state for grouping equal states (GiGPO's anchor observation); the
            observation itself where the world has nothing better.
        extras: further `info` entries of this world.
    """

    observation: str
    reward: float = 0.0
    terminated: bool = False
    won: bool = False
    admissible_actions: tuple[str, ...] | None = None
    anchor: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    truncated: bool = False


# What a world's `source` means, for people who read results.
_SOURCES = {
    "generated": "generated tasks, not official data",
    "official": "official data",
    "given": "tasks from files of the user's own",
}


def describe_source(source: str | None) -> str:
    """In words, what tasks results were made on; "" where it is not known.

    >>> describe_source("generated")
    'generated tasks, not official data'
    """
    return _SOURCES.get(source or "", source or "")


class World(ABC):
    """A set of tasks and the games being played of them.

    Games live in *slots*, small integers chosen by the caller. A slot holds one game; starting a slot again replaces
    its game.

    An environment is copied and pickled with its world and the games in it. A world that holds what cannot be copied
    (open files, processes) leaves it out (`__getstate__`) or refuses with a `TypeError` that says why.

    Attributes:
        task_ids: ids of the tasks of the chosen split, in a fixed order.
        default_max_episode_steps: the limit a user gets who asks for none (the original benchmark's).
        task_options: forms of tasks beyond the split's that `add_task` takes, by the name a reset option has for them.
        action_help: how to act, in a sentence or two, for people and models that do not know the world.
        source: where the tasks come from: ``generated`` by this package, ``official`` (the original benchmark's data)
            or ``given`` by the user.
        data: the folder or file the tasks were read from, as a text; None: there is none.
    """

    task_ids: Sequence[str]
    default_max_episode_steps: ClassVar[int] = 50
    task_options: ClassVar[tuple[str, ...]] = ()
    action_help: ClassVar[str] = "anything you like"
    source: str = "generated"
    data: str | None = None

    @abstractmethod
    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """Begin one task in each slot.

        Args:
            slots: which games; no slot twice.
            task_ids: the task for each slot, aligned with `slots`.

        Returns:
            The task and its first turn, aligned with `slots`.

        Raises:
            KeyError: a task id is not of this world; the message names it.
        """

    @abstractmethod
    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """Play one action in each slot; any string is accepted, an invalid one changes nothing."""

    def add_task(self, option: str, value: Any) -> str:
        """Take a task that a user describes, as in ``reset(options={option: value})``.

        Args:
            option: one of `task_options`.
            value: the description.

        Returns:
            A task id for `start`: equal descriptions have equal ids.

        Raises:
            ValueError: the description cannot be played; the message names what is wrong with it.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no tasks but its own")

    def expert_actions(self, slots: Sequence[int]) -> list[str]:
        """The next action of a solver that sees the hidden state, for demonstrations and upper bounds."""
        raise NotImplementedError(f"{type(self).__name__} has no expert")

    def hindsight(self, trajectory: Trajectory) -> list[StepHindsight]:
        """What a finished episode's own text tells of each of its steps.

        `opid_gym.hindsight.RecordTrajectories` asks once, when the episode ends, and keeps the answer with the steps.
        Nothing privileged may go into it: only what stands in the record.

        Returns:
            One record for each step, in order; [] where the world tells nothing.
        """
        return []

    def workflow(self, trajectory: Trajectory) -> list[str]:
        """What a successful episode did that mattered, in order, without its detours.

        Returns:
            A few words a phrase, general enough to fit other tasks of the kind; [] where the world tells nothing.
        """
        return []

    def close(self) -> None:
        """Release what the games hold (processes, browsers, files)."""
