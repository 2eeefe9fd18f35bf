"""The registered environments, as data."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from opid_gym.checks import check_integer
from opid_gym.env import TextEnv
from opid_gym.named import did_you_mean, load_named
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


def registered_worlds() -> list[WorldSpec]:
    """The worlds that installed packages announce in the entry-point group ``opid_gym.worlds``, sorted by id.

    An entry point names a `WorldSpec`, ``treasure = "my_package.worlds:TREASURE"``. The module it lies in is imported
    with `opid_gym`, so it should import little; the world itself is imported when an environment is made. One that
    cannot be imported is left out, with a warning.
    """
    specs = []
    for point in entry_points(group="opid_gym.worlds"):
        try:
            spec = point.load()
        except Exception as error:  # a broken package must not take the other worlds away
            warnings.warn(f"world {point.name!r} ({point.value}) cannot be imported: {error}", stacklevel=2)
            continue
        if not isinstance(spec, WorldSpec):
            warnings.warn(f"world {point.name!r}: {point.value} is no WorldSpec but {spec!r}", stacklevel=2)
            continue
        specs.append(spec)
    return sorted(specs, key=lambda spec: spec.id)


def register_worlds() -> None:
    """Tell Gymnasium about every world of `registered_worlds`; doing it again changes nothing."""
    for spec in registered_worlds():
        register_world(spec)


def register_world(spec: WorldSpec) -> None:
    """Tell Gymnasium about a world, also one of your own; doing it again changes nothing."""
    if spec.id not in gym.registry:
        gym.register(
            spec.id,
            entry_point="opid_gym.registration:make_env",
            vector_entry_point="opid_gym.registration:make_vector_env",
            max_episode_steps=spec.max_episode_steps,
            kwargs={"world": spec.world, "default_max_episode_steps": spec.max_episode_steps},
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
        known = [world.id for world in registered_worlds()]
        hint = did_you_mean(env, known)
        raise ValueError(f"unknown environment {env!r}; known: {known}{hint and f'; {hint}'}")
    envs = gym.make_vec(env, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED, **arguments)
    if not isinstance(envs, TextVectorEnv):
        raise ValueError(f"{env!r} is not a text environment of this package's contract")
    return envs


def make_env(
    world: str,
    seed: int | None = None,
    render_mode: str | None = None,
    default_max_episode_steps: int | None = None,
    **kwargs: Any,
) -> TextEnv:
    """Entry point of `gymnasium.make`, which adds the limit of steps itself; `kwargs` go to the world."""
    return TextEnv(make_world(world, **kwargs), seed=seed, render_mode=render_mode)


# Gymnasium looks here for the render modes, from which it makes others (``ansi_list``).
make_env.metadata = TextEnv.metadata  # type: ignore[attr-defined]


def make_vector_env(
    world: str,
    num_envs: int = 1,
    group_size: int = 1,
    seed: int | None = None,
    max_episode_steps: int | None = None,
    autoreset_mode: Any = gym.vector.AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    default_max_episode_steps: int | None = None,
    **kwargs: Any,
) -> TextVectorEnv:
    """Entry point of `gymnasium.make_vec`; `kwargs` go to the world.

    `max_episode_steps` means what it means in `gymnasium.make`: None is the registered limit, -1 is no limit.
    """
    return TextVectorEnv(
        make_world(world, **kwargs),
        num_envs,
        group_size=group_size,
        seed=seed,
        max_episode_steps=default_max_episode_steps if max_episode_steps is None else max_episode_steps,
        autoreset_mode=autoreset_mode,
        render_mode=render_mode,
    )


def make_world(world: str, *, actors: int | None = None, **kwargs: Any) -> World:
    """Import ``module:Class`` and build it.

    Args:
        world: the class.
        actors: build it in this number of Ray actors (`opid_gym.actors`); None: in this process.
        kwargs: arguments of the class.

    Raises:
        ValueError: there is no such class.
        TypeError: a keyword the world does not know; the message lists those it does.
    """
    factory: Callable[..., World] = load_named(world, "world")
    allowed = _arguments(factory)
    unknown = sorted(set(kwargs) - set(allowed))
    if unknown:
        raise TypeError(f"{world.rpartition(':')[2]} has no arguments {unknown}; allowed: {list(allowed)}")
    if actors is not None:
        from opid_gym.actors import ActorWorld

        return ActorWorld(world, kwargs, check_integer("actors", actors))
    return factory(**kwargs)


@cache
def _arguments(factory: Callable[..., World]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(factory).parameters if name != "self")
