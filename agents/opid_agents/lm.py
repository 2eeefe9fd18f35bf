"""A language model as an agent: it remembers histories, writes prompts, samples replies and reads actions from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from opid_agents.kv_cache import PrefixCache
from opid_agents.policy import Policy, Sampler
from opid_agents.skills.library import BESIDE_MODEL, SkillLibrary
from opid_gym.actions import BARE, ActionFormat, parse_action
from opid_gym.agent import Decision
from opid_gym.prompting import Prompt, PromptTemplate, PromptView, load_template, render


@dataclass(frozen=True, slots=True)
class LMSettings:
    """How a model is prompted and read; saved beside its weights.

    Attributes:
        template: from the state to the prompt.
        action_format: from the reply to the action.
        max_reply_tokens: a reply has at most so many tokens.
        reply: how an expert's action is written as a reply, for imitation; ``{action}``.
        stop: texts that end a reply, besides the model's own end token.
        temperature: for play and evaluation; training sets its own.
    """

    template: PromptTemplate = field(default_factory=lambda: load_template("compact"))
    action_format: ActionFormat = BARE
    max_reply_tokens: int = 16
    reply: str = " {action}\n"
    stop: tuple[str, ...] = ("\n",)
    temperature: float = 0.4

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LMSettings:
        """Settings as saved beside a model; what is missing has its default.

        Raises:
            ValueError: a key is unknown or a value has the wrong form.
        """
        _check_keys(cls, raw)
        given = dict(raw)
        try:
            if "template" in given:
                template = dict(given["template"])
                _check_keys(PromptTemplate, template)
                if "hidden_actions" in template:
                    template["hidden_actions"] = tuple(template["hidden_actions"])
                given["template"] = PromptTemplate(**template)
            if "action_format" in given:
                _check_keys(ActionFormat, given["action_format"])
                given["action_format"] = ActionFormat(**given["action_format"])
            if "stop" in given:
                given["stop"] = tuple(given["stop"])
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"agent settings have the wrong form: {error}") from None


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that leaves room for the reply, and how many of the oldest history pairs had to go for it."""

    prompt: Prompt
    ids: list[int]
    dropped: int


