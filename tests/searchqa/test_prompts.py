"""Prompts for search QA, and a language model that plays it through them."""

from __future__ import annotations

from opid_agents.lm import LMAgent, LMSettings

from opid_gym.actions import SEARCH, parse_action
from opid_gym.prompting import PromptView, load_template, render
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym_envs.searchqa.turns import read_action
from tests.agents.models import tiny_llama

QUESTION = "What is the capital of Kenya?"
SHOWN = '<information>Doc 1(Title: "Kenya") Capital: Nairobi.</information>'
FIRST = PromptView(QUESTION, QUESTION)
SECOND = PromptView(QUESTION, SHOWN, [(QUESTION, "<search>Kenya</search>")])


def test_the_prompt_asks_for_one_of_two_tags_and_shows_four_turns() -> None:
    template = load_template("search")
    assert template.history_length == 4
    first, second = str(render(template, FIRST)), str(render(template, SECOND))
    for prompt in (first, second):
        assert "<search> your query </search>" in prompt
        assert "<answer> your answer </answer>" in prompt
    assert "This is step 1." in first
    assert "What you have done so far" not in first
    assert f"[1] {QUESTION}\nYou: <search>Kenya</search>" in second
    assert f"You are now shown: {SHOWN}" in second


def test_skills_stand_after_the_question_and_before_the_turn() -> None:
    for name, turn in (("search", "It is your turn."), ("search_compact", ">")):
        template = load_template(name)
        with_skills = render(template, SECOND, episode_skill="PLAN", step_skill="NEXT")
        text = str(with_skills)
        assert text.index(QUESTION) < text.index("PLAN") < text.index(SHOWN) < text.index("NEXT") < text.rindex(turn)
        assert with_skills.without_skill() == str(render(template, SECOND))


def test_a_compact_prompt_goes_on_where_the_one_before_ended() -> None:
    template = load_template("search_compact")
    begun = str(render(template, FIRST))
    assert begun.endswith(f"{QUESTION}\n>")
    assert str(render(template, SECOND)).startswith(f"{begun} <search>Kenya</search>\n")


def test_what_the_format_accepts_the_world_understands() -> None:
    for reply in ("<think>a</think><search>Kenya</search>", "<think>a</think> so: <answer> Nairobi </answer>"):
        parsed = parse_action(reply, SEARCH)
        assert parsed.valid
        assert read_action(parsed.action) == read_action(reply)
    refused = parse_action("<think>a</think><search>x</search><answer>y</answer>", SEARCH)
    assert read_action(refused.action) == read_action("")


def test_a_language_model_plays() -> None:
    envs = make_envs("opid/SearchQA-v0", 2, split="dev", max_episode_steps=4)
    settings = LMSettings(load_template("search"), SEARCH, max_reply_tokens=8)
    assert LMSettings.from_json(settings.to_json()) == settings
    agent = LMAgent(tiny_llama(context=2048), settings)
    for trajectory in play(envs, agent, list(envs.world.task_ids[:2])):
        assert len(trajectory) == 4  # what it says makes no sense, and costs its turns
        assert not any(step.valid for step in trajectory.steps)
        assert all(step.next_observation.startswith("Not understood: ") for step in trajectory.steps)
