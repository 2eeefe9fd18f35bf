import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from opid_agents.lm import LMAgent, LMSettings, fit_prompt
from opid_agents.policy import Policy
from opid_agents.skills.library import LibrarySkill, append
from opid_agents.trace import TokenTrace

import opid_gym
from opid_gym.actions import TAGGED, ActionFormat
from opid_gym.agent import Agent
from opid_gym.prompting import PromptTemplate, PromptView, load_template, render
from opid_gym.rollout import play
from opid_gym.roster import make_agent
from opid_gym.vector import TextVectorEnv
from tests.agents.models import tiny_gpt2, tiny_llama
from tests.corridor import Corridor

gym.register_envs(opid_gym)


def make_envs(num_envs=3, **arguments):
    return gym.make_vec(
        "opid/ALFWorld-v0",
        num_envs=num_envs,
        size="small",
        max_episode_steps=4,
        autoreset_mode=AutoresetMode.DISABLED,
        **arguments,
    )


def test_settings_survive_json():
    settings = LMSettings(load_template("tagged"), TAGGED, 64, "<action>{action}</action>", ("</action>",), 0.7)
    assert LMSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"temprature": 1}, "LMSettings has unknown keys .*temprature.*allowed:.*temperature"),
        ({"template": {"text": "{observation}", "colour": 1}}, "PromptTemplate has unknown keys .*colour"),
        ({"action_format": {"tags": True}}, "ActionFormat has unknown keys .*tags"),
        ({"template": {}}, "wrong form"),
    ],
)
def test_wrong_settings_are_named(raw, message):
    with pytest.raises(ValueError, match=message):
        LMSettings.from_json(raw)


@pytest.mark.parametrize("make_policy", [tiny_llama, tiny_gpt2])
def test_it_plays_and_what_it_records_is_what_happened(make_policy):
    policy = make_policy(context=600)
    settings = LMSettings(action_format=ActionFormat(tag=False, reasoning=False, admissible=True), max_reply_tokens=5)
    agent = LMAgent(policy, settings, temperature=1.0, seed=3, record_tokens=True)
    assert isinstance(agent, Agent)
    envs = make_envs()
    tasks = list(envs.unwrapped.world.task_ids)[:5]
    trajectories = list(play(envs, agent, tasks))
    assert sorted(t.metadata["index"] for t in trajectories) == list(range(5))
    for trajectory in trajectories:
        for i, step in enumerate(trajectory.steps):
            history = [(s.observation, s.action) for s in trajectory.steps[:i]]
            view = PromptView(trajectory.task, step.observation, history, step.admissible_actions)
            assert step.prompt == str(render(settings.template, view))
            trace = TokenTrace.from_data(step.data)
            assert trace.prompt_ids == policy.encode(step.prompt)
            assert policy.decode(trace.reply_ids) == step.reply
            assert step.valid == (step.action in step.admissible_actions)
            scored = policy.score([trace.prompt_ids], [trace.reply_ids])[0]
            assert scored == pytest.approx(trace.log_probs, abs=1e-4)


def test_the_same_seed_plays_the_same_and_another_does_not():
    def actions(seed):
        envs = make_envs()
        agent = LMAgent(tiny_llama(context=600), LMSettings(max_reply_tokens=5), temperature=1.0, seed=seed)
        played = play(envs, agent, list(envs.unwrapped.world.task_ids)[:3])
        return [step.reply for trajectory in played for step in trajectory.steps]

    assert actions(1) == actions(1)
    assert actions(1) != actions(2)


