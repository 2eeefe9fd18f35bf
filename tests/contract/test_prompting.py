"""Prompts as data: slots, history, skills, and the user's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opid_gym.prompting import PromptTemplate, PromptView, bundled_templates, load_template, render

VIEW = PromptView(
    task="put a mug in shelf",
    observation="You see a mug 1.",
    history=[(f"o{i}", f"a{i}") for i in range(1, 8)],
    admissible_actions=("help", "look", "take mug 1 from desk 1"),
)


@pytest.mark.parametrize("name", bundled_templates())
@given(
    task=st.text(max_size=20),
    observation=st.text(max_size=20) | st.sampled_from(["{task}", "{episode_skill}", "{unknown}", "{"]),
    history=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=4),
    episode=st.none() | st.text(min_size=1, max_size=9) | st.just("{observation}"),
    step=st.none() | st.text(min_size=1, max_size=9),
)
def test_a_prompt_without_its_skills_is_the_prompt_the_reply_was_sampled_from(
    name: str, task: str, observation: str, history: list[tuple[str, str]], episode: str | None, step: str | None
) -> None:
    template = load_template(name)
    view = PromptView(task, observation, history, ("look",))
    plain = str(render(template, view))
    with_skill = render(template, view, episode_skill=episode, step_skill=step)
    assert with_skill.without_skill() == plain
    assert observation in plain
    for skill in (episode, step):
        assert skill is None or skill in str(with_skill)
    assert (str(with_skill) == plain) == (episode is None and step is None)


def test_the_tagged_prompt_shows_the_last_steps_and_no_help() -> None:
    prompt = str(render(load_template("tagged"), VIEW))
    assert "a3" in prompt
    assert "a7" in prompt
    assert "a2'" not in prompt
    assert "This is step 8." in prompt
    assert "'take mug 1 from desk 1'" in prompt
    assert "'help'" not in prompt
    first = str(render(load_template("tagged"), PromptView("t", "o", (), ("look",))))
    assert "latest" not in first


def test_skills_stand_where_the_method_wants_them() -> None:
    prompt = str(render(load_template("tagged"), VIEW, episode_skill="EPISODE", step_skill="STEP"))
    assert prompt.index(VIEW.task) < prompt.index("EPISODE") < prompt.index("a3") < prompt.index(VIEW.observation)
    assert prompt.index(VIEW.observation) < prompt.index("STEP") < prompt.index("your turn")


def test_a_users_file_is_used_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('text = "{task}|{observation}|{admissible_actions}"\naction_separator = "/"\nhidden_actions = []\n')
    assert str(render(load_template(path), VIEW)) == (
        "put a mug in shelf|You see a mug 1.|'help'/'look'/'take mug 1 from desk 1'"
    )
    assert load_template(path).name == "mine"
    for text, message in {
        'text = "{observation} {mood}"': r"unknown slots \['mood'\]; allowed",
        'text = "no slot"': r"text needs the slot \{observation\}",
        'texts = "{observation}"': r"unknown keys \['texts'\]; allowed",
        'name = "x"': "the key 'text' is missing",
        "text = ": "is not TOML",
        'text = "{observation}"\nstep_skill = "tip"': r"step_skill needs the slot \{skill\}",
        'text = "{observation}"\nhistory_length = -1': "history_length must be >= 0, got -1",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_template(path)
    with pytest.raises(ValueError, match=r"unknown template 'fancy'; bundled: \['compact', .*'tagged'"):
        load_template("fancy")
    with pytest.raises(ValueError, match="cannot read template"):
        load_template(tmp_path / "none.toml")


def test_a_skill_without_a_slot_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no \{step_skill\} slot"):
        render(PromptTemplate("{observation}"), VIEW, step_skill="x")
