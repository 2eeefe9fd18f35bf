"""Returns, and names of states, of recorded trajectories: what credit by comparison rests on.

Used by the group contrast (`opid_agents.skills.contrast`) and by GiGPO's state term (arXiv 2505.10978), which both
compare what followed from one state.
"""

from __future__ import annotations

from opid_gym.trajectory import Step, Trajectory


def discounted_returns(trajectory: Trajectory, gamma: float) -> list[float]:
    """R_t = r_t + gamma * R_(t+1), for each step.

    Raises:
        ValueError: gamma is not in [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    returns: list[float] = []
    following = 0.0
    for step in reversed(trajectory.steps):
        following = step.reward + gamma * following
        returns.append(following)
    return returns[::-1]


def had_effect(step: Step) -> bool:
    """Whether a step changed the state: by its hindsight where it has one, else whether the screen changed.

    Without hindsight a step whose reply could not be read had no effect.
    """
    if step.hindsight is not None:
        return step.hindsight.changed_state
    return step.valid and step.next_observation != step.observation


def state_names(trajectory: Trajectory) -> list[str]:
    """A name for the state each action was chosen in: the anchor, else the observation.

    After an action without effect the state is still the one before, whatever the screen says.
    """
    names: list[str] = []
    for index, step in enumerate(trajectory.steps):
        if index and not had_effect(trajectory.steps[index - 1]):
            names.append(names[-1])
        else:
            names.append(step.anchor or step.observation)
    return names