def fit_prompt(
    policy: Policy,
    settings: LMSettings,
    view: PromptView,
    *,
    dropped: int = 0,
    episode_skill: str | None = None,
    step_skill: str | None = None,
) -> FittedPrompt:
    """Render and encode `view`, forgetting the oldest history where the model's context is too short.

    Raises:
        ValueError: even without any history the prompt does not fit.
    """
    room = policy.context - settings.max_reply_tokens
    while True:
        shorter = PromptView(view.task, view.observation, view.history[dropped:], view.admissible_actions)
        prompt = render(settings.template, shorter, episode_skill=episode_skill, step_skill=step_skill)
        ids = policy.encode(str(prompt))
        if len(ids) <= room:
            return FittedPrompt(prompt, ids, dropped)
        if dropped >= len(view.history):
            raise ValueError(
                f"a prompt without any history has {len(ids)} tokens; this model has room for {room} "
                f"(context {policy.context} less {settings.max_reply_tokens} for the reply)"
            )
        dropped += max(1, (len(view.history) - dropped) // 4)


class LMAgent:
    """Plays a batch of games with a `Policy`.

    Prefixes of prompts that were computed in the step before are not computed again.

    Args:
        policy: the model.
        settings: prompt, reply and temperature; None: those saved with the model, or the defaults.
        temperature: in place of the settings'.
        seed: of the sampling.
        record_tokens: keep ``prompt_ids``, ``reply_ids``, ``log_probs`` and ``dropped`` in `Decision.data`,
            which learning needs.
        skill_for: from task and task type to an episode skill for the prompts of its games; None: no skills.
        sampler: who samples the replies; None: `policy` itself.
    """

    def __init__(
        self,
        policy: Policy,
        settings: LMSettings | None = None,
        *,
        temperature: float | None = None,
        seed: int = 0,
        record_tokens: bool = False,
        skill_for: Callable[[str, str], str | None] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.policy = policy
        self.settings = settings or LMSettings.from_json(policy.settings)
        self.temperature = self.settings.temperature if temperature is None else temperature
        self.record_tokens = record_tokens
        self.skill_for = skill_for
        self._sample = sampler or policy.sample
        self._generator = torch.Generator(device=policy.device).manual_seed(seed)
        self._stop = policy.stop_ids(self.settings.stop)
        self._cache = PrefixCache()
        self._histories: dict[int, list[tuple[str, str]]] = {}

    @classmethod
    def load(cls, directory: str | Path, *, device: str = "cpu", **options: Any) -> LMAgent:
        """The agent saved in `directory`, or any Hugging Face causal LM there with the default settings."""
        return cls(Policy.load(directory, device=device), **options)

    @classmethod
    def make(
        cls,
        envs: VectorEnv[Any, Any, Any],
        *,
        seed: int = 0,
        path: str | Path,
        skills: str | Path | None = None,
        temperature: float | None = None,
    ) -> LMAgent:
        """For `--agent lm:DIR`, or ``lm:DIR skills=FILE`` with a library that a run wrote (`SkillLibrary`).

        A model that was trained to be played with its library has it beside its weights, and is played with it.

        Raises:
            ValueError: the library has no skills.
        """
        skill_for = None
        if skills is None and (Path(path) / BESIDE_MODEL).is_file():
            skills = Path(path) / BESIDE_MODEL
        if skills is not None:
            library = SkillLibrary.load(Path(skills))
            if not len(library):
                raise ValueError(f"there are no skills in {str(skills)!r}")
            skill_for = library.look_up
        return cls.load(path, seed=seed, temperature=temperature, skill_for=skill_for)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` is True."""
        for game in np.flatnonzero(mask).tolist():
            self._histories.pop(game, None)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        """Sample a reply for each game that is being played."""
        games = np.flatnonzero(infos["_task"]).tolist()
        decisions = [Decision("", valid=False, invalid_reason="this game is not being played")] * len(observations)
        fitted = []
        for game in games:
            history = self._histories.setdefault(game, [])
            view = PromptView(infos["task"][game], observations[game], history, infos["admissible_actions"][game])
            skill = self.skill_for(infos["task"][game], infos["task_type"][game]) if self.skill_for else None
            fitted.append(fit_prompt(self.policy, self.settings, view, episode_skill=skill))
        samples = self._sample(
            [prompt.ids for prompt in fitted],
            max_new_tokens=self.settings.max_reply_tokens,
            temperature=self.temperature,
            generator=self._generator,
            stop=self._stop,
            cache=self._cache,
            keys=games,
        )
        for game, prompt, reply_ids, log_probs in zip(games, fitted, samples.reply_ids, samples.log_probs, strict=True):
            reply = self.policy.decode(reply_ids)
            parsed = parse_action(reply, self.settings.action_format, infos["admissible_actions"][game])
            data: dict[str, Any] = {"prompt_tokens": len(prompt.ids), "reply_tokens": len(reply_ids)}
            if self.record_tokens:
                data |= {
                    "prompt_ids": prompt.ids,
                    "reply_ids": reply_ids,
                    "log_probs": log_probs,
                    "dropped": prompt.dropped,
                }
            decisions[game] = Decision(parsed.action, reply, str(prompt.prompt), parsed.valid, parsed.reason, data)
            self._histories[game].append((observations[game], parsed.action))
        return decisions


def _check_keys(record: type, raw: Mapping[str, Any]) -> None:
    allowed = [f.name for f in fields(record)]
    if not isinstance(raw, Mapping):
        raise ValueError(f"{record.__name__} must be a JSON object, got {type(raw).__name__}")
    unknown = sorted(set(raw) - set(allowed))
    if unknown:
        raise ValueError(f"{record.__name__} has unknown keys {unknown}; allowed: {allowed}")
