import pytest
from opid_agents.skills.advice import advised_action, balance, disagrees
from opid_agents.skills.route import Route

from opid_gym.trajectory import Step, StepHindsight


def step(action="look", better=None, admissible=("look", "go to shelf 1", "go to shelf 10")):
    hindsight = None if better is None else StepHindsight(changed_state=True, better=better)
    return Step("a room", action, 0.0, "a room", admissible_actions=admissible, hindsight=hindsight)


def test_the_longest_action_in_the_text_is_the_advised_one():
    assert advised_action(step(), "Go to shelf 10 instead.") == "go to shelf 10"
    assert advised_action(step(), "think before you act") is None


def test_where_actions_are_free_text_hindsight_names_them():
    free = step("search[x]", better="search[capital of Kenya]", admissible=None)
    assert advised_action(free, "search[capital of Kenya]") == "search[capital of Kenya]"
    assert advised_action(free, "ask for the capital") is None


def test_a_skill_disagrees_if_it_names_another_action():
    assert disagrees(step("look"), "go to shelf 1")
    assert not disagrees(step("go to shelf 1"), "go to shelf 1")
    assert not disagrees(step("look"), "be careful")
    assert not disagrees(step("look"), None)


def test_advice_is_heard_once_an_episode_and_a_state_is_not_overheard():
    a, b = Route(step="a"), Route(episode="plan", step="b")
    routes = [a, a, b, a, Route(episode="plan")]
    episodes, states = [0, 0, 0, 1, 1], ["hall", "hall", "hall", "hall", "hall"]
    once = balance(routes, episodes, states, once_per_advice=True)
    assert once == [a, Route(), b, a, Route(episode="plan")]
    assert balance(routes, episodes, states, per_state=2) == [
        a,
        a,
        Route(episode="plan"),
        Route(),
        Route(episode="plan"),
    ]
    assert balance(routes, episodes, states) == routes


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="one episode and one state for each of 1 routes is needed, got 0 and 1"):
        balance([Route()], [], ["hall"])
    with pytest.raises(ValueError, match="per_state must be at least 1 or None, got 0"):
        balance([], [], [], per_state=0)
