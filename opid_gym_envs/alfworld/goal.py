"""Goals: from a formula with quantifiers to a short list of cases that can be checked in about a microsecond.

``ground`` replaces every quantifier by the bindings that the unchanging facts leave possible ("exists a receptacle of
type fridge" becomes "fridge 1") and folds everything that is already decided. What remains mentions only facts that
play can change, and is usually a handful of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from opid_gym_envs.alfworld.pddl import read_typed_list
from opid_gym_envs.alfworld.rules import DYNAMIC_PREDICATES, PREDICATES, TYPES

# True, False, an atom ("opened", "fridge_1"), ("not", atom), ("and", parts...) or ("or", parts...), nested.
Ground = Any

MAX_BINDINGS = 2_000_000


class GoalError(ValueError):
    """The goal has more bindings than can be checked."""


class _Facts:
    """What can hold: the unchanging facts, and for changeable ones what they have ever been said of."""

    def __init__(self, facts: Iterable[tuple[str, ...]]) -> None:
        self.all: set[tuple[str, ...]] = set()
        self.by_predicate: dict[str, list[tuple[str, ...]]] = {}
        self.roles: dict[str, set[str]] = {kind: set() for kind in TYPES}
        self.answers: dict[tuple[Any, ...], set[str]] = {}
        for fact in facts:
            if fact[0] not in DYNAMIC_PREDICATES:
                self.all.add(fact)
                self.by_predicate.setdefault(fact[0], []).append(fact)
            if fact[0] not in ("checked", "examined"):
                for kind, argument in zip(PREDICATES.get(fact[0], ()), fact[1:], strict=False):
                    self.roles[kind].add(argument)

    def candidates(self, atom: tuple[str, ...], variable: str, bound: Mapping[str, str]) -> set[str]:
        """The values of one variable for which the atom can be true."""
        place = atom.index(variable)
        if atom[0] in DYNAMIC_PREDICATES:
            # Play only ever makes such a fact true of ids that play the same part in some initial fact.
            return self.roles[PREDICATES[atom[0]][place - 1]]
        known = [
            (index, bound.get(argument, argument))
            for index, argument in enumerate(atom)
            if index and (argument in bound or not argument.startswith("?"))
        ]
        question = (atom[0], place, *known)
        found = self.answers.get(question)
        if found is None:
            found = self.answers[question] = {
                fact[place]
                for fact in self.by_predicate.get(atom[0], ())
                if all(fact[index] == value for index, value in known)
            }
        return found


def ground(
    formula: Any,
    facts: Iterable[tuple[str, ...]],
    universe: Mapping[str, Sequence[str]],
) -> Ground:
    """Replace quantifiers by their possible bindings and fold what is decided.

    One peculiarity of the original is kept: where the goal is a plain list of literals (and universal statements), its
    planner never looks at those that deny an unchanging fact, so they count as fulfilled.

    Args:
        formula: a goal as in ``Problem.goal``.
        facts: the facts at the start; those with dynamic predicates are ignored.
        universe: type -> ids of that type, for ``forall`` and ``exists``; a type it lacks has no ids.

    Returns:
        The grounded formula: True, False, or nested ``("and"|"or", ...)``, ``("not", atom)`` and dynamic atoms.

    Raises:
        GoalError: more than ``MAX_BINDINGS`` bindings had to be looked at.
    """
    literals = _literals(formula, True)
    if literals is not None:
        formula = ("and", *(literal for literal in literals if not _denies_unchanging(literal)))
    return _Grounder(_Facts(facts), universe).expand(formula, {}, True)


def _literals(formula: Any, positive: bool) -> list[Any] | None:
    """The parts of a goal that is a conjunction of literals and universal statements, or None if it is not."""
    head = formula[0]
    if head == "not":
        return _literals(formula[1], not positive)
    if head == "imply":
        return _literals(("or", ("not", formula[1]), formula[2]), positive)
    if head in ("and", "or"):
        if (head == "and") != positive and len(formula) != 2:
            return None
        parts = [_literals(part, positive) for part in formula[1:]]
        return None if None in parts else [literal for part in parts if part is not None for literal in part]
    if head in ("exists", "forall") and (head == "forall") != positive:
        return None
    return [formula if positive else ("not", formula)]


def _denies_unchanging(literal: Any) -> bool:
    return literal[0] == "not" and literal[1][0] not in ("exists", "forall", *DYNAMIC_PREDICATES)


class _Grounder:
    def __init__(self, facts: _Facts, universe: Mapping[str, Sequence[str]]) -> None:
        self.facts = facts
        self.universe = universe
        self.members = {kind: frozenset(ids) for kind, ids in universe.items()}
        self.bindings = 0

    def expand(self, formula: Any, bound: dict[str, str], positive: bool) -> Ground:
        """The formula (or, if not ``positive``, its negation) under the bindings."""
        head = formula[0]
        if head == "not":
            return self.expand(formula[1], bound, not positive)
        if head == "imply":
            return self.expand(("or", ("not", formula[1]), formula[2]), bound, positive)
        if head in ("and", "or"):
            parts = (self.expand(part, bound, positive) for part in formula[1:])
            return _join("and" if (head == "and") == positive else "or", parts)
        if head in ("exists", "forall"):
            existential = (head == "exists") == positive
            variables = read_typed_list(formula[1])
            names = {name for name, _ in variables}
            inner = {name: value for name, value in bound.items() if name not in names}
            # A case can matter only where all facts it needs hold: for "exists" those the formula demands, for "forall"
            # those its negation demands.
            needed = list(_needed(formula[2], existential == positive, names | set(bound)))
            cases = self._cases(formula[2], variables, inner, needed, positive)
            return _join("or" if existential else "and", cases)
        return self._atom(formula, bound, positive)

    def _cases(
        self,
        body: Any,
        variables: list[tuple[str, str]],
        bound: dict[str, str],
        needed: list[tuple[str, ...]],
        positive: bool,
    ) -> Iterator[Ground]:
        if not variables:
            yield self.expand(body, bound, positive)
            return
        (name, kind), rest = variables[0], variables[1:]
        values = self.members.get(kind, frozenset())
        for atom in needed:
            if name in atom:
                values = values & self.facts.candidates(atom, name, bound)
        self.bindings += len(values)
        if self.bindings > MAX_BINDINGS:
            raise GoalError(f"the goal has more than {MAX_BINDINGS} bindings to check")
        for value in sorted(values):
            yield from self._cases(body, rest, {**bound, name: value}, needed, positive)

    def _atom(self, formula: tuple[str, ...], bound: Mapping[str, str], positive: bool) -> Ground:
        atom = (formula[0], *(bound.get(argument, argument) for argument in formula[1:]))
        if atom[0] in DYNAMIC_PREDICATES:
            return atom if positive else ("not", atom)
        if atom[0] == "=":
            return (atom[1] == atom[2]) == positive
        if atom[0] in TYPES:
            return (atom[1] in self.members.get(atom[0], frozenset())) == positive
        return (atom in self.facts.all) == positive


def _needed(formula: Any, positive: bool, taken: set[str]) -> Iterator[tuple[str, ...]]:
    """Atoms without which the formula (or its negation) is false, whatever else holds."""
    head = formula[0]
    if head == "not":
        yield from _needed(formula[1], not positive, taken)
    elif head == ("and" if positive else "or"):
        for part in formula[1:]:
            yield from _needed(part, positive, taken)
    elif head == "imply" and not positive:
        yield from _needed(formula[1], True, taken)
        yield from _needed(formula[2], False, taken)
    elif head == ("exists" if positive else "forall"):
        hidden = {name for name, _ in read_typed_list(formula[1])}
        # Inner variables stay unbound here and match anything; a name that means two things is left alone.
        if not hidden & taken:
            yield from _needed(formula[2], positive, taken)
    elif positive and head not in ("and", "or", "imply", "forall", "exists", "=", "checked", *TYPES):
        yield formula


def _join(head: str, parts: Iterable[Ground]) -> Ground:
    absorbing = head == "or"
    kept: dict[Ground, None] = {}
    for part in parts:
        if part is absorbing:
            return absorbing
        if part is (not absorbing):
            continue
        if part[0] == head:
            kept.update(dict.fromkeys(part[1:]))
        else:
            kept[part] = None
    if not kept:
        return not absorbing
    return next(iter(kept)) if len(kept) == 1 else (head, *kept)


def atoms(formula: Ground) -> Iterator[tuple[str, ...]]:
    """All atoms of a grounded formula."""
    if isinstance(formula, bool):
        return
    if formula[0] in ("and", "or", "not"):
        for part in formula[1:]:
            yield from atoms(part)
    else:
        yield formula


State = Any
Test = Callable[[State], bool]


def compile_goal(formula: Ground, test_of: Callable[[tuple[str, ...]], Test | bool]) -> Test:
    """Turn a grounded formula into a function of the state.

    Args:
        formula: what ``ground`` returned.
        test_of: gives the test of one atom, or a constant where the atom can never change.

    Returns:
        A function that says whether the formula holds in a state.
    """
    test = _compile(formula, test_of)
    return test if callable(test) else _always if test else _never


def _always(state: State) -> bool:
    return True


def _never(state: State) -> bool:
    return False


def _compile(formula: Ground, test_of: Callable[[tuple[str, ...]], Test | bool]) -> Test | bool:
    if isinstance(formula, bool):
        return formula
    if formula[0] == "not":
        inner = test_of(formula[1])
        return (not inner) if isinstance(inner, bool) else lambda state: not inner(state)
    if formula[0] not in ("and", "or"):
        return test_of(formula)
    absorbing = formula[0] == "or"
    tests: list[Test] = []
    for part in formula[1:]:
        test = _compile(part, test_of)
        if test is absorbing:
            return absorbing
        if callable(test):
            tests.append(test)
    if not tests:
        return not absorbing
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        if absorbing:
            return lambda state: first(state) or second(state)
        return lambda state: first(state) and second(state)

    def run(state: State) -> bool:
        for test in tests:
            if test(state) is absorbing:
                return absorbing
        return not absorbing

    return run
