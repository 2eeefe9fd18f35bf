"""WebShop as a `World`: which goals there are, and many shoppers at once."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, overload

from opid_gym.trajectory import StepHindsight, Trajectory
from opid_gym.world import Task, Turn, World
from opid_gym_envs.webshop import nouns
from opid_gym_envs.webshop.catalogue import Catalogue
from opid_gym_envs.webshop.expert import next_action
from opid_gym_envs.webshop.goals import GOAL_SETS, SPLIT_BY, SPLITS, Goal, Goals, read_prices
from opid_gym_envs.webshop.hindsight import hindsight, workflow
from opid_gym_envs.webshop.pages import SEPARATOR, Page, PageKind, as_rich_text, as_short_text, as_text, short_codes
from opid_gym_envs.webshop.product import Product
from opid_gym_envs.webshop.reward import Score, score
from opid_gym_envs.webshop.search.lucene import LuceneSearch
from opid_gym_envs.webshop.session import SEARCH_ACTION, Session, Shelves, read_action

OBSERVATION_MODES: dict[str, Callable[[Page], str]] = {
    "text": as_text,
    "text_rich": as_rich_text,
    "short": as_short_text,
}
SEARCHES = ("native", "lucene")


class WebShop(World):
    """Shopping by instruction, with the pages, ranks and rewards of stock WebShop.

    What is sold:

    - ``data_dir=DIR``: the official files, full or small;
    - otherwise a generated catalogue (see `opid_gym_envs.webshop.generator`).

    Actions are ``search[words]``, on any page, and ``click[text]`` with the text of a button, the id of a product or
    the value of an option; anything else changes nothing and counts as a step. Buying ends the episode and pays
    stock's score, 0.0 to 1.0; the task is won if it is 1.0. The info of that step holds the score's parts under stock's
    names (``r_type``, ``r_att``, ``r_option``, ``r_price``, ...; see `opid_gym_envs.webshop.reward.Score`), and
    nothing tells of them before. ``info["page"]`` says which `PageKind` is open.

    Stock has no limit of steps; the default here is 15, as OPID and other work with it has.

    Args:
        data_dir: folder of the official data.
        catalogue: which of the folder's catalogues: ``full``, ``small`` or ``ITEMS.json+ATTRIBUTES.json`` (see
            `OfficialFiles.of`); None: the only one that is there.
        goals: ``synthetic`` or ``human`` (written by people; official data only).
        split: ``train``, ``eval`` or ``test`` (see `Goals.split`); None: ``train``.
        split_by: ``goal``, as in stock, or ``product``: no product's goals are in two splits.
        num_products: size of the generated catalogue; None: 1,000.
        prices: asin -> price in dollars, or the path of a JSON file with that: instead of drawn prices, so that
            sessions recorded from stock replay.
        observation_mode: ``text`` or ``text_rich``, as in stock; or ``short``, for small models: one piece a line, the
            instruction on the search page only, and products called ``item 1``, ``item 2``, ... by their place on a
            page of results, where they are clicked by that name.
        search: ``native``, or ``lucene`` to rank with Lucene itself (needs ``pip install opid-gym[lucene]`` and Java).

    Attributes:
        source: ``"official"``, or ``"generated"``.
        data: the official file of products that is played, whose name says which catalogue; None if generated.

    Raises:
        ValueError: an argument is not allowed, or a file is broken; the message names it.
        FileNotFoundError: a folder or file is not there.
    """

    default_max_episode_steps: ClassVar[int] = 15
    task_options: ClassVar[tuple[str, ...]] = ("goal",)

    def __init__(
        self,
        data_dir: str | Path | None = None,
        goals: str = "synthetic",
        split: str | None = None,
        num_products: int | None = None,
        prices: Mapping[str, float] | str | Path | None = None,
        observation_mode: str = "text",
        search: str = "native",
        catalogue: str | None = None,
        split_by: str = "goal",
    ) -> None:
        _check("split_by", split_by, SPLIT_BY)
        _check("goals", goals, GOAL_SETS)
        _check("split", split or "train", SPLITS)
        _check("observation_mode", observation_mode, tuple(OBSERVATION_MODES))
        _check("search", search, SEARCHES)
        if num_products is not None and (not isinstance(num_products, int) or num_products < 1):
            raise ValueError(f"num_products must be an integer of 1 or more, got {num_products!r}")
        if data_dir is not None and num_products is not None:
            raise ValueError("num_products= is for the generated catalogue and data_dir= for official data: give one")
        if data_dir is None and catalogue is not None:
            raise ValueError(f"catalogue={catalogue!r} is for official data: give data_dir=, or num_products= alone")
        if data_dir is not None:
            self.catalogue = Catalogue.load(data_dir, catalogue)
        else:
            self.catalogue = Catalogue.generated(1000 if num_products is None else num_products)
        self.goals = Goals(self.catalogue, goals, None if prices is None else read_prices(prices))
        self.task_ids: TaskIds = TaskIds(self.goals, self.goals.split(split or "train", split_by))
        self.source = "generated" if self.catalogue.files is None else "official"
        self.data = None if self.catalogue.files is None else str(self.catalogue.files.items)
        self.shelves: Shelves = self.catalogue if search == "native" else _SearchedByLucene(self.catalogue)
        self._show = OBSERVATION_MODES[observation_mode]
        self._short = observation_mode == "short"
        self._nouns = lru_cache(maxsize=4096)(self._title_nouns)
        self._given: dict[str, Goal] = {}
        self._visits: dict[int, Visit] = {}

    def add_task(self, option: str, value: Any) -> str:
        """See `World.add_task`: option ``goal`` takes a goal record of stock's shape."""
        goal = Goal.of_record(value)
        digest = hashlib.blake2b(json.dumps(asdict(goal)).encode(), digest_size=8).hexdigest()
        task_id = f"given-{digest}"
        self._given[task_id] = goal
        return task_id

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """See `World.start`."""
        begun = []
        for slot, task_id in zip(slots, task_ids, strict=True):
            visit = self._visits[slot] = Visit(self._goal(task_id), self)
            begun.append((visit.task(task_id), self._turn(visit)))
        return begun

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """See `World.step`."""
        turns = []
        for slot, action in zip(slots, actions, strict=True):
            visit = self._visits[slot]
            visit.session.act(self._meant(visit.session.page(), action) if self._short else action)
            turns.append(self._turn(visit))
        return turns

    def expert_actions(self, slots: Sequence[int]) -> list[str]:
        """See `World.expert_actions`."""
        actions = []
        for visit in (self._visits[slot] for slot in slots):
            action, page = next_action(visit.session, visit.goal, self.catalogue), visit.session.page()
            if self._short and page.kind is PageKind.RESULTS:
                codes = zip(
                    (f"click[{product.asin.lower()}]" for product in page.products), short_codes(page), strict=True
                )
                action = next((f"click[{code}]" for asin, code in codes if asin == action), action)
            actions.append(action)
        return actions

    def hindsight(self, trajectory: Trajectory) -> list[StepHindsight]:
        """See `opid_gym_envs.webshop.hindsight`."""
        return hindsight(trajectory)

    def workflow(self, trajectory: Trajectory) -> list[str]:
        """See `opid_gym_envs.webshop.hindsight.workflow`."""
        return workflow(trajectory) if trajectory.success else []

    def close(self) -> None:
        """Forget the visits."""
        self._visits.clear()
        self.catalogue.close()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is cached, for copies and other processes."""
        return {name: value for name, value in self.__dict__.items() if name != "_nouns"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._nouns = lru_cache(maxsize=4096)(self._title_nouns)

    def appraise(self, product: Product, chosen: Mapping[str, str], goal: Goal) -> Score:
        """What buying this product with these options is worth for a goal."""
        return score(
            product,
            chosen,
            self.goals.price(product.asin),
            goal,
            bought_nouns=self._nouns(product.asin, product.title),
            goal_nouns=self._nouns(goal.asin, goal.name),
        )

    def _goal(self, task_id: str) -> Goal:
        return self._given.get(task_id) or self.task_ids.goal(task_id)

    def _title_nouns(self, asin: str, title: str) -> tuple[str, ...]:
        known = None
        if asin in self.catalogue and self.catalogue.product(asin).title == title:
            known = self.catalogue.title_nouns(asin)
        return next(nouns.tag([title])) if known is None else known

    def _turn(self, visit: Visit) -> Turn:
        page = visit.session.page()
        clickables = page.clickables
        if self._short and page.kind is PageKind.RESULTS:
            clickables = (*clickables[: len(clickables) - len(page.products)], *short_codes(page))
        return make_turn(visit, page.kind, self._show(page), clickables)

    def _meant(self, page: Page, action: str) -> str:
        """An action of mode ``short`` as the session takes it."""
        name, argument = read_action(action)
        argument = argument.strip()
        if not argument:
            return action
        if name == "click" and page.kind is PageKind.RESULTS and argument.lower() in (codes := short_codes(page)):
            argument = page.products[codes.index(argument.lower())].asin
        return f"{name}[{argument}]"


def make_turn(visit: Visit, kind: PageKind, observation: str, clickables: Sequence[str]) -> Turn:
    """What the shopper is told about this page."""
    actions = click_actions(tuple(clickables))
    extras: dict[str, Any] = {"page": kind.value}
    if visit.score is None:
        if kind is PageKind.SEARCH:
            actions = (SEARCH_ACTION, *actions)
        return Turn(observation, 0.0, False, False, actions, _anchor(observation, visit.session.chosen), extras)
    won = visit.score.reward == 1.0
    return Turn(observation, visit.score.reward, True, won, actions, None, extras | visit.score.parts)


@lru_cache(maxsize=4096)
def click_actions(clickables: tuple[str, ...]) -> tuple[str, ...]:
    """The actions that click on these."""
    return tuple([f"click[{text}]" for text in clickables])


class Visit:
    """A session with the goal behind it, which the session itself does not know."""

    __slots__ = ("_world", "goal", "score", "session")

    def __init__(self, goal: Goal, world: WebShop) -> None:
        self._world = world
        self.goal = goal
        self.score: Score | None = None
        self.session = Session(world.shelves, goal.instruction, self._appraise)

    def task(self, task_id: str) -> Task:
        """The goal as the shopper may know it."""
        return Task(task_id, self.goal.category, self.goal.instruction)

    def _appraise(self, product: Product, chosen: Mapping[str, str]) -> float:
        self.score = self._world.appraise(product, chosen, self.goal)
        return self.score.reward


class _SearchedByLucene:
    """A catalogue whose search is Lucene."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._lucene = LuceneSearch(catalogue)
        self._catalogue = catalogue
        self.product = catalogue.product

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._catalogue,)

    def search(self, query: str, k: int) -> Sequence[str]:
        try:
            return self._lucene.search(query, k)
        except ValueError:  # more words than Lucene accepts; stock's environment would end here
            return ()


