"""The mistakes that `benchmarks/mutants.py` makes."""

from __future__ import annotations

import ast

from benchmarks.mutants import mutants

SOURCE = '''
"""Half of 2."""

def share(parts: int | None = 2, *, whole: bool = True) -> float:
    """A share of 1."""
    if whole and not parts:
        raise ValueError(f"{parts + 1} is wrong")
    total: float = 0.5
    total += parts
    print(total)
    return total if total < 3 else -total
'''


def test_every_mistake_is_one_change_and_what_says_nothing_of_the_work_stays() -> None:
    found = mutants(SOURCE)
    assert [mutant.change for mutant in found] == [
        "2 -> 3",
        "True -> False",
        "if whole and (not parts): -> if not (whole and (not parts)):",
        "whole and (not parts) -> whole or not parts",
        "not parts -> parts",
        "0.5 -> 1.5",
        "total += parts -> total -= parts",
        "total += parts -> pass",
        "print(total) -> pass",
        "total if total < 3 else -total -> total if not total < 3 else -total",
        "total < 3 -> total <= 3",
        "3 -> 4",
        "-total -> total",
    ]
    original = ast.dump(ast.parse(SOURCE))
    assert all(ast.dump(mutant.tree) != original for mutant in found)
    assert len({ast.dump(mutant.tree) for mutant in found}) == len(found)
    assert found[0].line == 4
