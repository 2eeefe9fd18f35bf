"""Every reply gives something to send, and a reason when it is invalid."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opid_gym.actions import BARE, SEARCH, TAGGED, ActionFormat, parse_action, spaced
from tests.patience import LONG


@pytest.mark.parametrize(
    ("reply", "action", "reason"),
    [
        ("<think>a</think><action>Look</action>", "look", None),
        ("<THINK>a</THINK>\n<Action>\n go to desk 1 \n</Action> bye", "go to desk 1", None),
        ("<think>say <action>no</action></think><action>look</action>", "look", None),
        ("<think>a</think><action>look</action><action>help</action>", "look", None),
        ("<action>look</action>", "look", "no <think>...</think> in the reply"),
        # The template of a reasoning model has opened the thought.
        ("say <action>no</action>?\n</think>\n<action>look</action>", "look", None),
        ("a</think>b</think><action>look</action>", "look", None),
        ("a</think><action>look", "a</think><action>look", "no <action>...</action> in the reply"),
        ("<think>a</think>look", "<think>a</think>look", "no <action>...</action> in the reply"),
        ("<think>a</think><action>look", "<think>a</think><action>look", "no <action>...</action> in the reply"),
        ("<think>a</think></action>look<action>", None, "no <action>...</action> in the reply"),
        ("<think>看</think><action>look</action>", "look", "Chinese characters in the reply"),
        ("<think>a</think><action> </action>", "", "the action is empty"),
    ],
)
def test_tagged_replies(reply: str, action: str | None, reason: str | None) -> None:
    parsed = parse_action(reply)
    assert parsed.valid == (reason is None)
    assert parsed.reason == reason
    if action is not None:
        assert parsed.action == action[-30:]


def test_options() -> None:
    admissible = ("look", "go to desk 1")
    checked = ActionFormat(admissible=True)
    assert parse_action("<think></think><action>look</action>", checked, admissible).valid
    assert parse_action("<think></think><action>jump</action>", checked, admissible).reason == (
        "the action is not admissible here"
    )
    assert parse_action(" look\n", BARE).action == "look"
    assert parse_action("<think>look?</think>\n\nwait", BARE).action == "wait"
    assert parse_action("", BARE).reason == "the action is empty"
    assert parse_action("<think>看</think><action>X</action>", ActionFormat(chinese=True, lower=False)).action == "X"
    assert parse_action("<think>看</think><action>x</action>").reason == "Chinese characters in the reply"
    assert parse_action("<action>look</action>", ActionFormat(reasoning=False)).valid


def test_a_format_that_was_read_from_json_is_the_same() -> None:
    read = ActionFormat(elements=["search", "answer"], lower=False)  # type: ignore[arg-type]
    assert read == SEARCH
    assert hash(read) == hash(SEARCH)


def test_a_space_before_the_text_of_an_action_is_the_models_and_not_the_worlds() -> None:
    format = replace(BARE, spaces=True)
    for action in ("click[red]", "answer[a [b]]", "look", "click[<  prev]"):
        assert parse_action(f" {spaced(action)}\n", format).action == action
        assert parse_action(f" {spaced(action)}\n", BARE).action == spaced(action)
    assert spaced(spaced("click[red]")) == "click[ red]"
    assert parse_action("look [ around ]", format).action == "look [ around ]"
    assert not parse_action("click[ red]", replace(format, admissible=True), ["click[ red]"]).valid


SEARCH_OR_ANSWER = "<search>...</search> or <answer>...</answer> in the reply"


@pytest.mark.parametrize(
    ("reply", "action", "reason"),
    [
        ("<think>a</think><search> Who? </search>", "<search>Who?</search>", None),
        ("<THINK>a</THINK> so <Answer>\nRome\n</ANSWER> bye", "<answer>Rome</answer>", None),
        ("<think><search>no</search></think><answer>Rome</answer>", "<answer>Rome</answer>", None),
        ("<answer>Rome</answer>", "<answer>Rome</answer>", "no <think>...</think> in the reply"),
        ("<search>no</search> or so</think><answer>Rome</answer>", "<answer>Rome</answer>", None),
        ("<think>a</think><search>a</search><answer>b</answer>", "", f"more than one {SEARCH_OR_ANSWER}"),
        ("<think>a</think><answer>b</answer><answer>b</answer>", "", f"more than one {SEARCH_OR_ANSWER}"),
        ("<think>a</think>Rome", "", f"no {SEARCH_OR_ANSWER}"),
        ("<think>a</think><search>a</answer>", "", f"no {SEARCH_OR_ANSWER}"),
        ("<think>a</think></search>a<search>", "", f"no {SEARCH_OR_ANSWER}"),
        ("<think>a</think><answer> </answer>", "", "the answer is empty"),
    ],
)
def test_replies_that_search_or_answer(reply: str, action: str, reason: str | None) -> None:
    parsed = parse_action(reply, SEARCH)
    assert (parsed.action, parsed.reason) == (action, reason)


@given(st.text(), st.sampled_from([TAGGED, BARE, SEARCH, ActionFormat(admissible=True)]))
def test_no_text_raises_and_every_invalid_one_has_a_reason(reply: str, format: ActionFormat) -> None:
    parsed = parse_action(reply, format, ("look",))
    assert parsed.valid == (parsed.reason is None)
    assert len(parsed.action) <= format.max_characters


@pytest.mark.parametrize("piece", ["<action>", "<think>", "</action>", "a", "\0", "<think></think><action>"])
def test_a_megabyte_is_parsed_in_linear_time(piece: str) -> None:
    reply = piece * (2**20 // len(piece))
    start = time.thread_time()
    parsed = parse_action(reply)
    assert time.thread_time() - start < LONG
    assert not parsed.valid
    assert len(parsed.action) <= TAGGED.max_characters
