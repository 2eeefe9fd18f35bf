"""The registered environments, as data."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from opid_gym.env import TextEnv
from opid_gym.vector import TextVectorEnv
from opid_gym.world import World


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """One registered world.

    Attributes:
        id: the Gymnasium id.
        world: ``module:Class`` of the world, imported when an environment is made.
        max_episode_steps: the original benchmark's limit.
        summary: one line for ``opid-gym envs``.
    """

    id: str
    world: str
    max_episode_steps: int
    summary: str


WORLDS = (
    WorldSpec(
        id="opid/ALFWorld-v0",
        world="opid_gym_envs.alfworld.env:ALFWorld",
        max_episode_steps=50,
        summary="household tasks in text, with the transcripts of stock ALFWorld",
    ),
    WorldSpec(
        id="opid/SearchQA-v0",
        world="opid_gym_envs.searchqa.env:SearchQA",
        max_episode_steps=4,
        summary="questions to answer by searching passages, embedded or your own",
    ),
    WorldSpec(
        id="opid/WebShop-v0",
        world="opid_gym_envs.webshop.env:WebShop",
        max_episode_steps=15,
        summary="shopping by instruction, with the pages, ranks and rewards of stock WebShop",
    ),
    WorldSpec(
        id="opid/WebShopSite-v0",
        world="opid_gym_envs.webshop.browser:WebShopSite",
        max_episode_steps=15,
        summary="the same shop as a site, used through a real browser",
    ),
)


def register_worlds() -> None:
    """Tell Gymnasium about every world of `WORLDS`; doing it again changes nothing."""
    for spec in WORLDS:
        register_world(spec)


def register_world(spec: WorldSpec) -> None:
    """Tell Gymnasium about a world, also one of your own; doing it again changes nothing."""
    if spec.id not in gym.registry:
        gym.register(
            spec.id,
            entry_point="opid_gym.registration:make_env",
            vector_entry_point="opid_gym.registration:make_vector_env",
            max_episode_steps=spec.max_episode_steps,
            kwargs={"world": spec.world},
        )


def make_envs(env: str, num_envs: int, **arguments: Any) -> TextVectorEnv:
    """A batch of games of a registered world without autoreset, as `opid_gym.rollout.play` wants it.

    Args:
        env: a Gymnasium id; ``module:id`` imports the module first, which registers it.
        num_envs: how many games.
        arguments: further arguments of `gymnasium.make_vec`.

    Raises:
        ValueError: an unknown id; the message gives the nearest.
        ImportError: there is no such module.
    """
    module, separator, env_id = env.partition(":")
    if separator:
        import_module(module)
        env = env_id
    if env not in gym.registry:
        known = [world.id for world in WORLDS]
        near = get_close_matches(env, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown environment {env!r}; known: {known}{hint}")
    envs = gym.make_vec(env, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED, **arguments)
    if not isinstance(envs, TextVectorEnv):
        raise ValueError(f"{env!r} is not a text environment of this package's contract")
    return envs


def make_env(world: str, seed: int = 0, render_mode: str | None = None, **kwargs: Any) -> TextEnv:
    """Entry point of `gymnasium.make`; `kwargs` go to the world."""
    return TextEnv(make_world(world, **kwargs), seed=seed, render_mode=render_mode)


def make_vector_env(
    world: str,
    num_envs: int = 1,
    group_size: int = 1,
    seed: int = 0,
    max_episode_steps: int | None = None,
    autoreset_mode: Any = gym.vector.AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    **kwargs: Any,
) -> TextVectorEnv:
    """Entry point of `gymnasium.make_vec`; `kwargs` go to the world."""
    return TextVectorEnv(
        make_world(world, **kwargs),
        num_envs,
        group_size=group_size,
        seed=seed,
        max_episode_steps=max_episode_steps,
        autoreset_mode=autoreset_mode,
        render_mode=render_mode,
    )


def make_world(world: str, **kwargs: Any) -> World:
    """Import ``module:Class`` and build it.

    Raises:
        TypeError: a keyword the world does not know; the message lists those it does.
    """
    module, _, name = world.partition(":")
    factory = cast(Callable[..., World], getattr(import_module(module), name))
    allowed = [parameter for parameter in inspect.signature(factory).parameters if parameter != "self"]
    unknown = sorted(set(kwargs) - set(allowed))
    if unknown:
        raise TypeError(f"{name} has no arguments {unknown}; allowed: {allowed}")
    return factory(**kwargs)
