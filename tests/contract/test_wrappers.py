"""Wrappers for learners that choose and read vectors: shapes, masks, memory, and Gymnasium's own checks."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import opid_gym
from opid_gym.wrappers import CachedEncoder, DiscreteActions, EmbedText, HashedWords
from tests.corridor import Corridor  # noqa: F401  (registers itself)

gym.register_envs(opid_gym)


def choosing(max_actions: int = 5, **options: object) -> DiscreteActions:
    return DiscreteActions(gym.make("tests/Corridor-v0", seed=0), max_actions, **options)  # type: ignore[arg-type]


def embedded(max_actions: int = 5, dimension: int = 16) -> EmbedText:
    return EmbedText(choosing(max_actions), HashedWords(dimension))


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_accepts_the_wrapped_environment() -> None:
    check_env(embedded(), skip_render_check=True)
    check_env(EmbedText(DiscreteActions(gym.make("opid/ALFWorld-v0", size="small")), HashedWords(8)))


def test_every_number_is_an_action() -> None:
    env = choosing(5)
    _, info = env.reset(options={"task_id": "walk-5"})
    assert (info["candidates"], info["cut_off"]) == (("left", "right"), 0)
    assert env.action_masks().tolist() == [True, True, False, False, False]
    played = [env.step(action)[4]["action"] for action in (0, 1, 2, 3)]
    assert played == ["left", "right", "left", "right"]


def test_what_does_not_fit_is_counted() -> None:
    env = choosing(1)
    _, info = env.reset()
    assert (info["candidates"], info["cut_off"]) == (("left",), 1)
    with pytest.raises(ValueError, match="max_actions must be >= 1, got 0"):
        choosing(0)


def test_candidates_can_be_proposed() -> None:
    env = choosing(4, candidates=lambda observation, info: [f"say {observation[-2]}", "right"])
    _, info = env.reset(options={"task_id": "walk-1"})
    assert info["candidates"] == ("say 0", "right")
    assert env.step(1)[2] is True


def test_an_episode_that_is_over_may_leave_nothing_to_choose() -> None:
    env = EmbedText(choosing(3, candidates=lambda observation, info: [] if info["won"] else ["right"]), HashedWords(8))
    env.reset(options={"task_id": "walk-1"})
    view, _, terminated, _, info = env.step(0)
    assert terminated
    assert info["candidates"] == ("",)
    assert view in env.observation_space


def test_an_action_is_embedded_as_what_it_means() -> None:
    encode = HashedWords(16)
    env = EmbedText(choosing(2), encode, describe=lambda observation, action: f"{action} of {observation}")
    view, _ = env.reset()
    assert np.array_equal(view["actions"], encode(["left of You are at 0.", "right of You are at 0."]))


def test_the_view_holds_state_actions_mask_and_what_was_tried() -> None:
    env = embedded(5, 16)
    encode = HashedWords(16)
    view, _ = env.reset(options={"task_id": "walk-4"})
    assert view in env.observation_space
    assert np.array_equal(view["state"], np.stack([*encode(["walk 4 to the right", "You are at 0."]), np.zeros(16)]))
    assert np.array_equal(view["actions"], encode(["left", "right", "left", "right", "left"]))
    assert view["mask"].tolist() == [1, 1, 0, 0, 0]
    assert view["tried"].tolist() == [0, 0, 0, 0, 0]
    view, *_ = env.step(1)
    view, *_ = env.step(1)
    assert np.allclose(view["tried"], [0, 2 / 3, 0, 2 / 3, 0])
    assert np.array_equal(view["state"][2], encode(["right"])[0])
    view, _ = env.reset()
    assert view["tried"].tolist() == [0, 0, 0, 0, 0]


def test_an_encoder_is_asked_once_for_a_text_and_forgets_the_oldest() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[float(len(text)), 1.0] for text in texts], dtype=np.float32)

    cached = CachedEncoder(encode, max_texts=3)
    assert cached(["a", "bb", "a"]).tolist() == [[1, 1], [2, 1], [1, 1]]
    cached(["a", "ccc"])
    cached(["dddd", "a"])  # bb goes
    assert asked == ["a", "bb", "ccc", "dddd"]
    assert len(cached) == 3
    assert cached([f"text {i}" for i in range(10)]).shape == (10, 2)
    assert len(cached) == 3


def test_hashed_words_are_unit_vectors_that_know_order_and_survive_any_text() -> None:
    encode = HashedWords(64)
    vectors = encode(["put mug on desk", "put desk on mug", "", "\ud800 naïve 🙂 中文", "PUT mug, on desk!"])
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1)[[0, 1, 3, 4]], 1)
    assert not vectors[2].any()
    assert np.array_equal(vectors[0], vectors[4])
    assert not np.array_equal(vectors[0], vectors[1])


def test_embedding_needs_choices() -> None:
    with pytest.raises(ValueError, match="EmbedText wraps a DiscreteActions"):
        EmbedText(gym.make("tests/Corridor-v0"), HashedWords(8))
