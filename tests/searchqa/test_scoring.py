"""Scores agree with Search-R1's own functions, whose results were recorded outside this repository.

1,200 rows: answers and accepted answers with its exact match and sub-EM, and whole episodes, many with something wrong
in them, with its verdict on their form and its format-aware reward. Rows whose accepted answers normalise to nothing
are left out: there `contains_answer` differs on purpose.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opid_gym_envs.searchqa.scoring import (
    FormatWeights,
    contains_answer,
    exact_match,
    f1,
    format_reward,
    is_well_formed,
    normalise,
)

RECORDED = Path(__file__).parents[1] / "data" / "searchqa" / "search_r1_scores.jsonl.gz"


def recorded(kind: str) -> list[dict[str, Any]]:
    with gzip.open(RECORDED, "rt", encoding="utf-8") as file:
        return [row for row in map(json.loads, file) if row["kind"] == kind]


def test_exact_match_and_sub_em_are_those_of_search_r1() -> None:
    rows = recorded("answer")
    assert len(rows) == 600
    for row in rows:
        assert normalise(row["answer"]) == row["normal"], row
        assert exact_match(row["answer"], row["accepted"]) == bool(row["em"]), row
        assert contains_answer(row["answer"], row["accepted"]) == bool(row["sub_em"]), row


def test_the_form_of_an_episode_and_its_reward_are_those_of_search_r1() -> None:
    rows = recorded("format")
    assert len(rows) == 600
    for row in rows:
        structure, final, retrieval = row["weights"]
        weights = FormatWeights(structure=structure, final=final, retrieval=retrieval)
        assert is_well_formed(row["transcript"]) == row["valid"], row
        reward = format_reward(row["transcript"], row["answer"], row["accepted"], row["retrieved"], weights)
        assert reward == pytest.approx(row["reward"]), row


def test_an_accepted_answer_of_articles_and_punctuation_stands_nowhere() -> None:
    assert not contains_answer("anything", ["The", "-"])
    assert exact_match("a", ["A"])


@pytest.mark.parametrize(
    ("answer", "accepted", "score"),
    [
        ("Nairobi", ["Mombasa", "Nairobi"], 1.0),
        ("William Ruto", ["President William Ruto"], 0.8),
        ("Ruto", ["Kenyatta"], 0.0),
        ("", ["Nairobi"], 0.0),
        ("the", ["a"], 1.0),
        ("red red blue", ["red green"], 0.4),
        ("Nairobi", [], 0.0),
    ],
)
def test_f1_by_hand(answer: str, accepted: list[str], score: float) -> None:
    assert f1(answer, accepted) == pytest.approx(score)


def test_without_reasoning_the_thoughts_must_be_missing() -> None:
    bare = "<search>a</search><information>b</information><answer>c</answer>"
    assert is_well_formed(bare, reasoning=False)
    assert not is_well_formed(bare)
    assert not is_well_formed("<think>x</think>" + bare, reasoning=False)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_scores_are_consistent_on_any_text(answer: str, accepted: list[str]) -> None:
    assert 0 <= f1(answer, accepted) <= 1
    if exact_match(answer, accepted):
        assert f1(answer, accepted) == 1
