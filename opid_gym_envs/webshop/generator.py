"""A believable catalogue from a seed: any size, the same everywhere, made one product at a time.

Product number `i` depends on the seed and on `i` alone, so a large catalogue begins with the smaller ones. All chance
comes from `random.Random.random`, seeded with a text, the one stream Python promises to keep.

Everything an instruction asks for is in the product's attributes and options, so buying that product with those options
gets the full reward.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from opid_gym_envs.webshop.product import Product, read_price
from opid_gym_envs.webshop.vocabulary import Kind, vocabulary

VERSION = 2
"""Raised whenever any generated product changes."""

MOST_COMBINATIONS = 60
"""Maximum number of ways to choose a product's options; each is a goal if the product has an instruction."""

T = TypeVar("T")
Draw = Callable[[], float]
_MARKS = ("",) * 30 + ("™", "®")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def generate(count: int, seed: int = 0) -> Iterator[Product]:
    """The first `count` products of a seed, in order."""
    return (make_product(seed, number) for number in range(count))


def make_product(seed: int, number: int) -> Product:
    """One product; equal arguments give equal products, and no two numbers of a seed give the same id.

    >>> make_product(0, 7) == make_product(0, 7)
    True
    """
    draw = random.Random(f"opid-gym/webshop/{VERSION}/{seed}/{number}").random
    kind = _choice(draw, vocabulary().kinds)
    claims = kind.claims
    before = _sample(draw, claims.before, 1 + int(draw() * 4))
    having = _sample(draw, claims.having, int(draw() * 3))
    serving = _sample(draw, claims.serving, int(draw() * 3))
    attributes = (*before, *having, *serving)
    brand = _brand(draw)
    name = _choice(draw, kind.names)
    options = _options(draw, kind)
    title = _title(draw, kind, brand, name, before, having, serving, options)
    instruction, wanted = _instruction(draw, kind, before, having, serving) if draw() < 0.45 else (None, ())
    pricing, price_tag = read_price(_pricing(draw, kind.prices, bool(options)))
    asin = _asin(seed, number)
    return Product(
        asin=asin,
        title=title,
        description=_description(draw, brand, name, before, having, serving),
        bullet_points=_bullets(draw, name, attributes, brand),
        category=kind.department,
        product_category=kind.product_category,
        query=kind.query,
        attributes=attributes,
        instruction=instruction,
        instruction_attributes=wanted,
        options=options,
        pricing=pricing,
        price_tag=price_tag,
    )


def _asin(seed: int, number: int) -> str:
    # A step without a common factor with the modulus visits every value once before it repeats.
    value = (number * 48_271_234_567 + seed * 7_919 + 31_337) % 36**7
    letters = []
    for _ in range(7):
        value, digit = divmod(value, 36)
        letters.append(_DIGITS[digit])
    return f"B0{7 + number % 3}{''.join(letters)}"


def _brand(draw: Draw) -> str:
    stem = _word(draw, "syllables")
    if draw() < 0.5:
        stem += _word(draw, "syllables")
    brand = stem + _word(draw, "brand_endings")
    return brand.upper() if draw() < 0.25 else brand.capitalize()


def _options(draw: Draw, kind: Kind) -> dict[str, tuple[str, ...]]:
    if draw() < 0.2:
        return {}
    axes = kind.axes if draw() < 0.6 else (_choice(draw, kind.axes),)
    room = MOST_COMBINATIONS
    options = {}
    for name, values in axes:
        count = max(1, min(len(values), room, 2 + int(draw() * 9)))
        room //= count
        places = sorted(_sample(draw, range(len(values)), count))
        options[name] = tuple(values[place] for place in places)
    return options


def _title(
    draw: Draw,
    kind: Kind,
    brand: str,
    name: str,
    before: Sequence[str],
    having: Sequence[str],
    serving: Sequence[str],
    options: dict[str, tuple[str, ...]],
) -> str:
    series = f"{_word(draw, 'series')} {_DIGITS[10 + int(draw() * 26)]}{int(draw() * 9000) + 1000}"
    maker = f"{brand}{_choice(draw, _MARKS)}"
    parts = [f"{maker} {_word(draw, 'adjectives')} {name}" if draw() < 0.5 else f"{maker} {name}"]
    if serving and draw() < 0.8:
        parts[0] += f" for {_titled(serving[0])}"
    parts += [_titled(claim) for claim in before if draw() < 0.6]
    if having and draw() < 0.8:
        parts.append(f"{name.split()[-1]} with {_titled(having[0])}")
    parts.append(f"{series} Series" if draw() < 0.3 else series)
    if options and draw() < 0.4:
        parts.append(_titled(_choice(draw, next(iter(options.values())))))
    return _choice(draw, (", ", ", ", ", ", " - ", " ", " – ")).join(parts)