class TaskIds(Sequence[str]):
    """The task ids of a split, made when asked for: there can be millions.

    Args:
        goals: all goals.
        numbers: those of the split, in order.
    """

    def __init__(self, goals: Goals, numbers: Sequence[int]) -> None:
        self._goals = goals
        self._numbers = numbers
        self._prefix = f"{'generated/' if goals.catalogue.files is None else ''}{goals.goal_set}-"

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return TaskIds(self._goals, self._numbers[index])
        number = self._numbers[index]
        return f"{self._prefix}{number}-{self._goals.asin(number)}"

    def goal(self, task_id: str) -> Goal:
        """The goal of a task.

        Raises:
            KeyError: no task of this split has that id.
        """
        number, _, asin = task_id.removeprefix(self._prefix).partition("-")
        if task_id.startswith(self._prefix) and number.isdecimal() and self._has(int(number)):
            goal = self._goals[int(number)]
            if goal.asin == asin:
                return goal
        raise KeyError(f"no task {task_id!r} in this split; its ids look like {self[0]!r}")

    def _has(self, number: int) -> bool:
        if isinstance(self._numbers, range):
            return number in self._numbers
        place = bisect_left(self._numbers, number)
        return place < len(self._numbers) and self._numbers[place] == number


def _anchor(observation: str, chosen: Mapping[str, str]) -> str:
    """The observation, with the options chosen, which text mode does not show."""
    if not chosen:
        return observation
    return SEPARATOR.join([observation, *(f"{name}: {value}" for name, value in sorted(chosen.items()))])


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}")
