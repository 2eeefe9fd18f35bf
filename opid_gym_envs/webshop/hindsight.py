"""Looking back at a visit: what each step achieved and what would have been better, read off its text alone.

Nothing here asks the shop or the goal. Which product the shopper was after is known only if one was bought in the end;
what is wanted of options, price and kind is read from the instruction. Works on the observations of ``text`` and
``text_rich``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from opid_gym.trajectory import Step, StepHindsight, Trajectory
from opid_gym_envs.webshop.pages import BACK_TO_SEARCH, BUY, PREVIOUS
from opid_gym_envs.webshop.reading import Instruction, is_item, is_results, options_of, pieces_of, products_on
from opid_gym_envs.webshop.session import NEVER_OPTIONS, offers, read_action

SUBGOALS = ("found the product", "opened the product", "chose an option", "chose all options", "bought", "won")
"""Everything `StepHindsight.reached` can hold. The first two are about the product bought in the end, the options are
those bought with it that the instruction names."""

_SPACE = re.compile(r"\[\s*(.*?)\s*\]$")  # within the brackets of an action
_THANKS = "Thank you for shopping with us!"
_BUY, _BACK, _TO_SEARCH = (f"click[{button.lower()}]" for button in (BUY, PREVIOUS, BACK_TO_SEARCH))


def hindsight(trajectory: Trajectory) -> list[StepHindsight]:
    """What each step of a visit achieved, and what would have been better.

    A step changes the state if it leads to another page, or chooses an option anew (which text mode does not show).
    It is wasted otherwise: whatever the shop does not understand, and clicks on what is chosen already.

    `better` and `decisive` need the record up to the step's observation and its action, and nothing after. Decisive:

    - a product is bought, or another value of an option chosen, while a value that the instruction names stood on the
      page and was not chosen: that value;
    - a product is bought whose lowest price is above the instruction's limit, or that does not have an option that the
      instruction names: back to the results;
    - all options that the instruction names are chosen, the price is within the limit, no title in the results had
      more of the instruction's words, and the step leads away or chooses what is chosen: buy.

    Better, but a move of the search:

    - to search for all that an instruction of the shop's own making names, its options too and its price not, where the
      search left something out;
    - another product in the results that was not opened yet, is within the limit and has most of the instruction's
      words in its title. Told where the product opened has clearly fewer of them or is above the limit, or where
      nothing new came of the step.

    Args:
        trajectory: a finished episode of the shop. Where a step's admissible actions are not known, nothing is told to
            have been better there.

    Returns:
        One record for each step, in order; `reached` holds words of `SUBGOALS`, each in the step that first reaches it.
    """
    bought, options = _purchase(trajectory)
    wanted = {value for value in options if value in trajectory.task.lower()}
    chosen: set[str] = set()  # values chosen since the page of results
    known: set[str] = set()
    shopper = _Shopper(Instruction.read(trajectory.task))
    told = []
    for number, step in enumerate(trajectory.steps):
        before, after = pieces_of(step.observation), pieces_of(step.next_observation)
        name, argument = read_action(step.action)
        argument = argument.strip().lower()
        reached = []
        changed = step.next_observation != step.observation
        if is_item(before) and is_item(after) and name == "click" and argument not in NEVER_OPTIONS:
            if argument in (piece.lower() for piece in before) and argument not in chosen:
                changed = True
                chosen.add(argument)
        elif is_results(after):
            chosen.clear()
            if bought and bought in after:
                reached.append("found the product")
        elif bought and is_item(after) and argument == bought.lower():
            reached.append("opened the product")
        if chosen & wanted and ("opened the product" in known):
            reached.append("chose an option")
            if chosen >= wanted:
                reached.append("chose all options")
        if number == len(trajectory.steps) - 1 and bought:
            reached += ["bought", "won"] if trajectory.success else ["bought"]
        fresh = tuple(goal for goal in reached if goal not in known)
        known.update(fresh)
        told.append(shopper.judge(step, before, after, StepHindsight(changed, fresh, wasted=not changed)))
    return told


def workflow(trajectory: Trajectory) -> list[str]:
    """What a purchase took: the search that found the product, opening it, the options chosen, buying.

    Returns:
        Phrases without product ids, so that they fit other instructions; [] if nothing was bought.
    """
    bought, options = _purchase(trajectory)
    if not bought:
        return []
    searches = [
        argument for step in trajectory.steps for name, argument in [read_action(step.action)] if name == "search"
    ]
    return [*(f"search {query}" for query in searches[-1:]), "open a match", *(f"choose {o}" for o in options), "buy"]


@dataclass(slots=True)
class _Shopper:
    """Follows a visit and knows what its instruction asks for."""

    wish: Instruction
    chosen: dict[str, str] = field(default_factory=dict)  # option -> value, on the product that is open
    opened: set[str] = field(default_factory=set)  # titles
    seen: set[str] = field(default_factory=set)  # pages
    best_seen: int = 0  # most words asked for in a title of the results, within the limit

    def judge(self, step: Step, before: list[str], after: list[str], achieved: StepHindsight) -> StepHindsight:
        """A step's record with what would have been better; to be called once for each step, in order."""
        action = _SPACE.sub(r"[\1]", step.action.strip().lower())
        found: tuple[str, bool, str] | None = None
        self.seen.add(step.observation)
        admissible = step.admissible_actions
        if is_item(before):
            options = options_of(before, admissible or ())
            value = action.removeprefix("click[").removesuffix("]")
            own = next((name for name in reversed(options) if value in options[name]), None)
            if admissible is not None:
                found = self._at_item(action, options, own, before)
            if own is not None:
                self.chosen[own] = value
        elif is_results(before):
            self.chosen.clear()
            if admissible is not None:
                found = self._at_results(action, before, achieved.wasted or step.next_observation in self.seen)
            if (product := products_on(before).get(action.removeprefix("click[").removesuffix("]"))) is not None:
                self.opened.add(product[0])
        elif action.startswith("search[") and self.wish.left_out(action[7:-1]):
            found = f"search[{self.wish.query}]", False, "The search left out something that the instruction names."
        if found and found[0] != action and offers(admissible or (), found[0]):
            return replace(achieved, better=found[0], decisive=found[1], reason=found[2])
        if achieved.wasted:
            return replace(achieved, reason="This did nothing on that page.")
        if step.next_observation in self.seen and not is_item(before):
            return replace(achieved, reason="The page that this led to had been seen before.")
        return achieved

    def _at_item(
        self, action: str, options: Mapping[str, list[str]], own: str | None, page: list[str]
    ) -> tuple[str, bool, str] | None:
        named = {name: value for name, values in options.items() if (value := self.wish.named(name, values))}
        missing = {name: value for name, value in named.items() if self.chosen.get(name) != value}
        price = next((piece for piece in page if piece.startswith("Price: ")), "")
        affordable = self.wish.allows(price)
        if own is not None and own in named and action != f"click[{named[own]}]" and affordable:
            value = missing.get(own) or next(iter(missing.values()), None)
            if value is not None:
                return f"click[{value}]", True, f"The instruction names {value!r}, which stood on the page."
        if action == _BUY and not affordable:
            return _BACK, True, f"The price is above the limit of {self.wish.limit:g} dollars."
        if action == _BUY and self.wish.lacking(options):
            return _BACK, True, "The instruction names an option that this product does not have."
        if action == _BUY and missing:
            value = next(iter(missing.values()))
            return f"click[{value}]", True, f"The instruction names {value!r}, which stood there and was not chosen."
        again = own is not None and action == f"click[{self.chosen.get(own)}]"
        leaves = action in (_BACK, _TO_SEARCH) or action.startswith("search[")
        title = page[page.index(price) - 1] if price else ""
        if named and not missing and affordable and (again or leaves) and self.wish.match(title) >= self.best_seen:
            return _BUY, True, "All options that the instruction names were chosen, and the price is within the limit."
        return None

    def _at_results(self, action: str, page: list[str], nothing_new: bool) -> tuple[str, bool, str] | None:
        listed = products_on(page)
        matches = [self.wish.match(title) for title, price in listed.values() if self.wish.allows(price)]
        self.best_seen = max([self.best_seen, *matches])
        fresh = {asin: (title, price) for asin, (title, price) in listed.items() if title not in self.opened}
        good = [(self.wish.match(title), asin) for asin, (title, price) in fresh.items() if self.wish.allows(price)]
        if not good:
            return None
        most = max(score for score, _ in good)
        best = next(asin for score, asin in good if score == most)
        taken = listed.get(action.removeprefix("click[").removesuffix("]"))
        if taken is None:
            return (f"click[{best}]", False, _UNOPENED) if nothing_new and most > 0 else None
        if not self.wish.allows(taken[1]):
            return f"click[{best}]", False, "The price is above the limit, and another match stood in the results."
        if most >= self.wish.match(taken[0]) + _CLEARLY_MORE:
            return f"click[{best}]", False, "Another product in the results has clearly more of the words asked for."
        return None


# Titles leave out much of what a product is, so a word more or less says nothing.
_CLEARLY_MORE = 3
_UNOPENED = "A product that fits stood in the results and had not been opened."


def _purchase(trajectory: Trajectory) -> tuple[str, list[str]]:
    """Id and options of the product bought; "" and none if nothing was."""
    pieces = pieces_of(trajectory.steps[-1].next_observation) if trajectory.steps else []
    if not pieces or pieces[0] != _THANKS or "asin" not in pieces or "options" not in pieces:
        return "", []
    return pieces[pieces.index("asin") + 1], list(json.loads(pieces[pieces.index("options") + 1]).values())
