"""Chat agents against a real HTTP server: prompting styles, replies of every kind, retries, tokens, failures."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from opid_agents.chat import ChatAgent, ChatStyle, NoReply, read_reply
from opid_agents.openai_api import ChatClient, Prices

from opid_gym.bench.harness import Plan, run
from opid_gym.bench.results import read_results
from opid_gym.evaluation import evaluate
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym.roster import Spec, make_agent, parse_spec
from opid_gym.trajectory import write_jsonl
from opid_gym.vector import TextVectorEnv
from tests.agents.endpoint import Answer, reply, serve
from tests.corridor import Corridor
from tests.patience import SECONDS

ROOT = Path(__file__).parents[2]


def corridor(num_envs: int = 3) -> TextVectorEnv:
    return TextVectorEnv(Corridor(), num_envs, max_episode_steps=6, autoreset_mode="Disabled")


def last(request: dict[str, Any]) -> str:
    return request["messages"][-1]["content"]


def walk_right(request: dict[str, Any], number: int) -> Answer:
    return reply("Action: right")


def test_it_plays_all_games_at_once_and_counts_what_it_costs() -> None:
    five = threading.Barrier(5, timeout=SECONDS)  # in the first turn nobody is answered before all have asked

    def answer(request: dict[str, Any], number: int) -> Answer:
        if number < 5:
            five.wait()
        return walk_right(request, number)

    with serve(answer) as server:
        client = ChatClient(server.url, "m", prices=Prices(1_000_000, 2_000_000), timeout=SECONDS)
        trajectories = list(play(corridor(5), ChatAgent(client), ["walk-1", "walk-2", "walk-3", "walk-4", "walk-5"]))
    assert all(t.success for t in trajectories)
    steps = [step for t in trajectories for step in t.steps]
    assert all(step.data == {"prompt_tokens": 10, "reply_tokens": 5, "cost": 20.0} for step in steps)
    assert len(server.requests) == 15


def test_an_episode_is_one_conversation_of_bounded_length() -> None:
    with serve(walk_right) as server:
        agent = ChatAgent(ChatClient(server.url, "m"), ChatStyle(history=2))
        [trajectory] = play(corridor(1), agent, ["walk-5"])
    first, fourth = server.requests[0]["messages"], server.requests[3]["messages"]
    assert [m["role"] for m in first] == ["system", "user"]
    assert "Your task now: walk 5 to the right" in first[0]["content"]
    assert last(server.requests[0]) == "You are at 0.\n\nWhat you can do, one of:\n- left\n- right"
    assert [m["role"] for m in fourth] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert fourth[1]["content"].startswith("(1 earlier steps are not shown.)\nYou are at 1.")
    assert fourth[2]["content"] == "Action: right"
    assert trajectory.steps[3].prompt is not None
    assert trajectory.steps[3].prompt.endswith(last(server.requests[3]))


def test_react_keeps_its_thoughts_and_zero_shot_asks_for_none() -> None:
    def think(request: dict[str, Any], number: int) -> Answer:
        return reply("Thought: the goal is to the right.\nAction: right")

    with serve(think) as server:
        agent = ChatAgent(ChatClient(server.url, "m"), ChatStyle("react"))
        [trajectory] = play(corridor(1), agent, ["walk-2"])
    rules = server.requests[0]["messages"][0]["content"]
    assert rules.count("\nThought: <") == rules.count("\nAction: <") == 1  # the form of a reply, shown once
    assert "Thought: the goal is to the right." in server.requests[1]["messages"][2]["content"]
    assert [(step.action, step.valid) for step in trajectory.steps] == [("right", True)] * 2
    with serve(walk_right) as server:
        list(play(corridor(1), ChatAgent(ChatClient(server.url, "m")), ["walk-1"]))
    rules = server.requests[0]["messages"][0]["content"]
    assert (rules.count("Thought"), rules.count("\nAction: <")) == (0, 1)
    with pytest.raises(ValueError, match=r"prompting must be one of \['react', 'zero-shot'\], got 'cot'"):
        ChatStyle("cot")


def test_few_shot_shows_examples_of_other_tasks_the_same_type_first(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    with serve(walk_right) as server:
        client = ChatClient(server.url, "m")
        write_jsonl(path, play(corridor(1), ChatAgent(client), ["walk-1", "walk-2", "walk-3"]))
        envs = corridor(1)
        agent = make_agent(Spec("chat", {"model": "m", "base_url": server.url, "examples": str(path)}), envs, seed=3)
        list(play(envs, agent, ["walk-3"]))
    system = server.requests[-3]["messages"][0]["content"]
    assert server.requests[-1]["seed"] == 3
    assert "Task: walk 1 to the right\nYou are at 0.\nAction: right" in system
    assert "walk 2 to the right" not in system
    assert system.count("An example of another task, solved") == 1


def test_reflexion_tries_again_with_what_it_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def answer(request: dict[str, Any], number: int) -> Answer:
        if "You did not solve the task" in last(request):
            return reply("I went the wrong way; next time I go right.", 100, 50)
        learned = "next time I go right" in request["messages"][0]["content"]
        return reply("Action: right" if learned else "Action: left")

    with serve(answer) as server:
        spec = parse_spec(f"chat model=m base_url={server.url} trials=2")
        env = parse_spec("tests.corridor:tests/Corridor-v0 max_episode_steps=6 label=c")
        run(Plan((spec,), (env,), episodes=3), tmp_path)
    results = read_results(tmp_path / "episodes.jsonl")
    assert [(r.trials, r.success) for r in results] == [(2, True)] * 3
    # Every trial costs 10 tokens a step, and each of the three reflections 100, charged to the decision after it.
    steps = sum(6 + r.length for r in results)
    assert sum(r.prompt_tokens for r in results) == 10 * steps + 3 * 100


@pytest.mark.parametrize(
    ("said", "admissible", "action", "valid"),
    [
        ("Action: go to desk 1", ["go to desk 1"], "go to desk 1", True),
        ("ACTION: Go to  Desk 1.", ["go to desk 1"], "go to desk 1", True),
        ("**Action:** `go to desk 1`", ["go to desk 1"], "go to desk 1", True),
        ("Action: look\nno, wait\nAction: go to desk 1", ["go to desk 1", "look"], "go to desk 1", True),
        ("go to desk 1", ["go to desk 1"], "go to desk 1", False),
        ("Action: fly", ["go to desk 1"], "fly", False),
        ("Action: search[blue [wide] shoes]", ["search[<your query>]"], "search[blue [wide] shoes]", True),
        ("Action: click[buy now]", ["search[<your query>]"], "click[buy now]", False),
        ("Action: answer[Nairobi]", None, "answer[Nairobi]", True),
        ("Action: - search[Nairobi]", None, "search[Nairobi]", True),
        ("Action: 2. answer[1. Nairobi]", None, "answer[1. Nairobi]", True),
        ("Action: - 5 degrees", None, "- 5 degrees", True),
        ("Action: <answer>Nairobi</answer>", None, "<answer>Nairobi</answer>", True),
        ("", None, "", False),
        ("", ["look"], "", False),
        ("\ud800 🙂", ["look"], "\ud800 🙂", False),
    ],
)  # fmt: skip
def test_replies_of_every_kind(said: str, admissible: list[str] | None, action: str, valid: bool) -> None:
    read, reason = read_reply(said, admissible)
    assert (read, reason is None) == (action, valid)


def test_free_text_worlds_say_how_to_act() -> None:
    def search_then_answer(request: dict[str, Any], number: int) -> Answer:
        return reply("Action: answer[Paris]" if "<information>" in last(request) else "Action: search[capital]")

    with serve(search_then_answer) as server:
        envs = make_envs("opid/SearchQA-v0", 2)
        agent = make_agent(Spec("chat", {"model": "m", "base_url": server.url}), envs, seed=0)
        result = evaluate(envs, agent, list(envs.world.task_ids)[:2])
    assert [episode.length for episode in result.episodes] == [2, 2]
    assert "search[QUERY]" in last(server.requests[0])


def test_an_endpoint_that_fails_fails_the_episode_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def refuse_one(request: dict[str, Any], number: int) -> Answer:
        if "walk 3" in json.dumps(request):
            return Answer(b'{"error": "content filter"}', status=400)
        return reply("Action: right")

    with serve(refuse_one) as server:
        spec = parse_spec(f"chat model=m base_url={server.url}")
        summary = run(
            Plan((spec,), (parse_spec("tests.corridor:tests/Corridor-v0 max_episode_steps=6 label=c"),)), tmp_path
        )
        with pytest.raises(NoReply, match="no reply from m: status: HTTP 400"):
            list(play(corridor(1), make_agent(spec, corridor(1), seed=0), ["walk-3"]))
    results = read_results(tmp_path / "episodes.jsonl")
    assert (summary.played, summary.failed) == (5, 1)
    [failed] = [r for r in results if r.failure]
    assert failed.task_id == "walk-3"
    assert failed.failure is not None
    assert "content filter" in failed.failure


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with serve(walk_right) as server:
        options = {"model": "m", "base_url": server.url, "api_key_env": "MY_KEY"}
        [trajectory] = play(corridor(1), make_agent(Spec("chat", options), corridor(1), seed=0), ["walk-1"])
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in trajectory.to_json()


def test_options_that_make_no_sense_are_refused() -> None:
    envs = corridor(1)
    with pytest.raises(ValueError, match="trials must be >= 1, got 0"):
        make_agent("chat model=m trials=0", envs, seed=0)
    with pytest.raises(ValueError, match="history and shots must be >= 0"):
        make_agent("chat model=m history=-1", envs, seed=0)
    with pytest.raises(TypeError, match=r"agent ChatAgent has no options \['modle'\]"):
        make_agent("chat modle=m", envs, seed=0)
