"""The expert that only reads: how often it wins, and that reading is all it does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from opid_gym_envs.alfworld.catalogue import APPLIANCE
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import GeneratedSplit, generate
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, Problem, load_problem
from opid_gym_envs.alfworld.reading import read_task, type_of
from opid_gym_envs.alfworld.searching import SearchingExpert, demonstrate
from tests.alfworld.households import extract_games


def start(problem: Problem) -> Engine:
    return Engine(Game.compile(problem))


def wins(problem: Problem, seed: int, max_steps: int) -> bool:
    engine = start(problem)
    demonstrate(engine, random.Random(seed), max_steps=max_steps)
    return engine.won


@pytest.mark.parametrize("dialect", [Dialect.MOVE, Dialect.PUT], ids=lambda d: d.name)
@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize(("size", "max_steps", "at_least"), [("small", 30, 29), ("real", 50, 28)])
def test_it_wins_nearly_always(size: str, max_steps: int, at_least: int, task_type: str, dialect: Dialect) -> None:
    games = [generate(("search", seed), task_type=task_type, size=size, dialect=dialect) for seed in range(30)]
    assert sum(wins(game, seed, max_steps) for seed, game in enumerate(games)) >= at_least


def test_it_wins_the_shared_official_format_games(tmp_path: Path) -> None:
    games = [load_problem(path) for path in extract_games(tmp_path)]
    assert len(games) == 17
    for game in games:
        assert all(wins(game, seed, 50) for seed in range(3))


def test_its_choices_follow_from_the_text_alone() -> None:
    """Given the same text by somebody who has no game at all, it says the same."""
    for seed, problem in enumerate(GeneratedSplit("train", count=20)):
        engine = start(problem)
        episode = demonstrate(engine, random.Random(seed))
        engine.reset()
        texts = []
        for observation, command in episode:
            texts.append((observation, list(engine.admissible_commands()), command))
            engine.step(command)
        echo = SearchingExpert(problem.task, random.Random(seed))
        for observation, admissible, command in texts:
            assert echo.act(observation, admissible) == command


def test_it_only_says_what_the_game_accepts_and_looks_nowhere_twice() -> None:
    for seed in range(40):
        problem = generate(seed, size="real")
        wish = read_task(problem.task)
        engine = start(problem)
        known: dict[str, str] = {}  # receptacle -> what it was last seen to hold
        expert, observation = SearchingExpert(problem.task, random.Random(seed)), engine.reset()
        for _ in range(50):
            command = expert.act(observation, engine.admissible_commands())
            assert command in engine.admissible_commands()
            place = command.removeprefix("go to ")
            if place in known:
                useful = {wish.target_type, APPLIANCE.get(wish.task_type, "").lower()}
                wanted = {wish.object_type, wish.target_type}
                assert type_of(place) in useful or wanted & set(known[place].replace(",", "").split())
            observation = engine.step(command)
            for receptacle in engine.game.receptacle_names:
                if f"On the {receptacle}, you see" in observation or f"The {receptacle} is open." in observation:
                    known[receptacle] = observation.rpartition("you see")[2]
            if engine.won:
                break


def test_equal_generators_give_equal_play_and_others_other_play() -> None:
    problem = generate(3, size="real", task_type="pick_clean_then_place_in_recep")
    plays = [[c for _, c in demonstrate(start(problem), random.Random(seed))] for seed in (0, 0, 1, 2, 3, 4, 5)]
    assert plays[0] == plays[1]
    assert len({tuple(play) for play in plays}) > 1


def test_it_can_take_over_from_somebody_else() -> None:
    """It listens while another plays at random, hands full and doors open, and then finishes the job."""
    taken_over = won = 0
    for seed in range(60):
        problem = generate(("over", seed), size="small", dialect=(Dialect.MOVE, Dialect.PUT)[seed % 2])
        engine, rng = start(problem), random.Random(seed)
        expert, observation = SearchingExpert(problem.task, rng), engine.reset()
        for _ in range(20):
            expert.act(observation, engine.admissible_commands())
            commands = [c for c in engine.admissible_commands() if not c.startswith(("look", "help", "inventory"))]
            observation = engine.step(rng.choice([*commands, "dance"]))
        taken_over += not engine.won
        for _ in range(40):
            if engine.won:
                break
            observation = engine.step(expert.act(observation, engine.admissible_commands()))
        won += engine.won
    assert taken_over > 50
    assert won >= 58


def test_a_task_in_other_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task 'Warm up a potato' is not worded like any template: put a {obj} in"):
        SearchingExpert("Warm up a potato", random.Random(0))


def test_it_gives_up_politely() -> None:
    """Where nothing is left to search it looks; the game goes on."""
    expert = SearchingExpert("put a mug in desk", random.Random(0))
    assert expert.act("You are in the middle of a room.", ["help", "inventory", "look"]) == "look"
