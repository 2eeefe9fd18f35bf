"""What a purchase is worth: stock WebShop's score, part by part.

A purchase earns the share of the goal's wishes (attributes, options, price) that it fulfils, times a factor for
being the kind of thing that was asked for (Yao et al. 2022, "WebShop", arXiv 2207.01206, section 3; the figures are
those of the code, which differ from the paper's in places).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.utils import default_process

from opid_gym_envs.webshop.goals import Goal
from opid_gym_envs.webshop.product import Product

SIMILAR = 85.5
"""Two texts mean the same if their token set ratio is not below this: stock wants it above 85 when rounded."""

# fmt: off
COLORS = (
    "alabaster", "apricot", "aqua", "ash", "asphalt", "azure", "banana", "beige", "black", "blue", "blush",
    "bordeaux", "bronze", "brown", "burgundy", "camel", "camo", "caramel", "champagne", "charcoal", "cheetah",
    "chestnut", "chocolate", "christmas", "coffee", "cognac", "copper", "coral", "cranberry", "cream", "crystal",
    "dark", "denim", "eggplant", "elephant", "espresso", "fuchsia", "gold", "granite", "grape", "graphite", "grass",
    "gray", "green", "grey", "heather", "indigo", "ivory", "ivy", "khaki", "lavender", "lemon", "leopard", "light",
    "lilac", "lime", "magenta", "maroon", "mauve", "merlot", "midnight", "mint", "mocha", "multicolor", "mushroom",
    "mustard", "natural", "navy", "nude", "olive", "orange", "peach", "pewter", "pink", "plum", "purple", "rainbow",
    "red", "rose", "royal", "rust", "sand", "sapphire", "seashell", "silver", "skull", "slate", "steel", "stone",
    "stonewash", "sunflower", "tan", "taupe", "teal", "tiger", "turquoise", "violet", "walnut", "wheat", "white",
    "wine", "yellow",
)
# fmt: on
"""The colour names of stock, in its order: the first that occurs in a text stands for the text."""

_LATIN = dict.fromkeys(range(128, 256))


@dataclass(frozen=True, slots=True)
class Score:
    """A purchase, judged.

    Attributes:
        reward: between 0 and 1; 1 solves the task.
        parts: stock's names -> values. ``r_type`` (with ``query_match``, ``category_match``, ``title_score``),
            ``r_att``, ``r_option`` (if the goal wants options) and ``r_price``, with the weights ``w_att``,
            ``w_option`` and ``w_price``.
    """

    reward: float
    parts: dict[str, float | bool]


def score(
    product: Product,
    chosen: Mapping[str, str],
    price: float,
    goal: Goal,
    *,
    bought_nouns: Iterable[str],
    goal_nouns: Sequence[str],
) -> Score:
    """Judge a purchase.

    Args:
        product: what was bought.
        chosen: option name -> value.
        price: what it cost.
        goal: what was wanted; with attributes, and a price limit above 0.
        bought_nouns: nouns of the product's title, lower-cased.
        goal_nouns: nouns of the goal's title, repetitions kept.
    """
    type_parts = _type_parts(product, goal, frozenset(bought_nouns), goal_nouns)
    attributes = sum(_has_attribute(product, wanted) for wanted in goal.attributes)
    options = _options_fulfilled(chosen.values(), goal.options)
    affordable = price <= goal.price_upper
    wishes = len(goal.attributes) + len(goal.options) + 1
    parts: dict[str, float | bool] = {
        "r_type": type_parts.pop("r_type"),
        "r_att": attributes / len(goal.attributes),
        "w_att": len(goal.attributes) / wishes,
        **type_parts,
    }
    if goal.options:
        parts["r_option"] = options / len(goal.options)
        parts["w_option"] = len(goal.options) / wishes
    parts["r_price"] = affordable
    parts["w_price"] = 1 / wishes
    return Score((attributes + options + affordable) / wishes * parts["r_type"], parts)


def _type_parts(
    product: Product, goal: Goal, bought_nouns: frozenset[str], goal_nouns: Sequence[str]
) -> dict[str, float | bool]:
    query_match = product.query == goal.query
    category_match = len(_categories(product.product_category) & _categories(goal.product_category)) >= 2
    title_score = len(bought_nouns & set(goal_nouns)) / len(goal_nouns) if goal_nouns else 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return {
        "r_type": r_type,
        "query_match": query_match,
        "category_match": category_match,
        "title_score": title_score,
    }


def _categories(path: str) -> set[str]:
    return {level.strip() for level in path.split("›")}


def _has_attribute(product: Product, wanted: str) -> bool:
    return (
        any(similar(known, wanted) for known in product.attributes)
        or wanted in product.title.lower()
        or wanted in " ".join(product.bullet_points).lower()
        or wanted in product.description.lower()
    )


def _options_fulfilled(chosen: Iterable[str], wanted: Sequence[str | tuple[str, str]]) -> int:
    bought = [color_or_text(value) for value in chosen]
    return sum(any(similar(value, wish) for value in bought) for wish in map(color_or_text, wanted))


@lru_cache(maxsize=1 << 14)
def color_or_text(option: str | tuple[str, str]) -> str | tuple[str, str]:
    """The first of `COLORS` in an option, or the option itself.

    Stock hands over the options of a synthetic goal as pairs (name, value). In a pair a colour is found only if it is
    the whole name or the whole value.

    >>> color_or_text("navy blue"), color_or_text(("color", "navy blue")), color_or_text(("color", "navy"))
    ('blue', ('color', 'navy blue'), 'navy')
    """
    return next((color for color in COLORS if color in option), option)


def similar(first: str | tuple[str, str], second: str | tuple[str, str]) -> bool:
    """Whether stock takes two texts for the same; a pair counts as the text Python prints for it.

    >>> similar("size: small", ("size", "small")), similar("x-large", "large"), similar("small", "smart")
    (True, True, False)
    """
    return token_set_ratio(_plain(first), _plain(second), score_cutoff=SIMILAR) > 0


@lru_cache(maxsize=1 << 14)
def _plain(text: str | tuple[str, str]) -> str:
    return default_process(str(text).translate(_LATIN))
