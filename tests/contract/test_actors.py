"""Games in Ray actors: what this process would have played, and what becomes of those whose actor dies."""

import gymnasium as gym
import numpy as np
import pytest

from opid_gym.hindsight import RecordTrajectories
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from tests import corridor  # noqa: F401  (registers the worlds)

ray = pytest.importorskip("ray", reason="Ray is in the extra search")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """It ends with the tests, and not with the process."""
    yield
    ray.shutdown()


class Walker:
    """Walks right; at one place in one task it says what ends the process."""

    def __init__(self, fatal=None):
        self.fatal = fatal

    def reset(self, mask):
        pass

    def act(self, observations, infos):
        games = [i in np.flatnonzero(infos["_task"]) for i in range(len(observations))]
        said = [
            "die" if live and (infos["task_id"][i], observations[i]) == self.fatal else "right"
            for i, live in enumerate(games)
        ]
        if "die" in said:
            self.fatal = None  # once
        return said


def played(agent, **arguments):
    envs = make_envs("tests/Fragile-v0", 4, seed=0, lengths=[1, 2, 3, 4], **arguments)
    tasks = ["walk-3", "walk-2", "walk-4", "walk-1"] * 3
    found = sorted(play(envs, agent, tasks), key=lambda trajectory: trajectory.metadata["index"])
    lost = getattr(envs.world, "lost", 0)
    envs.close()
    return found, lost


def test_actors_play_what_this_process_plays():
    here, _ = played(Walker())
    there, lost = played(Walker(), actors=2)
    assert [trajectory.to_json() for trajectory in there] == [trajectory.to_json() for trajectory in here]
    assert lost == 0


def test_the_episodes_of_an_actor_that_dies_are_truncated_and_counted_and_all_others_are_whole():
    here, _ = played(Walker())
    there, lost = played(Walker(fatal=("walk-4", "You are at 1.")), actors=2)
    assert len(there) == len(here) == 12
    crashed = [trajectory for trajectory in there if "crashed" in trajectory.metadata]
    assert lost == len(crashed) == 2  # game 0 was playing in the same actor
    for trajectory in crashed:
        assert trajectory.truncated
        assert not trajectory.success
        assert trajectory.steps[-1].reward == 0.0
        assert trajectory.metadata["crashed"] == "the actor that played it has died"
    for one, other in zip(there, here, strict=True):
        if one not in crashed:
            assert (one.steps, one.success) == (other.steps, other.success)  # groups are numbered as they begin


def test_tasks_that_users_describe_and_what_worlds_say_pass_through_actors():
    envs = gym.make_vec("tests/Fragile-v0", num_envs=3, actors=2, lengths=[1, 2])
    recorder = RecordTrajectories(envs, hooks=[])
    _, infos = recorder.reset(options={"lengths": [3, 7, 7]})
    assert infos["task_id"].tolist() == ["walk-3", "walk-7", "walk-7"]
    assert envs.unwrapped.expert_actions() == ["right"] * 3
    recorder.step(["die", "right", "right"])
    _, infos = recorder.reset(options={"lengths": [7, 7, 7]})  # a new actor knows them too
    assert infos["distance"].tolist() == [7, 7, 7]
    with pytest.raises(KeyError, match="no-such"):
        recorder.reset(options={"task_ids": ["walk-7", "no-such", "walk-7"]})
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        envs.unwrapped.world.__getstate__()
    envs.close()


@pytest.mark.parametrize("actors", [0, "two"])
def test_the_number_of_actors_is_checked(actors):
    with pytest.raises(ValueError, match="actors must be a positive integer"):
        gym.make_vec("tests/Corridor-v0", num_envs=1, actors=actors)


def test_a_world_that_cannot_be_made_says_why():
    with pytest.raises(TypeError, match="not iterable"):
        gym.make_vec("tests/Corridor-v0", num_envs=1, actors=1, lengths=7)