def _titled(text: str) -> str:
    return " ".join(word if word in ("and", "or", "of", "with", "from") else word.capitalize() for word in text.split())


def _description(
    draw: Draw, brand: str, name: str, before: Sequence[str], having: Sequence[str], serving: Sequence[str]
) -> str:
    thing = name.lower()
    forms = (
        "{0} {1} made for {3}.",
        "From {0}: {2} designed with {3} in mind.",
        "Bring home {2} you can count on for {3}.",
        "Our {2} for {3} and everything in between.",
    )
    sentences = [_choice(draw, forms).format(brand, name, thing, _word(draw, "occasions"))]
    for claims, endings in (
        (before, ("Customers call it {}.", "What sets it apart: {}.", "In short: {}.")),
        (having, ("Finished with {}.", "Comes with {}.", "Featuring {}.")),
        (serving, ("A good choice for {}.", "Well suited for {}.", "People love it for {}.")),
    ):
        if claims:
            sentences.append(_choice(draw, endings).format(_listed(claims)))
    if draw() < 0.5:
        sentences.append(f"Makes a thoughtful gift for {_word(draw, 'occasions')}.")
    return " ".join(sentences)


def _bullets(draw: Draw, name: str, attributes: Sequence[str], brand: str) -> tuple[str, ...]:
    thing = name.lower()
    forms = (
        "{0}: one of the first things people mention about our {1}",
        "{0} - checked before we pack your {1}",
        "{0}. We thought of {2} first when we made the {1}",
        "{0}: just as our customers asked for, made for {3}",
    )
    closing = (
        f"Service: write to {brand} within {30 + 30 * int(draw() * 3)} days and we will make it right",
        f"What you get: {thing} in plain packaging, ready to give",
        f"Care: keep clean and dry, and your {thing} will serve you long",
    )
    bullets = [
        _choice(draw, forms).format(_shown(draw, claim), thing, claim, _word(draw, "occasions"))
        for claim in _sample(draw, attributes, 1 + int(draw() * len(attributes)))
    ]
    return (*bullets, _choice(draw, closing))


def _shown(draw: Draw, claim: str) -> str:
    return claim.upper() if draw() < 0.5 else _titled(claim)


def _instruction(
    draw: Draw, kind: Kind, before: Sequence[str], having: Sequence[str], serving: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """In the words of the official synthetic goals, ``Find me <claims> <query> with <...> for <...>``."""
    before = _sample(draw, before, 1 + int(draw() * min(3, len(before))))
    having = [claim for claim in having if draw() < 0.7]
    serving = [claim for claim in serving if draw() < 0.7]
    text = f"Find me {', '.join(before)} {kind.query}"
    text += f" with {', '.join(having)}" if having else ""
    text += f" for {', '.join(serving)}" if serving else ""
    return text, (*before, *having, *serving)


def _pricing(draw: Draw, prices: tuple[int, int], has_options: bool) -> str:
    low, high = prices
    if draw() < 0.02:
        return ""
    # Most things are cheap: the product of two draws leans towards the lower end.
    price = low + (high - low) * draw() * draw()
    first = _amount(draw, price)
    if has_options and draw() < 0.4:
        return f"${first} - ${_amount(draw, price * (1.1 + draw()))}"
    return f"${first}"


def _amount(draw: Draw, price: float) -> str:
    cents = (99, 99, 95, 98, 49, 0, int(draw() * 100))
    return f"{int(price)}.{_choice(draw, cents):02d}"


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _word(draw: Draw, kind: str) -> str:
    return _choice(draw, vocabulary().words[kind])


def _choice(draw: Draw, items: Sequence[T]) -> T:
    return items[int(draw() * len(items))]


def _sample(draw: Draw, items: Sequence[T], count: int) -> list[T]:
    """Some of the items, none twice, in the order drawn."""
    left = list(items)
    return [left.pop(int(draw() * len(left))) for _ in range(min(count, len(left)))]
