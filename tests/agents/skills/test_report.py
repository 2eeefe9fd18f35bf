"""What analyzers reply, and what is read from it."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents.skills.extract import Skills
from opid_agents.skills.report import SkillReportError, parse_skills, reply_schema

from tests.patience import LONG

GOOD = {"episode_summary": "Found it.", "episode_skill": "Look on desks first.", "step_skills": {"1": "Take it."}}
TEXT = json.dumps(GOOD)
PRETTY = json.dumps(GOOD, indent=2)
WITHOUT_SUMMARY = {key: value for key, value in GOOD.items() if key != "episode_summary"}
WHOLE = Skills("Found it.", "Look on desks first.", {1: "Take it."})


def with_steps(steps):
    return json.dumps(GOOD | {"step_skills": steps})


# Kinds of replies that say all that `GOOD` says.
THE_SAME = {
    "the object alone": TEXT,
    "pretty": PRETTY,
    "white space around it": f"\n\n  {TEXT}\n ",
    "byte order mark": "\ufeff" + TEXT,
    "fence": f"```json\n{PRETTY}\n```",
    "fence without a language": f"```\n{TEXT}\n```",
    "fence in capitals": f"```JSON\n{TEXT}\n```",
    "fence in one line": f"```json {TEXT} ```",
    "fence that is not closed": f"```json\n{TEXT}",
    "words around a fence": f"Sure!\n```json\n{PRETTY}\n```\nDone.",
    "words around it": f"Here you are: {TEXT} I hope it helps.",
    "heading": f"## Analysis\n\n**Result**: {TEXT}",
    "faulty JSON in a fence": f"The set {{mug, desk}} matters.\n```json\n{TEXT[:-1]},}}\n```\nand {{no more",
    "second fence": f"```python\nplan = {{'a': 1}}\n```\nand so\n```json\n{TEXT}\n```",
    "two fences, a draft first": f'```json\n{{"episode_skill": "Draft."}}\n```\nBetter:\n```json\n{TEXT}\n```',
    "braces before it": f"I fill {{goal}} and {{max_step_skills}} in. {TEXT}",
    "an empty object before it": f"{{}} {TEXT}",
    "thousands of braces before it": "{" * 50_000 + TEXT,
    "hundreds of braces right before it": "{" * 501 + TEXT,
    "as much as is read": TEXT.ljust(100_000),
    "an unclosed brace before it": f"The set {{mug, desk is what matters. {TEXT}",
    "brackets before it": f"Steps [0, 1] matter. {TEXT}",
    "braces after it": f"{TEXT} where {{goal}} was given",
    "thought before it": f"<think>The agent looked {{around}}.</think>\n{TEXT}",
    "thought whose beginning the template has": f'Maybe {{"episode_skill": "No."}}?\n</think>\n{TEXT}',
    "thought that holds it": f"<think>{TEXT}</think>",
    "schema echoed first": f"{json.dumps(reply_schema(3))}\n\n{TEXT}",
    "schema in a fence first": f"```json\n{json.dumps(reply_schema(3), indent=1)}\n```\n```json\n{TEXT}\n```",
    "wrapped in an object": json.dumps({"result": GOOD}),
    "wrapped twice": json.dumps({"data": {"answer": GOOD}}),
    "wrapped beside words about it": json.dumps({"note": "The episode skill is below.", "result": GOOD}),
    "wrapped in a list": json.dumps([GOOD]),
    "as a JSON string in an object": json.dumps({"arguments": TEXT}),
    "as a JSON string with a line break, after a draft": json.dumps(
        [json.dumps({"episode_skill": "Draft."}), TEXT.replace("Look on", "Look\non")]
    ),
    "wrapped three times, after a draft": json.dumps([{"episode_skill": "Draft."}, {"a": {"b": {"c": GOOD}}}]),
    "trailing comma": TEXT[:-1] + ",}",
    "trailing comma inside": TEXT.replace('"}', '",}'),
    "comma missing": TEXT.replace('", "episode_skill"', '" "episode_skill"'),
    "comma missing at a line's end": PRETTY.replace('",\n', '"\n'),
    "single quotes": str(GOOD),
    "curly quotes": TEXT.replace('"', "\u201d"),
    "keys without quotes": TEXT.replace('"episode_', "episode_")
    .replace('_summary"', "_summary")
    .replace('_skill"', "_skill"),
    "step numbers without quotes": TEXT.replace('"1"', "1"),
    "comment": PRETTY.replace('  "step_skills"', '  // where it counts\n  "step_skills"'),
    "line break in a string": TEXT.replace("Look on", "Look\non"),
    "tab in a string": TEXT.replace("Look on", "Look\ton"),
    "escaped line break": TEXT.replace("Look on", "Look\\non"),
    "control character": TEXT.replace("Look on", "Look\\u0000on"),
    "end missing": TEXT[:-1],
    "both ends missing": TEXT[:-2],
    "camel case": TEXT.replace("_su", "Su").replace("_sk", "Sk"),
    "capitals": TEXT.replace("episode_skill", "Episode Skill").replace("step_skills", "Step-Skills"),
    "further members": json.dumps(GOOD | {"confidence": 0.9, "notes": [1, None]}),
    "skill as a list": json.dumps(GOOD | {"episode_skill": ["Look on", "desks first."]}),
    "skill as an object": json.dumps(GOOD | {"episode_skill": {"text": "Look on desks first."}}),
    "steps by name": with_steps({"Step 1": "Take it."}),
    "steps with underscores": with_steps({"step_1": "Take it."}),
    "steps as decimals": with_steps({"1.0": "Take it."}),
    "steps with a full stop": with_steps({" 1. ": "Take it."}),
    "steps as objects": with_steps({"1": {"skill": "Take it."}}),
    "list of steps": with_steps([{"step": 1, "skill": "Take it."}]),
    "list of steps, other words": with_steps([{"index": "1", "advice": "Take it."}]),
    "list of single objects": with_steps([{"1": "Take it."}]),
    "list of pairs": with_steps([[1, "Take it."]]),
    "list of numbered texts": with_steps(["Step 1: Take it."]),
    "a step outside the trajectory": with_steps({"7": "No.", "-1": "No.", "1": "Take it."}),
    "a step just outside the trajectory": with_steps({"3": "No.", "1": "Take it."}),
    "a step without a number": with_steps({"first": "No.", "1": "Take it."}),
    "a step without text": with_steps({"0": " ", "2": None, "1": "Take it."}),
    "a step that is a number": with_steps({"0": 4, "1": "Take it."}),
    "a step that is true": with_steps({"0": True, "1": "Take it."}),
    "the same step twice": with_steps([[1, "Take it."], [1, "Leave it."]]),
    "entries that say nothing": with_steps([None, 3, "words", {}, [1], {"step": None}, [1, "Take it."]]),
    "entries that say too much": with_steps([[2, "No.", "No."], {"0": "No.", "2": "No."}, [1, "Take it."]]),
}

# Kinds of replies that leave something out.
WITHOUT_STEPS = {
    "missing": {key: value for key, value in GOOD.items() if key != "step_skills"},
    "null": GOOD | {"step_skills": None},
    "list": GOOD | {"step_skills": []},
    "object": GOOD | {"step_skills": {}},
    "text": GOOD | {"step_skills": "none"},
    "number": GOOD | {"step_skills": 0},
    "list of words": GOOD | {"step_skills": ["take it", "leave it"]},
}
WITHOUT_A_SUMMARY = {
    "missing": WITHOUT_SUMMARY,
    "null": WITHOUT_SUMMARY | {"episode_summary": None},
    "empty": WITHOUT_SUMMARY | {"episode_summary": ""},
    "number": WITHOUT_SUMMARY | {"episode_summary": 3},
}


def test_the_corpus_is_as_large_as_it_should_be():
    assert len(THE_SAME) + len(WITHOUT_STEPS) + len(WITHOUT_A_SUMMARY) >= 60


def test_the_schema_asks_for_all_members_and_leaves_no_room_for_others():
    schema = reply_schema(2)
    steps = schema["properties"]["step_skills"]
    assert list(schema["properties"]) == schema["required"] == list(GOOD)
    assert list(steps["properties"]) == ["0", "1"]
    assert schema["additionalProperties"] is steps["additionalProperties"] is False
    texts = [
        schema["properties"]["episode_summary"],
        schema["properties"]["episode_skill"],
        *steps["properties"].values(),
    ]
    assert all(text["type"] == "string" and text["minLength"] == 1 for text in texts)
    # Another length, and a model that fills its room says something else with the same seed.
    assert [text["maxLength"] for text in texts] == [300, 300, 160, 160]


@pytest.mark.parametrize("kind", THE_SAME)
def test_what_is_meant_is_read(kind):
    assert parse_skills(THE_SAME[kind], 3, 5) == WHOLE


@pytest.mark.parametrize("kind", WITHOUT_STEPS)
def test_without_step_skills_the_episode_skill_is_left(kind):
    assert parse_skills(json.dumps(WITHOUT_STEPS[kind]), 3, 5) == Skills(WHOLE.episode_summary, WHOLE.episode_skill)


@pytest.mark.parametrize("kind", WITHOUT_A_SUMMARY)
def test_without_a_summary_everything_else_is_left(kind):
    assert parse_skills(json.dumps(WITHOUT_A_SUMMARY[kind]), 3, 5) == Skills("", WHOLE.episode_skill, {1: "Take it."})


def test_a_reply_that_was_cut_keeps_what_was_said():
    cut = with_steps({"1": "Take it.", "2": "Go to the desk and"})[:-6]
    assert parse_skills(cut, 3, 5).step_skills == {1: "Take it.", 2: "Go to the desk"}


def test_of_too_many_skills_the_first_named_are_kept_in_the_order_of_their_steps():
    steps = {str(i): f"skill {i}" for i in (4, 2, 0, 1)}
    assert parse_skills(with_steps(steps), 9, 2).step_skills == {2: "skill 2", 4: "skill 4"}
    assert list(parse_skills(with_steps(steps), 9, 2).step_skills) == [2, 4]
    assert parse_skills(with_steps(steps), 9, 0).step_skills == {}


def test_long_texts_are_cut():
    long = json.dumps({"episode_summary": "s" * 9000, "episode_skill": "e" * 9000, "step_skills": {"0": "x" * 9000}})
    skills = parse_skills(long, 3, 5)
    assert [len(skills.episode_summary), len(skills.episode_skill), len(skills.step_skills[0])] == [2000, 1000, 300]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", r"not a JSON object: there is no \{...\} in it"),
        ("I cannot help with that.", "not a JSON object"),
        ("The episode skill is to look on desks first.", "not a JSON object"),
        ("[1, 2]", "does not fit"),
        ("The episode_skill is {}.", "not a JSON object"),
        ('{"episode_skill": ' + "[" * 450, "does not fit|not a JSON object"),
        ("<html>" * 100, "not a JSON object"),
        ("{" * 50_000, "not a JSON object"),
        ('{"a":' * 20_000 + "1" + "}" * 20_000, "at most 100000 are read"),
        ("[" * 40_000 + "{}" + "]" * 40_000, "does not fit|not a JSON object"),
        ("x" * 10_000_000, "10000000 characters; at most 100000"),
        ("{}", "not a JSON object"),
        ('{"episode_summary": "a"}', '"episode_skill" is missing or is no text'),
        ('{"episode_summary": "a", "episode_skill": 7}', '"episode_skill" is missing or is no text'),
        ('{"episode_summary": "a", "episode_skill": "  "}', '"episode_skill" is missing or is no text'),
        ('{"episode_summary": "a", "episode_skill": "\\u0000"}', '"episode_skill" is missing or is no text'),
        ('{"episode_summary": "a", "episode_skill": "\\ud800"}', '"episode_skill" is missing or is no text'),
        (json.dumps(reply_schema(3)), '"episode_skill" is missing or is no text'),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_what_is_wrong_is_said_in_words_and_soon(reply, message):
    started = time.thread_time()
    with pytest.raises(SkillReportError, match=message):
        parse_skills(reply, 3, 5)
    assert time.thread_time() - started < LONG


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_reply_is_skills_or_an_error_in_words(reply):
    with pytest.raises(SkillReportError):
        parse_skills(reply, 3, 5)
