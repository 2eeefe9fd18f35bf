"""The table of papers against code names every algorithm once, with the constants that it has."""

from pathlib import Path

from opid_agents.algorithms import ALGORITHMS

PAGE = Path(__file__).parents[3] / "docs" / "papers.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and not line.startswith("| `algorithm=`")
]


def test_every_algorithm_has_one_row():
    untrained = {name for name, algorithm in ALGORITHMS.items() if algorithm.advantage is None}
    expected = {name for name, algorithm in ALGORITHMS.items() if algorithm.swap is None} - untrained - {"skill_grpo"}
    names = [row[0].strip("`") for row in ROWS]
    assert sorted(names) == sorted(expected)
    assert len(expected) >= 18


def test_constants_are_those_of_the_algorithm():
    for row in ROWS:
        constants = ALGORITHMS[row[0].strip("`")].constants
        assert row[-1] == ", ".join(f"`{name}={value}`" for name, value in constants.items()), row[0]


def test_controls_that_are_named_exist():
    own = PAGE.read_text(encoding="utf-8").split("## Forms of our own")[1].split("## Controls")[0]
    named = [line.split("|")[3].strip(" `") for line in own.splitlines() if line.startswith("| `opid")]
    assert len(named) >= 6
    assert all(ALGORITHMS[name].teacher == "routing" for name in named)
