import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from opid_agents.algorithms import ALGORITHMS, Algorithm
from opid_agents.algorithms.advantages import make_advantage
from opid_agents.lm import LMAgent
from opid_agents.policy import Policy
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import RecipeError, change
from opid_agents.skills.extract import Extraction, Skills
from opid_agents.skills.library import LibrarySkill, append
from opid_agents.starts import bundled_start
from opid_agents.training import loop
from opid_agents.training.evaluation import evaluate_policy
from opid_agents.training.extraction import load_for_test, make_extractor, wanted_in
from opid_agents.training.loggers import TensorBoard
from opid_agents.training.run import Run, TrainingDiverged
from opid_agents.training.warm_start import make_start
from opid_agents.training.watcher import Silent

from opid_gym.files import FolderInUse, damage, hold
from opid_gym.trajectory import Step, Trajectory, read_jsonl
from opid_gym.vector import TextVectorEnv
from tests.agents.models import Critic, tiny_recipe, train
from tests.patience import wait_for

# Groups without variance are trained too, so that a policy that never succeeds still exercises every stage.
RECIPE = tiny_recipe(
    Critic.NAME,
    "train_uniform_groups=true",
    "advantage.episode_weight=0.1",
    "advantage.step_weight=0.1",
    "optimizer.learning_rate=1e-3",
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
        "reply/tokens",
        "reply/longest",
        "reply/cut",
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
    assert all("trace" not in step.data for t in trajectories for step in t.steps)
    for step in (step for t in trajectories for step in t.steps):
        tokens = step.data["tokens"]
        assert "".join(tokens["texts"]).replace("<|end|>", "").replace("<|pad|>", "") == step.reply
        assert len({len(values) for values in tokens.values()}) == 1
        assert set(step.data["skills"]) < {"episode", "step"}
    assert any(any(step.data["tokens"]["skill"]) for t in trajectories for step in t.steps)
    for line in metrics_of(run):
        said = [step.data for t in trajectories if t.metadata["iteration"] == line["iteration"] for step in t.steps]
        assert line["reply/tokens"] == sum(data["reply_tokens"] for data in said) / len(said)
        assert line["reply/cut"] == sum(data["cut"] for data in said) / len(said)
    skills = [json.loads(line) for line in (run / "skills.jsonl").open()]
    assert all(trajectories[s["trajectory"]].metadata["iteration"] == s["iteration"] for s in skills)
    assert "3 iterations, 36 episodes" in (run / "report.md").read_text()


SILENT = {"rlsd", "rlsd_as_released", "stepopsd", "adrs", "opid_bounded", "opid_gated", "opid_window", "ucob"}
# The critic says the same in all tasks, so there is nothing to contrast.
SILENT |= {"opid_contrast", "rlcsd"}

# Wrong skills are the same for all forms, so those of one are enough.
RUN = [a.name for a in ALGORITHMS.values() if a.swap is None or a.name.startswith(("opid_random", "opid_other"))]


@pytest.mark.parametrize("name", RUN)
def test_every_algorithm_runs_on_the_same_loop(name, start, tmp_path):
    algorithm = ALGORITHMS[name]
    recipe = tiny_recipe(
        Critic.NAME,
        f"algorithm={name}",
        "iterations=1",
        "train_uniform_groups=true",
        "advantage.episode_weight=0.1",
        "advantage.step_weight=0.1",
    )
    train(recipe, tmp_path / "run", policy=Policy.load(start))
    # This policy never wins and all its actions are invalid: only teachers have anything to say. What multiplies an
    # outcome, or waits for its window of the run, has nothing to say either.
    form = name.removesuffix("_random_skill").removesuffix("_other_task_skill").removesuffix("_constant")
    speaks = algorithm.advantage is not None and algorithm.teacher != "none" and form not in SILENT
    assert changed(Policy.load(tmp_path / "run" / "model"), Policy.load(start)) == speaks
    if name == "vanilla":
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        return
    (line,) = metrics_of(tmp_path / "run")
    assert (line["skills/trajectories"] > 0) == algorithm.needs_skills
    if algorithm.advantage is not None:
        assert (line["opid/routed/any"] > 0) == (algorithm.teacher != "none")
        assert (line["opid/rescored_tokens"] > 0) == (algorithm.teacher == "scores")
        assert line["opid/occupancy"] == (1.0 if algorithm.teacher != "none" else None)
        assert ("train/distillation" in line) == algorithm.distills
        # This policy's replies never end, with a skill or without: there is no reply of a teacher to imitate.
        assert ("train/imitation" in line) == (algorithm.imitates == "advice")


def test_what_the_teacher_says_itself_is_imitated(tmp_path):
    """The start of the questions follows hints, so what it says with a skill in its prompt comes to an end."""
    recipe = change(
        get_recipe("tiny-searchqa"),
        ["algorithm=opid_reply", "constants.imitation_weight=1", "train_uniform_groups=true", "threads=1",
         "iterations=1", "tasks_per_iteration=4", "evaluation.tasks=2"],
    )  # fmt: skip
    train(recipe, tmp_path / "run", policy=Policy.load(bundled_start(recipe)))
    (line,) = metrics_of(tmp_path / "run")
    assert line["train/imitation"] > 0


def test_a_library_is_played_with_and_kept(start, tmp_path):
    kind = "pick_and_place_simple"
    skills = [LibrarySkill(0, kind, "put a mug on a shelf", "go to shelf, look")]
    (tmp_path / "run").mkdir()
    append(tmp_path / "run" / "library.jsonl", skills)
    train(tiny_recipe("algorithm=skill_grpo", "iterations=1"), tmp_path / "run", policy=Policy.load(start))
    heard = {
        (trajectory.task_type == kind, "plan: go to shelf, look\n" in step.prompt)
        for trajectory in read_jsonl(tmp_path / "run" / "trajectories.jsonl")
        for step in trajectory.steps
    }
    assert heard == {(True, True), (False, False)}
    kept = load_for_test(tiny_recipe("algorithm=skill_grpo", "skills.library_at_test=true"), tmp_path / "run")
    assert kept.look_up("put a mug on a shelf", kind) == "go to shelf, look"
    assert load_for_test(tiny_recipe("algorithm=skill_grpo"), tmp_path / "run") is None
    assert load_for_test(tiny_recipe("algorithm=opid"), tmp_path / "run") is None
    assert LMAgent.make(None, path=tmp_path / "run" / "model").skill_for is None  # it is played without


def test_a_model_trained_to_be_played_with_its_library_has_it_beside_its_weights(start, tmp_path):
    (tmp_path / "run").mkdir()
    append(tmp_path / "run" / "library.jsonl", [LibrarySkill(0, "heat", "heat an egg", "use the microwave")])
    train(tiny_recipe("algorithm=skill_prompt", "iterations=0"), tmp_path / "run", policy=Policy.load(start))
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
    recipe = change(recipe, ["train_uniform_groups=true", "advantage.episode_weight=0.1"])
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
    episode = Trajectory("put a mug on a shelf", "1", "x", [step, step])
    said = {
        style: make_extractor(tiny_recipe(f"skills.style={style}"), policy, spent={}).extract_all([[episode]])
        for style in ("compact", "sentences")
    }
    assert said["compact"].skills[0][0].episode_skill == "avoid look"
    assert said["sentences"].skills[0][0].episode_skill == "Do not repeat 'look': it has no effect."


def test_skills_follow_their_schedule(start, tmp_path):
    recipe = tiny_recipe("skills.teacher_from=2", "skills.teacher_until=2", "train_uniform_groups=true")
    train(recipe, tmp_path / "run", policy=Policy.load(start))
    assert [line["skills/trajectories"] > 0 for line in metrics_of(tmp_path / "run")] == [False, True, False]


def test_only_failures_get_skills_from_some_iteration_on(tmp_path):
    recipe = tiny_recipe("skills.failed_only=true", "skills.failed_only_from=2", "skills.success_threshold=0.5")
    won, lost = Trajectory("t", "k", "x", success=True), Trajectory("t", "k", "x")
    won.steps = [Step("o", "a", 1.0, "o")]
    assert [wanted_in(recipe, 1, tmp_path)(t) for t in (won, lost)] == [True, True]
    assert [wanted_in(recipe, 2, tmp_path)(t) for t in (won, lost)] == [False, True]


def test_the_same_seed_gives_the_same_numbers_and_weights_and_another_seed_others(run, start, tmp_path):
    for seed in (0, 1):
        train(change(RECIPE, {"seed": seed}), tmp_path / str(seed), policy=Policy.load(start))
    assert metrics_of(tmp_path / "0") == metrics_of(run)
    assert not changed(Policy.load(tmp_path / "0" / "model"), Policy.load(run / "model"))
    assert metrics_of(tmp_path / "1") != metrics_of(run)


def test_episodes_do_not_depend_on_how_many_are_played_at_once(start, tmp_path):
    def played(num_envs):
        recipe = tiny_recipe("tasks_per_iteration=4", "iterations=1", f"num_envs={num_envs}")
        train(recipe, tmp_path / str(num_envs), policy=Policy.load(start))
        episodes = list(read_jsonl(tmp_path / str(num_envs) / "trajectories.jsonl"))
        assert [t.metadata["index"] for t in episodes] == list(range(16))
        tested = evaluate_policy(change(recipe, ["evaluation.temperature=1"]), Policy.load(start)).episodes
        return [[step.reply for step in episode.steps] for episode in episodes], tested

    assert played(3) == played(16)


def test_grpo_is_the_same_rollouts_without_skills(start, tmp_path):
    train(
        tiny_recipe("algorithm=grpo", "iterations=1", "train_uniform_groups=true"),
        tmp_path / "run",
        policy=Policy.load(start),
    )
    (line,) = metrics_of(tmp_path / "run")
    assert line["skills/trajectories"] == 0
    assert line["opid/routed/any"] == 0
    assert line["opid/share/outcome"] in (0.0, 1.0)


def test_a_kl_term_holds_the_policy_to_its_start(start, tmp_path):
    train(
        tiny_recipe("loss.kl_coef=0.1", "iterations=2", "train_uniform_groups=true"),
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


class Killed(Silent):
    """Its process is killed in the update of the third iteration."""

    seen = 0

    def stage(self, name, total):
        self.seen += name == "update"
        if self.seen == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().stage(name, total)


def test_a_killed_run_goes_on_with_the_same_numbers(run, start, tmp_path):
    out = tmp_path / "killed"
    program = (
        "import sys; from tests.agents.models import train; from opid_agents.policy import Policy;"
        "from tests.agents.training.test_loop import RECIPE, Killed;"
        "train(RECIPE, sys.argv[1], policy=Policy.load(sys.argv[2]), watch=Killed())"
    )
    command = [sys.executable, "-c", program, str(out), str(start)]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == -signal.SIGKILL
    metrics = out / "metrics.jsonl"
    assert metrics.read_text().count("\n") == 2
    with open(metrics, "a") as file:
        file.write('{"iteration": 3, "torn')
    train(RECIPE, out, resume=True)
    assert metrics_of(out) == metrics_of(run)
    assert not changed(Policy.load(out / "model"), Policy.load(run / "model"))
    assert len(list(read_jsonl(out / "trajectories.jsonl"))) == 36


class Interrupted(Silent):
    """Presses Ctrl-C in a stage of an iteration; and keeps what it is told of a resumed run."""

    def __init__(self, stage="", iteration=0):
        self.at, self.seen, self.told, self.ended, self.warnings = (stage, iteration), 0, [], [], []

    def stage(self, name, total):
        self.seen += name == "roll out"
        if (name, self.seen) == self.at:
            raise KeyboardInterrupt
        return super().stage(name, total)

    def resumed(self, iteration, repeated):
        self.told.append((iteration, repeated))

    def stopped(self, finished, kept):
        self.ended.append((finished, kept))

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("algorithm=gigpo",), 1),
        (("algorithm=sdar",), 1),
        (("algorithm=gigpo", "invalid_penalty=0"), 0),
        (("algorithm=gigpo", "advantage.mode=mean_norm"), 0),
        (("algorithm=grpo",), 0),
        (("algorithm=sdpo",), 0),
    ],
)
def test_penalties_that_would_weigh_as_much_as_outcomes_are_told_of(changes, told, start, tmp_path):
    watch = Interrupted()
    with Run.open(tiny_recipe("iterations=0", *changes), tmp_path / "run", policy=Policy.load(start), watch=watch):
        assert [text.split(" also ")[0] for text in watch.warnings] == [changes[0]] * told


