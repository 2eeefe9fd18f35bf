import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from opid_agents.learning.analysis import load_for_test, make_extractor, wanted_in
from opid_agents.learning.learner import LEARNERS
from opid_agents.learning.train import TrainingDiverged, evaluate_policy, train
from opid_agents.learning.warm import make_start
from opid_agents.lm import LMAgent
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import RecipeError, change
from opid_agents.skills.extract import Extraction, Skills
from opid_agents.skills.library import LibrarySkill, append

from opid_gym.trajectory import Step, Trajectory, read_jsonl
from tests.agents.models import tiny_recipe

# Groups without variance are trained too, so that a policy that never succeeds still exercises every stage.
RECIPE = tiny_recipe(
    "train_uniform_groups=true", "skills.episode_weight=0.1", "skills.step_weight=0.1", "learning_rate=1e-3"
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    make_start(RECIPE).policy.save(folder)
    return folder


def metrics_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]


def changed(a, b):
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return any(not torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def run(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "opid"
    train(RECIPE, out, policy=Policy.load(start))
    return out


def test_an_iteration_changes_the_weights_and_logs_every_metric(run, start):
    assert changed(Policy.load(run / "model"), Policy.load(start))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    wanted = [
        "success",
        "return",
        "length",
        "valid_actions",
        "groups/mixed",
        "groups/trained",
        "skills/trajectories",
        "skills/steps",
        "updates",
        "train/loss",
        "train/policy_loss",
        "train/entropy",
        "train/clip_fraction",
        "train/grad_norm",
        "train/trained_tokens",
        "opid/share/outcome",
        "opid/share/episode",
        "opid/share/step",
        "opid/routed/any",
        "opid/correlation/episode",
        "opid/opposed/failure",
        "opid/shift/failure",
        "opid/alarm/negative_distillation",
        "opid/occupancy",
        "seconds/rollout",
        "seconds/extract",
        "seconds/route",
        "seconds/rescore",
        "seconds/update",
    ]
    for line in lines:
        assert not set(wanted) - set(line)
        assert line["opid/occupancy"] == 1.0
        assert line["opid/routed/any"] > 0
        assert line["opid/share/episode"] > 0
    assert lines[-1]["episodes"] == 36


def test_a_run_folder_tells_the_whole_story(run):
    assert {path.name for path in run.iterdir()} >= {
        "recipe.json", "versions.json", "start", "checkpoints", "metrics.jsonl", "trajectories.jsonl", "skills.jsonl",
        "model", "report.md",
    }  # fmt: skip
    trajectories = list(read_jsonl(run / "trajectories.jsonl"))
    assert len(trajectories) == 36
    assert all("prompt_ids" not in step.data for t in trajectories for step in t.steps)
    for step in (step for t in trajectories for step in t.steps):
        tokens = step.data["tokens"]
        assert "".join(tokens["texts"]).replace("<|end|>", "").replace("<|pad|>", "") == step.reply
        assert len({len(values) for values in tokens.values()}) == 1
        assert set(step.data["skills"]) < {"episode", "step"}
    assert any(any(step.data["tokens"]["skill"]) for t in trajectories for step in t.steps)
    skills = [json.loads(line) for line in (run / "skills.jsonl").open()]
    assert all(trajectories[s["trajectory"]].metadata["iteration"] == s["iteration"] for s in skills)
    assert "3 iterations, 36 episodes" in (run / "report.md").read_text()


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_runs_on_the_same_loop(name, start, tmp_path):
    learner = LEARNERS[name]
    recipe = tiny_recipe(
        f"learner={name}",
        "iterations=1",
        "train_uniform_groups=true",
        "skills.episode_weight=0.1",
        "skills.step_weight=0.1",
    )
    train(recipe, tmp_path / "run", policy=Policy.load(start))
    # This policy never wins and all its actions are invalid: only teachers have anything to say.
    speaks = learner.advantage is not None and learner.teacher != "none" and name != "rlsd"
    assert changed(Policy.load(tmp_path / "run" / "model"), Policy.load(start)) == speaks
    if name == "vanilla":
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        return
    (line,) = metrics_of(tmp_path / "run")
    assert (line["skills/trajectories"] > 0) == learner.needs_skills
    if learner.advantage is not None:
        assert (line["opid/routed/any"] > 0) == (learner.teacher != "none")
        assert (line["opid/rescored_tokens"] > 0) == (learner.teacher == "scores")
        assert line["opid/occupancy"] == (1.0 if learner.teacher != "none" else None)
        assert ("train/distillation" in line) == learner.distills


def test_a_library_is_played_with_and_kept(start, tmp_path):
    kind = "pick_and_place_simple"
    skills = [LibrarySkill(0, kind, "put a mug on a shelf", "go to shelf, look")]
    (tmp_path / "run").mkdir()
    append(tmp_path / "run" / "library.jsonl", skills)
    train(tiny_recipe("learner=skill_grpo", "iterations=1"), tmp_path / "run", policy=Policy.load(start))
    heard = {
        (trajectory.task_type == kind, "plan: go to shelf, look\n" in step.prompt)
        for trajectory in read_jsonl(tmp_path / "run" / "trajectories.jsonl")
        for step in trajectory.steps
    }
    assert heard == {(True, True), (False, False)}
    kept = load_for_test(tiny_recipe("learner=skill_grpo", "skills.library_at_test=true"), tmp_path / "run")
    assert kept.look_up("put a mug on a shelf", kind) == "go to shelf, look"
    assert load_for_test(tiny_recipe("learner=skill_grpo"), tmp_path / "run") is None
    assert load_for_test(tiny_recipe("learner=opid"), tmp_path / "run") is None
    assert LMAgent.make(None, path=tmp_path / "run" / "model").skill_for is None  # it is played without


def test_a_model_trained_to_be_played_with_its_library_has_it_beside_its_weights(start, tmp_path):
    (tmp_path / "run").mkdir()
    append(tmp_path / "run" / "library.jsonl", [LibrarySkill(0, "heat", "heat an egg", "use the microwave")])
    train(tiny_recipe("learner=skill_prompt", "iterations=0"), tmp_path / "run", policy=Policy.load(start))
    agent = LMAgent.make(None, path=tmp_path / "run" / "model")
    assert agent.skill_for("heat some egg", "heat") == "use the microwave"


class OneSkill:
    """An extractor of a user's own."""

    def __init__(self, recipe):
        self.text = f"at most {recipe.skills.max_step_skills}"

    def extract_all(self, groups, wanted=lambda trajectory: True):
        found = [[Skills("seen", self.text) if wanted(t) else None for t in group] for group in groups]
        return Extraction(found, {"seen": sum(map(len, groups))})


def test_an_extractor_of_ones_own_trains_by_its_name(start, tmp_path):
    name = f"{__name__}:OneSkill"
    recipe = tiny_recipe(f"skills.extractor={name}", "skills.max_step_skills=3", "iterations=1")
    recipe = change(recipe, ["train_uniform_groups=true", "skills.episode_weight=0.1"])
    train(recipe, tmp_path / "run", policy=Policy.load(start))
    (line,) = metrics_of(tmp_path / "run")
    assert line["analysis/seen"] == line["skills/trajectories"] == 12
    assert line["opid/routed/episode"] == 1.0
    skills = (tmp_path / "run" / "skills.jsonl").read_text().splitlines()
    assert {skill["episode_skill"] for skill in map(json.loads, skills)} == {"at most 3"}
    with pytest.raises(ValueError, match="no extractor 'nowhere:Nobody'; write module:Class"):
        train(change(recipe, {"skills.extractor": "nowhere:Nobody"}), tmp_path / "no", policy=Policy.load(start))
    with pytest.raises(RecipeError, match=r"skills.extractor: got 'rulez'; allowed: rules, llm, self, or module:Class"):
        tiny_recipe("skills.extractor=rulez")


def test_rules_speak_in_the_style_of_the_recipe(start, tmp_path):
    policy = Policy.load(start)
    step = Step(observation="a room", action="look", reward=0.0, next_observation="a room")
    episode = Trajectory("put a mug on a shelf", "1", "x", [step])
    said = {
        style: make_extractor(tiny_recipe(f"skills.style={style}"), policy, spent={}).extract_all([[episode]])
        for style in ("compact", "sentences")
    }
    assert said["compact"].skills[0][0].episode_skill == "look in new places"
    assert said["sentences"].skills[0][0].episode_skill.endswith("search where you have not been.")


def test_skills_follow_their_schedule(start, tmp_path):
    recipe = tiny_recipe("skills.teacher_from=2", "skills.teacher_until=2", "train_uniform_groups=true")
    train(recipe, tmp_path / "run", policy=Policy.load(start))
    assert [line["skills/trajectories"] > 0 for line in metrics_of(tmp_path / "run")] == [False, True, False]


def test_only_failures_get_skills_from_some_iteration_on():
    recipe = tiny_recipe("skills.failed_only=true", "skills.failed_only_from=2", "skills.success_threshold=0.5")
    won, lost = Trajectory("t", "k", "x", success=True), Trajectory("t", "k", "x")
    won.steps = [Step("o", "a", 1.0, "o")]
    assert [wanted_in(recipe, 1)(t) for t in (won, lost)] == [True, True]
    assert [wanted_in(recipe, 2)(t) for t in (won, lost)] == [False, True]


def test_the_same_seed_gives_the_same_numbers_and_weights_and_another_seed_others(run, start, tmp_path):
    for seed in (0, 1):
        train(change(RECIPE, {"seed": seed}), tmp_path / str(seed), policy=Policy.load(start))
    assert metrics_of(tmp_path / "0") == metrics_of(run)
    assert not changed(Policy.load(tmp_path / "0" / "model"), Policy.load(run / "model"))
    assert metrics_of(tmp_path / "1") != metrics_of(run)


def test_grpo_is_the_same_rollouts_without_skills(start, tmp_path):
    train(
        tiny_recipe("learner=grpo", "iterations=1", "train_uniform_groups=true"),
        tmp_path / "run",
        policy=Policy.load(start),
    )
    (line,) = metrics_of(tmp_path / "run")
    assert line["skills/trajectories"] == 0
    assert line["opid/routed/any"] == 0
    assert line["opid/share/outcome"] in (0.0, 1.0)


def test_a_kl_term_holds_the_policy_to_its_start(start, tmp_path):
    train(
        tiny_recipe("kl_weight=0.1", "iterations=2", "train_uniform_groups=true"),
        tmp_path / "run",
        policy=Policy.load(start),
    )
    first, second = metrics_of(tmp_path / "run")
    assert first["train/ref_kl"] == pytest.approx(0, abs=1e-4)
    assert second["train/ref_kl"] > 0


def test_trajectories_on_disk_are_bounded(start, tmp_path):
    recipe = tiny_recipe("keep_trajectories=5", "iterations=2")
    train(recipe, tmp_path / "run", policy=Policy.load(start))
    assert len(list(read_jsonl(tmp_path / "run" / "trajectories.jsonl"))) == 5


def test_a_run_killed_at_any_moment_goes_on_with_the_same_numbers(run, start, tmp_path):
    out = tmp_path / "killed"
    program = (
        "import sys; from opid_agents.learning.train import train; from opid_agents.policy import Policy;"
        "from tests.agents.test_train import RECIPE;"
        "train(RECIPE, sys.argv[1], policy=Policy.load(sys.argv[2]) if len(sys.argv) > 2 else None, resume=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(out), str(start)], env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    try:
        metrics = out / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 2) and process.poll() is None:
            assert time.monotonic() < deadline, "the run never got to its second iteration"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (out / "model").exists(), "it was finished before it could be killed"
    with open(metrics, "a") as file:
        file.write('{"iteration": 3, "torn')
    train(RECIPE, out, resume=True)
    assert metrics_of(out) == metrics_of(run)
    assert not changed(Policy.load(out / "model"), Policy.load(run / "model"))
    assert len(list(read_jsonl(out / "trajectories.jsonl"))) == 36


def test_a_finished_run_resumed_with_more_iterations_equals_a_longer_run(run, start, tmp_path):
    longer = tiny_recipe(
        "train_uniform_groups=true", "skills.episode_weight=0.1", "skills.step_weight=0.1", "learning_rate=1e-3"
    )
    short = longer.model_copy(update={"iterations": 1})
    train(short, tmp_path / "run", policy=Policy.load(start))
    train(longer, tmp_path / "run", resume=True)
    assert metrics_of(tmp_path / "run") == metrics_of(run)


def test_a_run_of_an_earlier_version_goes_on(start, tmp_path):
    run = tmp_path / "run"
    train(change(RECIPE, ["iterations=1"]), run, policy=Policy.load(start))
    recipe = json.loads((run / "recipe.json").read_text())
    del recipe["skills"]["style"], recipe["sampler"], recipe["wandb"]  # keys that it did not know
    (run / "recipe.json").write_text(json.dumps(recipe))
    train(change(RECIPE, ["iterations=2"]), run, resume=True)
    assert [line["iteration"] for line in metrics_of(run)] == [1, 2]


def test_updates_that_are_not_finite_are_skipped_counted_and_end_the_run(start, tmp_path, monkeypatch):
    original = Policy.log_probs

    def broken(self, rows, **options):
        out = original(self, rows, **options)
        if torch.is_grad_enabled():
            out = dataclasses.replace(out, log_probs=out.log_probs * float("nan"))
        return out

    monkeypatch.setattr(Policy, "log_probs", broken)
    recipe = tiny_recipe("iterations=9", "max_bad_updates=2", "train_uniform_groups=true", "skills.episode_weight=0.1")
    with pytest.raises(TrainingDiverged, match=r"2 updates in a row .*max_bad_updates=2"):
        train(recipe, tmp_path / "run", policy=Policy.load(start))
    lines = metrics_of(tmp_path / "run")
    assert [line["updates/skipped_total"] for line in lines] == [1, 2]
    monkeypatch.undo()
    kept = Policy.load(tmp_path / "run" / "checkpoints" / "iteration-000001")
    assert not changed(kept, Policy.load(start))


def test_a_run_needs_a_policy_and_a_folder_of_its_own(run, start, tmp_path):
    with pytest.raises(ValueError, match="no policy to start from"):
        train(RECIPE, tmp_path / "empty")
    with pytest.raises(ValueError, match="holds a run already"):
        train(RECIPE, run, policy=Policy.load(start))


def test_evaluation_is_paired_and_exact(start):
    a, b = (evaluate_policy(RECIPE, Policy.load(start)) for _ in range(2))
    assert a == b
    assert len({episode.task_id for episode in a.episodes}) == 4
