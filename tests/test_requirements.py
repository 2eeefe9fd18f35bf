"""The environments need what the package declares and no extra, whatever else is installed here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement

PLAY = """
import json, sys

class Missing:
    names = set(json.loads(sys.argv[2]))

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(f"{name} is not declared", name=name)

sys.meta_path.insert(0, Missing())
import gymnasium as gym
import opid_gym

gym.register_envs(opid_gym)
env = gym.make(sys.argv[1])
_, info = env.reset(seed=0)
over = False
while not over:
    _, _, terminated, truncated, info = env.step(env.unwrapped.expert_action())
    over = terminated or truncated
print(info["won"])
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(package: str) -> set[str]:
    """What comes along when a package is installed without extras."""
    found: set[tuple[str, frozenset[str]]] = set()
    open_ends = [(package, frozenset[str]())]
    while open_ends:
        name, extras = open_ends.pop()
        for requirement in map(Requirement, requires(name) or ()):
            item = canonical(requirement.name), frozenset(requirement.extras)
            marker = requirement.marker
            applies = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})
            if applies and item not in found:
                found.add(item)
                open_ends.append(item)
    return {name for name, _ in found} | {canonical(package)}


@pytest.mark.parametrize("env", ["opid/ALFWorld-v0", "opid/WebShop-v0", "opid/SearchQA-v0"])
def test_an_environment_plays_with_what_is_declared_and_nothing_else(env: str) -> None:
    declared = needed("opid-gym")
    others = [
        module for module, packages in packages_distributions().items() if declared.isdisjoint(map(canonical, packages))
    ]
    assert "torch" in others
    command = [sys.executable, "-c", PLAY, env, json.dumps(others)]
    played = subprocess.run(command, capture_output=True, text=True)
    assert played.returncode == 0, played.stderr
    assert played.stdout == "True\n"
