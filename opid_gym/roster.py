"""Agents by name: what stands behind ``--agent`` on the command line.

An agent, and likewise an environment, is written as a name and options, ``NAME key=value ...``. The name of an agent is

- one of those registered in the entry-point group ``opid_gym.agents`` (``random``, ``expert``, ``chat``, ...), where
  ``sb3:DIR`` is short for ``sb3 path=DIR``;
- ``module:Class`` or ``module:function`` of your own;
- or the folder of a saved language model.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opid_gym.agent import Agent, Decision
from opid_gym.json_text import parse_json
from opid_gym.named import did_you_mean, load_named
from opid_gym.vector import TextVectorEnv

# A character, or text in quotation marks. The quantifiers never go back, which would take forever in odd texts.
_PIECE = r"""[^\s"']|"(?:\\.|[^"\\])*+"|'[^']*+'"""
# Text without spaces outside of quotation marks.
_WORD = re.compile(rf"(?:{_PIECE})++")
_WORDS = re.compile(rf"(?:{_PIECE}|\s)*+")
# An agent for one game: (observation, info) -> action, with the `info` of `opid_gym.env.TextEnv`.
SingleAgent = Callable[[str, dict[str, Any]], str | Decision]


@dataclass(frozen=True, slots=True)
class Spec:
    """A name with options, as given on the command line.

    Attributes:
        name: of the agent or environment.
        options: keyword arguments it is made with; JSON values.
        label: how tables call it.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.name)

    def __str__(self) -> str:
        pairs = (
            f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.options.items()
        )
        return shlex.join([self.name, *pairs])


def parse_spec(text: str) -> Spec:
    """Read ``NAME key=value ...``; values are JSON where they can be, else text; ``label=`` names it in tables.

    A value, or a whole ``key=value``, with spaces in it stands in quotation marks.

    Raises:
        ValueError: no name, an option is not of the form key=value, or a quote is not closed.

    >>> parse_spec("opid/ALFWorld-v0 size=small count=20 label=small")
    Spec(name='opid/ALFWorld-v0', options={'size': 'small', 'count': 20}, label='small')
    >>> parse_spec('chat "system=be kind" stop=["a","b"]').options
    {'system': 'be kind', 'stop': ['a', 'b']}
    """
    if not text.strip():
        raise ValueError(f"cannot read {text!r}: a name is missing")
    if not _WORDS.fullmatch(text):
        raise ValueError(f"cannot read {text!r}: no closing quotation")
    # A word that is quoted as a whole loses its quotes; those within a word may belong to a JSON value.
    words = (match[0] for match in _WORD.finditer(text))
    name, *pairs = ("".join(shlex.split(word)) if word[0] in "'\"" else word for word in words)
    options = parse_options(pairs)
    label = str(options.pop("label", ""))
    return Spec(name, options, label)


def parse_options(pairs: Sequence[str], what: str = "an option") -> dict[str, Any]:
    """``key=value`` words as keyword arguments; `what` they are, for the error.

    Raises:
        ValueError: a word is not of that form.

    >>> parse_options(["size=small", "count=3", 'types=["a"]'])
    {'size': 'small', 'count': 3, 'types': ['a']}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.isidentifier():
            raise ValueError(f"{what} needs key=value, got {pair!r}")
        try:
            options[key] = parse_json(value)
        except ValueError:
            quoted = len(value) > 1 and value[0] == value[-1] == "'"
            options[key] = value[1:-1] if quoted else value
    return options


def registered_agents() -> list[str]:
    """The names of the agents that are installed."""
    return sorted({point.name for point in entry_points(group="opid_gym.agents")})


def find_agent(spec: Spec) -> tuple[Any, dict[str, Any]]:
    """What makes the agent (a class or a function), and the options it gets.

    Raises:
        ValueError: there is no such agent; the message lists the registered ones.
        ImportError: it, or something it needs, cannot be imported.
    """
    points = {point.name: point for point in entry_points(group="opid_gym.agents")}
    head, separator, tail = spec.name.partition(":")
    if spec.name in points:
        return points[spec.name].load(), spec.options
    if separator and head in points:
        return points[head].load(), {"path": tail, **spec.options}
    if Path(spec.name).is_dir():
        return points["lm"].load(), {"path": spec.name, **spec.options}
    if not separator:
        hint = did_you_mean(spec.name, points)
        raise ValueError(
            f"agent {spec.name!r} is neither one of {sorted(points)} nor a folder with a saved model, nor module:Class"
            f"{hint and f'; {hint}'}"
        )
    return load_named(spec.name, "agent"), spec.options


def plays_one_game(found: Any) -> bool:
    """Whether `find_agent` found a plain function ``(observation, info) -> action``."""
    return inspect.isfunction(found)


def make_agent(spec: Spec | str, envs: TextVectorEnv, *, seed: int) -> Agent:
    """Make an agent for a batch of games.

    A class is made by its ``make(envs, seed=seed, **options)`` if it has one, else called with the options; a function
    plays one game, see `FunctionAgent`; any other object must already be an agent.

    Raises:
        ValueError: there is no such agent.
        TypeError: it does not know an option, or is no agent.
    """
    found, options = find_agent(parse_spec(spec) if isinstance(spec, str) else spec)
    if plays_one_game(found):
        return FunctionAgent(found, options)
    if inspect.isclass(found):
        maker = getattr(found, "make", None)
        if maker is None:
            agent = found(**_checked(found, options, found.__name__))
        else:
            agent = maker(envs, **_checked(maker, options, found.__name__, own=("envs", "seed")), seed=seed)
    else:
        agent = found
    if not isinstance(agent, Agent):
        raise TypeError(f"{type(agent).__name__} is no agent: it needs act(observations, infos) and reset(mask)")
    return agent


class FunctionAgent:
    """The agent protocol for a function that plays one game, called for one game after the other.

    Args:
        function: (observation, info) -> action or `Decision`; `info` is that of `opid_gym.env.TextEnv`.
        options: further keyword arguments of the function.
    """

    def __init__(self, function: SingleAgent, options: Mapping[str, Any] | None = None) -> None:
        self._function: Callable[..., str | Decision] = function
        game = list(inspect.signature(function).parameters)[:2]
        self._options = _checked(function, options or {}, getattr(function, "__name__", "agent"), own=game)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """A function remembers nothing."""

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str | Decision]:
        """One call for each game that is being played."""
        return [
            self._function(observations[game], single_info(infos, game), **self._options) if active else ""
            for game, active in enumerate(infos["_task"])
        ]


def single_info(infos: Mapping[str, Any], game: int) -> dict[str, Any]:
    """The `info` of one game of a vector environment.

    >>> single_info({"won": np.array([True, False]), "_won": np.array([False, True])}, 1)
    {'won': False}
    """
    info: dict[str, Any] = {}
    for key, mask in infos.items():
        if key.startswith("_") and key[1:] in infos and mask[game]:
            value = infos[key[1:]]
            if isinstance(value, Mapping):
                info[key[1:]] = single_info(value, game)
            else:
                info[key[1:]] = value[game].item() if isinstance(value[game], np.generic) else value[game]
    return info


def _checked(
    maker: Callable[..., Any], options: Mapping[str, Any], name: str, own: Sequence[str] = ()
) -> dict[str, Any]:
    parameters = inspect.signature(maker).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        allowed = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL and p.name not in own]
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            raise TypeError(f"agent {name} has no options {unknown}; allowed: {allowed}")
    return dict(options)
