"""Starting policies that come with the package, one folder for each recipe that has one.

Teaching a small model to read hints takes longer than the training that follows, so it was done once. A folder holds a
model in Hugging Face format in bfloat16 and ``start.json`` (`About`): the command that made it, its seed, the versions
it was made with, and how it did when it was last looked at.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opid_agents.recipes.recipe import Recipe

ABOUT = "start.json"
# What a start cannot be changed in once it is made: by the part of the recipe, or its keys.
_BOUND: Any = {
    "world": {"env"},
    "prompting": True,
    "model": {"vocabulary", "hidden_size", "layers", "heads", "mlp_size", "context"},
}


@dataclass(frozen=True, slots=True)
class About:
    """How a start was made.

    Attributes:
        recipe: name of the recipe.
        command: makes it again.
        seed: of the recipe.
        bound: the recipe's values that a start is for: the kind of world, prompts, and the model's shape.
        versions: of this package and of those that the numbers depend on.
        updates: how many were made.
        check: the last look at the model (`opid_agents.training.watcher.Check`).
    """

    recipe: str
    command: str
    seed: int
    bound: dict[str, Any]
    versions: dict[str, str]
    updates: int
    check: dict[str, float]

    def save(self, folder: Path) -> None:
        """Write ``start.json``."""
        (folder / ABOUT).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> About:
        """Read ``start.json``."""
        return cls(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))


def bundled_start(recipe: Recipe) -> Path | None:
    """The folder of the start for a recipe.

    None if there is none of the recipe's name, or if the recipe was changed in what a start is bound to: another kind
    of world, other prompts, another shape of the model.
    """
    folder = Path(__file__).parent / recipe.name
    if not (folder / ABOUT).is_file():
        return None
    return folder if _with_new_keys(About.load(folder).bound) == bound_to(recipe) else None


def bound_to(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe that a start is for, as JSON values."""
    return recipe.model_dump(mode="json", include=_BOUND)


def _with_new_keys(bound: dict[str, Any]) -> dict[str, Any]:
    """What a start is bound to, with the defaults of keys that recipes have got since it was made."""
    return {part: values | bound.get(part, {}) for part, values in bound_to(Recipe()).items()}


def bundled_starts() -> list[str]:
    """Names of the recipes that have a start."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob(f"*/{ABOUT}"))
