"""A shopper that knows no more than the pages say: it searches, reads, compares prices, chooses and buys."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from opid_gym_envs.webshop.reading import Instruction, is_item, is_results, options_of, pieces_of, products_on

_OPTION = re.compile(" with [^:,]+: ")  # an option, and what else is said between the same two marks
_MORE = re.compile(" with | for ")  # what follows says more about the thing


class Shopper:
    """Plays one visit from its text.

    It searches for all that the instruction asks for but the price, opens the first product within the limit, chooses
    the options that are named, and buys. The expert of the shop itself (`opid_gym_envs.webshop.expert`) finds the
    goal's own product wherever it is listed, which nobody can imitate who only reads.

    It remembers which options it said to choose, for the page does not show them; so it is to play itself.

    Args:
        task: the instruction, in the words of the shop's own making; of a person's, all but the price is searched for.
        rng: where it draws its whims from. Equal generators give equal play.

    Attributes:
        whole, goods: how often it searches for all that is asked for, and for what it says before it comes to an
            option; else it searches for the kind of thing alone.
        haste: how often it leaves out an option that is named.

    >>> shopper = Shopper("Find me soft mugs with size: big, and price lower than 9.00 dollars", random.Random(0))
    >>> shopper.act("Search", ["search[<your query>]", "click[search]"])
    'search[soft mugs with size: big]'
    """

    whole = 1.0
    goods = 0.0
    haste = 0.0

    def __init__(self, task: str, rng: random.Random) -> None:
        self._rng = rng
        self._wish = wish = Instruction.read(task)
        whim = rng.random()
        if whim < self.whole:
            self._query = wish.query or wish.text
        else:
            goods = _OPTION.split((wish.query or wish.text), maxsplit=1)[0]
            self._query = goods if whim < self.whole + self.goods else _MORE.split(goods, maxsplit=1)[0]
        self._done: set[str] = set()  # options of the product that is open

    def act(self, observation: str, admissible: Sequence[str]) -> str:
        """The next action."""
        page = pieces_of(observation)
        if is_results(page):
            self._done.clear()
            products = products_on(page)
            affordable = (asin for asin, (_, price) in products.items() if self._wish.allows(price))
            return f"click[{next(affordable, next(iter(products)))}]" if products else "click[back to search]"
        if not is_item(page):
            return f"search[{self._query}]"
        for name, values in options_of(page, admissible).items():
            value = self._wish.named(name, values)
            if value is not None and name not in self._done:
                self._done.add(name)
                if self._rng.random() >= self.haste:
                    return f"click[{value}]"
        return "click[buy now]"


class HastyShopper(Shopper):
    """A `Shopper` as people are: it often searches for less than is asked for, and forgets options.

    What it does right in one visit it does wrong in another, so a policy that imitates it has much to gain from the
    outcomes of its own visits. It buys right in about half of its visits, a `Shopper` in nine of ten.
    """

    whole = 0.4
    goods = 0.4
    haste = 0.15
