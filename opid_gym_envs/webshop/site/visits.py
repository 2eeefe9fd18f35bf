"""Who is shopping: the visits of a site, each with the goal that its shopper must not see."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from opid_gym.order import TaskOrder
from opid_gym_envs.webshop.env import Visit, WebShop
from opid_gym_envs.webshop.goals import Goal
from opid_gym_envs.webshop.site.addresses import UnknownPlace

KEPT = 10_000
"""Visits kept; of more, the one that was longest without a request is forgotten."""


class Visits:
    """The visits of a site. Several threads may use it.

    Args:
        shop: what is sold, and for which goals.
        seed: of the order in which `begin_next` takes the shop's tasks.
    """

    def __init__(self, shop: WebShop, *, seed: int = 0) -> None:
        self.shop = shop
        self._order = TaskOrder(len(shop.task_ids), seed)
        self._lock = threading.Lock()
        self._visits: OrderedDict[str, tuple[Visit, threading.Lock]] = OrderedDict()
        self._sessions: OrderedDict[str, str] = OrderedDict()

    def begin(self, goal: Goal) -> tuple[str, Visit]:
        """A new visit; its name tells nothing about the goal."""
        name, visit = secrets.token_urlsafe(9), Visit(goal, self.shop)
        with self._lock:
            self._visits[name] = visit, threading.Lock()
            if len(self._visits) > KEPT:
                self._visits.popitem(last=False)
        return name, visit

    def begin_next(self) -> str:
        """A new visit for the next of the shop's tasks, in seeded order."""
        with self._lock:
            task_id = self.shop.task_ids[self._order.next()]
        return self.begin(self.shop.task_ids.goal(task_id))[0]

    def of_session(self, session: str, goal: int | None = None, *, again: bool = True) -> str:
        """The name of the visit behind a session of stock's site, begun if there is none.

        Args:
            session: what stock calls it.
            goal: number of the goal it is for; None: the next of the shop's tasks.
            again: begin another visit where that of the session is over.

        Raises:
            UnknownPlace: there is no goal of that number.
        """
        with self._lock:
            name = self._sessions.get(session)
            kept = self._visits.get(name) if name is not None else None
        if name is not None and kept is not None and not (again and kept[0].score is not None):
            return name
        if goal is None:
            name = self.begin_next()
        elif goal < len(self.shop.goals):
            name = self.begin(self.shop.goals[goal])[0]
        else:
            raise UnknownPlace(f"There is no goal {goal}; the last is {len(self.shop.goals) - 1}.")
        with self._lock:
            self._sessions[session] = name
            if len(self._sessions) > KEPT:
                self._sessions.popitem(last=False)
        return name

    def end(self, name: str) -> None:
        """Forget a visit."""
        with self._lock:
            self._visits.pop(name, None)

    @contextmanager
    def use(self, name: str) -> Iterator[Visit]:
        """A visit, by one thread at a time.

        Raises:
            KeyError: there is none of that name.
        """
        with self._lock:
            visit, lock = self._visits[name]
            self._visits.move_to_end(name)
        with lock:
            yield visit