@pytest.mark.parametrize(("stage", "kept"), [("roll out", 2), ("update", 0)])
def test_a_run_that_is_interrupted_keeps_its_finished_iterations(stage, kept, run, start, tmp_path):
    recipe, out = change(RECIPE, ["checkpoint_every=100"]), tmp_path / "run"
    watch = Interrupted(stage, 3)
    with pytest.raises(KeyboardInterrupt):
        loop.run(recipe, out, policy=Policy.load(start), watch=watch)
    assert watch.ended == [(2, kept)]
    watch = Interrupted()
    loop.run(recipe, out, resume=True, watch=watch)
    # Half an update belongs to no iteration: then the run begins again where it was last saved, and says so.
    assert watch.told == [(kept, 2 - kept)]
    assert metrics_of(out) == metrics_of(run)
    assert not changed(Policy.load(out / "model"), Policy.load(run / "model"))


def test_a_run_goes_on_before_a_damaged_checkpoint_with_the_same_numbers_and_says_so(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    optimizer = out / "checkpoints" / "iteration-000003" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    recipe = (out / "recipe.json").read_text()
    (out / "recipe.json").write_text(recipe[:50])
    watch = Interrupted()
    train(RECIPE, out, resume=True, watch=watch)
    assert watch.told == [(2, 1)]
    assert "recipe.json was damaged; it is written anew, by its copy beside the start" in watch.warnings[0]
    assert "The checkpoint iteration-000003 is left out, it is damaged: optimizer.pt has 1000" in watch.warnings[1]
    assert len(watch.warnings) == 2
    assert metrics_of(out) == metrics_of(run)
    assert (out / "recipe.json").read_text() == recipe
    assert (out / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("lost", ["tokenizer.json", "sealed.json"])
def test_half_a_start_is_made_anew_and_one_that_a_checkpoint_needs_is_named(lost, run, start, tmp_path):
    out = tmp_path / "half"
    (out / "start").mkdir(parents=True)
    for path in (run / "start").iterdir():
        if path.name != lost:
            shutil.copy(path, out / "start")
    with Run.open(RECIPE, out, policy=Policy.load(start), resume=True) as opened:
        assert not changed(opened.policy, Policy.load(start))
    assert damage(out / "start") is None
    out, recipe = shutil.copytree(run, tmp_path / "run"), change(RECIPE, ["loss.kl_coef=0.1"])
    (out / "recipe.json").write_text(recipe.model_dump_json())
    (out / "start" / lost).unlink()
    with pytest.raises(ValueError, match=rf"cannot go on with the same numbers, its start is damaged: start/{lost} is"):
        train(recipe, out, resume=True)


def test_of_two_commands_in_one_folder_the_second_is_told_who_has_it(start, tmp_path):
    out = tmp_path / "run"
    (tmp_path / "recipe.json").write_text(change(RECIPE, ["iterations=1000"]).model_dump_json())
    words = ["train", "--recipe", str(tmp_path / "recipe.json"), "--model", str(start), "--out", str(out)]
    first = subprocess.Popen(
        [sys.executable, "-c", "from opid_gym.cli import main; main()", *words],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        wait_for(lambda: (out / "recipe.json").is_file() or first.poll() is not None)
        for resume in (False, True):
            with pytest.raises(FolderInUse, match=rf"is in use by process {first.pid} on .* train --recipe .*since"):
                loop.run(RECIPE, out, policy=Policy.load(start), resume=resume)
    finally:
        first.kill()
        first.wait()


def test_a_finished_run_resumed_with_more_iterations_equals_a_longer_run(run, start, tmp_path):
    train(change(RECIPE, {"iterations": 1}), tmp_path / "run", policy=Policy.load(start))
    train(RECIPE, tmp_path / "run", resume=True)
    assert metrics_of(tmp_path / "run") == metrics_of(run)


def test_a_run_of_an_earlier_version_goes_on(start, tmp_path):
    run = tmp_path / "run"
    train(change(RECIPE, ["iterations=1"]), run, policy=Policy.load(start))
    recipe = json.loads((run / "recipe.json").read_text())
    del recipe["skills"]["style"], recipe["sampler"], recipe["wandb_project"]  # keys that it did not know
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
    recipe = change(RECIPE, ["iterations=9", "optimizer.max_bad_updates=2"])
    with pytest.raises(TrainingDiverged, match=r"2 updates in a row .*optimizer.max_bad_updates=2"):
        train(recipe, tmp_path / "run", policy=Policy.load(start))
    lines = metrics_of(tmp_path / "run")
    assert [line["updates/skipped_total"] for line in lines] == [1, 2]
    monkeypatch.undo()
    kept = Policy.load(tmp_path / "run" / "checkpoints" / "iteration-000001")
    assert not changed(kept, Policy.load(start))


def test_a_run_has_a_folder_of_its_own_and_one_process_at_a_time(run, start, tmp_path):
    with pytest.raises(ValueError, match="holds a run already"):
        train(RECIPE, run, policy=Policy.load(start))
    with (
        Run.open(RECIPE, tmp_path / "run", policy=Policy.load(start)),
        pytest.raises(FolderInUse, match="is in use by"),
    ):
        Run.open(RECIPE, tmp_path / "run", resume=True)


def test_a_run_goes_from_nothing_to_a_report(tmp_path):
    recipe = tiny_recipe("iterations=1", "evaluation.before=true")
    result = loop.run(recipe, tmp_path / "run")
    assert set(result.seconds) == {"warm start", "evaluate before", "train", "evaluate after"}
    assert len(result.before.episodes) == len(result.evaluation.episodes) == 4
    assert result.evaluation == evaluate_policy(recipe, Policy.load(result.model))
    assert result.before == evaluate_policy(recipe, Policy.load(tmp_path / "run" / "start"))
    for name, evaluation in (("before", result.before), ("evaluation", result.evaluation)):
        assert (tmp_path / "run" / f"{name}.json").read_text().strip() == evaluation.to_json()
    assert "held-back" in (tmp_path / "run" / "report.md").read_text()
    assert not (tmp_path / "run" / "warm_start").exists()
    again = loop.run(recipe, tmp_path / "run", resume=True)
    assert again.evaluation == result.evaluation


@pytest.mark.parametrize("ending", [KeyboardInterrupt, TrainingDiverged])
def test_however_a_run_ends_everything_is_closed(ending, start, tmp_path, monkeypatch):
    closed = []

    class Watch(Silent):
        def iteration(self, metrics):
            raise ending

    for kind in (TextVectorEnv, TensorBoard):
        close = kind.close
        monkeypatch.setattr(kind, "close", lambda self, close=close: (closed.append(type(self).__name__), close(self)))
    recipe = tiny_recipe("loggers=tensorboard", "iterations=1")
    with pytest.raises(ending):
        loop.run(recipe, tmp_path / "run", policy=Policy.load(start), watch=Watch())
    assert closed == ["TextVectorEnv", "TensorBoard"]
    with hold(tmp_path / "run"):  # another process could go on at once
        pass


def pull(inputs):
    """The same advantage for every token: a constant of its own."""
    return make_advantage(torch.full(inputs.response_mask.shape, inputs.constants["strength"]), inputs.response_mask)


PULL = Algorithm("pull", pull)


def test_an_algorithm_of_ones_own_trains_by_its_name_with_constants_of_its_own(start, tmp_path):
    options = ("iterations=1", "train_uniform_groups=true")
    recipe = tiny_recipe(f"algorithm={__name__}:PULL", "constants.strength=0.25", *options)
    train(recipe, tmp_path / "run", policy=Policy.load(start))
    (line,) = metrics_of(tmp_path / "run")
    assert line["updates"] == 1
    assert line["train/policy_loss"] == pytest.approx(-0.25)
    saved = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (saved["algorithm"], saved["constants"]) == (f"{__name__}:PULL", {"strength": 0.25})
    with pytest.raises(ValueError, match=r"is a function, not an opid_agents.algorithms.Algorithm"):
        train(change(recipe, {"algorithm": f"{__name__}:pull"}), tmp_path / "no", policy=Policy.load(start))


def test_evaluation_is_paired_and_exact(start):
    a, b = (evaluate_policy(RECIPE, Policy.load(start)) for _ in range(2))
    assert a == b
    assert len({episode.task_id for episode in a.episodes}) == 4
