"""A shopper that knows the goal: it finds the product the goal was made from, chooses, and buys."""

from __future__ import annotations

from opid_gym_envs.webshop.catalogue import Catalogue
from opid_gym_envs.webshop.goals import Goal
from opid_gym_envs.webshop.pages import PageKind
from opid_gym_envs.webshop.product import Product
from opid_gym_envs.webshop.reward import color_or_text, similar
from opid_gym_envs.webshop.session import NEVER_OPTIONS, RESULTS_FOUND, RESULTS_SHOWN, Session


def next_action(session: Session, goal: Goal, catalogue: Catalogue) -> str:
    """The next action from wherever the shopper is.

    With a goal made by the shop it reaches a reward of 1.0 if that can be reached by buying the goal's own product; the
    options of a goal written by people are matched as the reward matches them, as far as the product has them.

    >>> from opid_gym_envs.webshop.goals import Goals
    >>> catalogue = Catalogue.generated(count=20)
    >>> goal = Goals(catalogue, "synthetic")[0]
    >>> visit = Session(catalogue, goal.instruction, appraise=lambda product, chosen: 1.0)
    >>> while visit.reward is None:
    ...     _ = visit.act(next_action(visit, goal, catalogue))
    >>> visit.asin == goal.asin
    True
    """
    if goal.asin not in catalogue:
        raise ValueError(f"the expert buys the goal's own product, and {goal.asin!r} is not in this catalogue")
    page = session.page()
    if page.kind is PageKind.DONE:
        raise ValueError("the visit is over: everything is bought")
    if session.asin == goal.asin:
        if page.kind is PageKind.DETAIL:
            return "click[< prev]"
        missing = [
            value for name, value in wanted_options(page.product, goal).items() if page.chosen.get(name) != value
        ]
        return f"click[{missing[0]}]" if missing else "click[buy now]"
    if page.kind is PageKind.RESULTS:
        found = catalogue.search(session.query or "", RESULTS_FOUND)
        if goal.asin in found:
            place = 1 + found.index(goal.asin) // RESULTS_SHOWN
            if place == session.number:
                return f"click[{goal.asin.lower()}]"
            if place > session.number:
                return "click[next >]"
    return f"search[{_query(goal, catalogue)}]"


def wanted_options(product: Product, goal: Goal) -> dict[str, str]:
    """Option name -> value to choose, so that as many of the goal's options as possible count as fulfilled."""
    # What can be chosen by its text: of equal values under several names the last, and none that reads like a button.
    choices = {value: name for name, values in product.options.items() for value in values if value}
    choices = {value: name for value, name in choices.items() if value not in NEVER_OPTIONS}
    chosen: dict[str, str] = {}
    for wish in goal.options:
        if isinstance(wish, tuple) and choices.get(wish[1]) == wish[0]:
            chosen[wish[0]] = wish[1]
            continue
        meaning = color_or_text(wish)
        if any(similar(color_or_text(value), meaning) for value in chosen.values()):
            continue
        candidates = [
            (value != wish, name, value)
            for value, name in choices.items()
            if name not in chosen and similar(color_or_text(value), meaning)
        ]
        if candidates:
            _, name, value = min(candidates)
            chosen[name] = value
    return chosen


def _query(goal: Goal, catalogue: Catalogue) -> str:
    """Words that bring the product to the first page of results, or as far up as its own words can.

    What the instruction says comes first, so that a learner sees searches it could have thought of: the product's own
    title has a brand and a number that no instruction tells.
    """
    product = catalogue.product(goal.asin)
    best, best_place = product.title, RESULTS_FOUND
    for words in (*_asked(goal), product.title, f"{product.title} {product.query}", product.search_text):
        words = " ".join(words.replace("[", " ").replace("]", " ").split())
        found = catalogue.search(words, RESULTS_FOUND) if words else []
        place = found.index(product.asin) if product.asin in found else RESULTS_FOUND
        if place < best_place:
            best, best_place = words, place
        if place < RESULTS_SHOWN:
            break
    return best


def _asked(goal: Goal) -> tuple[str, str]:
    """What the instruction asks for, without options, and with them; in either case without the price.

    >>> from opid_gym_envs.webshop.goals import Goals
    >>> goal = Goals(Catalogue.generated(count=20), "synthetic")[0]
    >>> without, with_options = _asked(goal)
    >>> without
    'nut free, high protein pasta & noodles with real fruit'
    >>> with_options.removeprefix(without)
    ' with item package quantity: 4 count, and size: 5.5 ounce (pack of 3)'
    """
    with_options = goal.instruction.partition(", and price lower than ")[0].removeprefix("Find me ")
    pairs = [wish for wish in goal.options if isinstance(wish, tuple)]
    without = with_options.partition(f" with {pairs[0][0]}: ")[0] if pairs else with_options
    return without, with_options