def test_an_episode_depends_on_its_number_and_not_on_how_many_are_played_at_once():
    tasks = [task for task in list(make_envs().unwrapped.world.task_ids)[:3] for _ in range(3)]

    def replies(num_envs, numbers=None, chosen=tasks):
        agent = LMAgent(
            tiny_llama(context=600), LMSettings(max_reply_tokens=5), temperature=1.0, seed=1, numbers=numbers
        )
        played = {
            t.metadata["index"]: [step.reply for step in t.steps] for t in play(make_envs(num_envs), agent, chosen)
        }
        return [played[index] for index in range(len(chosen))]

    whole = replies(9)
    assert replies(4) == replies(2) == whole
    assert whole[0] != whole[1]  # the same task, another number
    # As one of several processes plays its part.
    assert replies(2, [3, 4, 5], tasks[3:6]) == whole[3:6]


def test_the_agent_in_a_folder_needs_nothing_but_the_folder(tmp_path):
    policy = tiny_llama(context=600)
    template = PromptTemplate("{task}: {observation}\n>", name="mine", history_length=0)
    policy.settings = LMSettings(template, max_reply_tokens=3, temperature=0.2).to_json()
    policy.save(tmp_path)
    agent = LMAgent.make(make_envs(), path=tmp_path)
    assert (agent.settings.template, agent.temperature) == (template, 0.2)


def test_a_model_saved_by_others_gets_the_default_settings(tmp_path):
    policy = tiny_llama()
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    assert LMAgent.load(tmp_path).settings == LMSettings()


def test_damaged_settings_are_named(tmp_path):
    tiny_llama().save(tmp_path)
    (tmp_path / "opid_agent.json").write_text("{")
    with pytest.raises(ValueError, match=r"opid_agent\.json is not JSON"):
        Policy.load(tmp_path)


def test_games_that_are_not_played_are_left_alone():
    envs = make_envs()
    observations, infos = envs.reset(seed=0)
    agent = LMAgent(tiny_llama(context=600), LMSettings(max_reply_tokens=3))
    agent.reset(np.ones(3, dtype=bool))
    infos = {**infos, "_task": np.array([True, False, True])}
    decisions = agent.act(observations, infos)
    assert decisions[1].prompt is None
    assert decisions[0].prompt
    assert decisions[2].prompt


def test_the_oldest_history_is_forgotten_when_the_context_is_full():
    policy, settings = tiny_llama(context=120), LMSettings(max_reply_tokens=10)
    history = [(f"You arrive at shelf {i}.", f"go to shelf {i}") for i in range(40)]
    fitted = fit_prompt(policy, settings, PromptView("put a mug in shelf", "You see a mug 1.", history))
    assert len(fitted.ids) <= 110
    assert 0 < fitted.dropped < 40
    assert "go to shelf 39\n" in str(fitted.prompt)
    assert "go to shelf 1\n" not in str(fitted.prompt)
    with pytest.raises(ValueError, match=r"without any history has \d+ tokens; this model has room for 110"):
        fit_prompt(policy, settings, PromptView("put a mug in shelf", "a b c " * 99, history))


def test_tokens_are_counted_and_a_library_of_skills_goes_into_the_prompts(tmp_path):
    policy = tiny_llama(context=1024)
    policy.settings = LMSettings().to_json()
    policy.save(tmp_path / "model")
    library = tmp_path / "library.jsonl"
    append(library, [LibrarySkill(1, "odd", "walk 3 to the right", "walk right, never left")])
    envs = TextVectorEnv(Corridor(), 2, max_episode_steps=2, autoreset_mode="Disabled")
    agent = make_agent(f"lm:{tmp_path / 'model'} skills={library}", envs, seed=0)
    odd, even = sorted(play(envs, agent, ["walk-3", "walk-4"]), key=lambda t: t.task_id)
    assert all("plan: walk right, never left" in (step.prompt or "") for step in odd.steps)
    assert all("plan:" not in (step.prompt or "") for step in even.steps)
    for step in (*odd.steps, *even.steps):
        assert step.data["prompt_tokens"] == len(policy.encode(step.prompt or ""))
        assert step.data["reply_tokens"] > 0
    with pytest.raises(ValueError, match="there are no skills in"):
        make_agent(f"lm:{tmp_path / 'model'} skills={tmp_path / 'nowhere'}", envs, seed=0)
