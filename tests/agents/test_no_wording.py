"""The agents' package serves any world, so it has no word of a particular one."""

from __future__ import annotations

import re
from pathlib import Path

from opid_gym_envs.alfworld.catalogue import CAN_CONTAIN

AGENTS = Path(__file__).parents[2] / "agents"
# Of the names of things and places, those that a program or its messages may use in another sense.
ORDINARY = {"watch", "fork", "box", "safe", "book", "pen", "cart", "plate"}


def test_no_household_word_and_no_world_is_imported() -> None:
    names = {name.lower() for pair in CAN_CONTAIN.items() for name in (pair[0], *pair[1])} - ORDINARY
    assert {"mug", "fridge", "countertop"} <= names
    found = {
        f"{file.relative_to(AGENTS)}: {word}"
        for file in AGENTS.rglob("*")
        if file.suffix in (".py", ".toml")
        for word in re.findall(r"nothing happens|[a-z]+", file.read_text(encoding="utf-8").lower())
        if word in names or word == "nothing happens"
    }
    assert not found
    imports = [
        line
        for file in AGENTS.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) opid_gym_envs", line)
    ]
    assert not imports
