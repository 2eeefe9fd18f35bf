"""A language model as an agent: it remembers histories, writes prompts, samples replies and reads actions from them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from opid_agents.policy import Policy
from opid_agents.sampling.admissible import admissible_constraint
from opid_agents.sampling.constraints import Constraint, TokenMask
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import Sampler, SamplingParams
from opid_agents.skills.library import BESIDE_MODEL, SkillLibrary
from opid_agents.streams import stream
from opid_agents.trace import TokenTrace
from opid_gym.actions import BARE, ActionFormat, parse_action, spaced
from opid_gym.agent import Decision
from opid_gym.prompting import Prompt, PromptTemplate, PromptView, load_template, render


@dataclass(frozen=True, slots=True)
class LMSettings:
    """How a model is prompted and read; saved beside its weights.

    Attributes:
        template: from the state to the prompt.
        action_format: from the reply to the action.
        max_reply_tokens: maximum tokens per reply.
        reply: how an expert's action is written as a reply, for imitation; ``{action}``.
        stop: texts that end a reply, besides the model's own end token.
        temperature: for play and evaluation; training sets its own.
        max_prompt_tokens: maximum tokens per prompt: the oldest history goes where it is longer; None: what the
            model's context leaves.
        template_arguments: further arguments of the model's chat template, e.g. ``{"enable_thinking": False}``.
        constrain: replies can say admissible actions alone (`opid_agents.sampling.constraints`).
        actions: what these can say where the world lists no actions, e.g. ``("search[...]", "answer[...]")``.
    """

    template: PromptTemplate = field(default_factory=lambda: load_template("compact"))
    action_format: ActionFormat = BARE
    max_reply_tokens: int = 16
    reply: str = " {action}\n"
    stop: tuple[str, ...] = ("\n",)
    temperature: float = 0.4
    max_prompt_tokens: int | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    constrain: bool = False
    actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be >= 1, got {self.max_prompt_tokens}")

    def constraint(self, policy: Policy, admissible: Sequence[str] | None) -> Constraint | None:
        """What a reply may be where these actions are admissible; None: anything.

        Raises:
            ValueError: what it may be is not known.
        """
        if not self.constrain:
            return None
        admissible = admissible if admissible is not None else self.actions or None
        return admissible_constraint(admissible, self.action_format, self.reply, stop=self.stop, end=policy.end_token)

    def masks(
        self, policy: Policy, admissible: Sequence[str] | None, reply_ids: Sequence[int]
    ) -> list[TokenMask] | None:
        """Which tokens could have come at each place of a reply that was sampled with these settings; None: all."""
        constraint = self.constraint(policy, admissible)
        return None if constraint is None else constraint.masks(policy.vocabulary, reply_ids, self.max_reply_tokens)

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
            for key in given.keys() & {"stop", "actions"}:
                given[key] = tuple(given[key])
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
    limit = f"context {policy.context} less {settings.max_reply_tokens} for the reply"
    if settings.max_prompt_tokens is not None and settings.max_prompt_tokens < room:
        room, limit = settings.max_prompt_tokens, "max_prompt_tokens"
    history = view.history
    if settings.action_format.spaces:
        history = [(observation, spaced(action)) for observation, action in history]
        episode_skill, step_skill = (skill and spaced(skill) for skill in (episode_skill, step_skill))
    while True:
        shorter = PromptView(view.task, view.observation, history[dropped:], view.admissible_actions)
        prompt = render(settings.template, shorter, episode_skill=episode_skill, step_skill=step_skill)
        ids = policy.encode(str(prompt), settings.template_arguments)
        if len(ids) <= room:
            return FittedPrompt(prompt, ids, dropped)
        if dropped >= len(history):
            raise ValueError(
                f"a prompt without any history has {len(ids)} tokens; this model has room for {room} ({limit})"
            )
        dropped += max(1, (len(history) - dropped) // 4)


class LMAgent:
    """Plays a batch of games with a `Policy`.

    Prefixes of prompts that were computed in the step before are not computed again.

    Args:
        policy: the model.
        settings: prompt, reply and temperature; None: those saved with the model, or the defaults.
        temperature: in place of the settings'.
        seed: of the sampling; see `numbers`.
        record_tokens: keep an `opid_agents.trace.TokenTrace` in `Decision.data`, which learning needs.
        skill_for: from task and task type to an episode skill for the prompts of its games; None: no skills.
        sampler: what samples the replies; None: `opid_agents.sampling.engine.HFSampler` on `policy`.
        numbers: the number of each episode, in the order in which they begin; None: 0, 1, 2, ... A reply is sampled
            from a stream of (seed, number, step), so an episode is the same whatever is played beside it and in
            whichever game it is played.
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
        numbers: Iterable[int] | None = None,
    ) -> None:
        self.policy = policy
        self.settings = settings or LMSettings.from_json(policy.settings)
        self.temperature = self.settings.temperature if temperature is None else temperature
        self.record_tokens = record_tokens
        self.skill_for = skill_for
        self.sampler: Sampler = sampler or HFSampler(policy)
        self._seed = seed
        self._numbers = itertools.count() if numbers is None else iter(numbers)
        self._episodes: dict[int, int] = {}
        self._params = SamplingParams(self.settings.max_reply_tokens, self.temperature, self.settings.stop)
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
        constrain: bool | None = None,
    ) -> LMAgent:
        """For `--agent lm:DIR`, or ``lm:DIR skills=FILE`` with a library that a run wrote (`SkillLibrary`).

        ``constrain=true`` or ``false`` says whether replies are constrained, in place of what was saved with the model.

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
        agent = cls.load(path, seed=seed, temperature=temperature, skill_for=skill_for)
        if constrain is not None:
            agent.settings = replace(agent.settings, constrain=constrain)
        return agent

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` is True."""
        for game in np.flatnonzero(mask).tolist():
            self._histories.pop(game, None)
            self._episodes.pop(game, None)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        """Sample a reply for each game that is being played."""
        decisions = self.decide(observations, infos)
        self.remember(observations, infos, decisions)
        return decisions

    def decide(
        self, observations: Sequence[str], infos: Mapping[str, Any], step_skills: Mapping[int, str] | None = None
    ) -> list[Decision]:
        """As `act`, but the agent's memory stays as it is; `remember` goes on with one of several decisions.

        Args:
            observations, infos: see `act`.
            step_skills: decide in these games only, each with this skill for the present step in its prompt.
        """
        games = np.flatnonzero(infos["_task"]).tolist() if step_skills is None else sorted(step_skills)
        decisions = [Decision("", valid=False, invalid_reason="this game is not being played")] * len(observations)
        fitted = []
        for game in games:
            history = self._histories.setdefault(game, [])
            view = PromptView(infos["task"][game], observations[game], history, infos["admissible_actions"][game])
            skill = self.skill_for(infos["task"][game], infos["task_type"][game]) if self.skill_for else None
            advice = step_skills[game] if step_skills else None
            fitted.append(fit_prompt(self.policy, self.settings, view, episode_skill=skill, step_skill=advice))
        # Who decides again must not draw the same numbers again.
        seeds = [self._reply_seed(game, "again" if step_skills else "first") for game in games]
        samples = self.sampler.sample(
            [prompt.ids for prompt in fitted],
            self._params,
            seeds=seeds,
            keys=games,
            constraints=[self.settings.constraint(self.policy, infos["admissible_actions"][game]) for game in games],
        )
        for game, prompt, reply_ids, log_probs, ended in zip(
            games, fitted, samples.reply_ids, samples.log_probs, samples.ended, strict=True
        ):
            reply = self.policy.decode(reply_ids)
            parsed = parse_action(reply, self.settings.action_format, infos["admissible_actions"][game])
            data: dict[str, Any] = {
                "prompt_tokens": len(prompt.ids),
                "reply_tokens": len(reply_ids),
                "cut": not ended,  # at the maximum of tokens
            }
            if self.record_tokens:
                data |= TokenTrace(prompt.ids, reply_ids, log_probs, prompt.dropped).to_data()
            decisions[game] = Decision(parsed.action, reply, str(prompt.prompt), parsed.valid, parsed.reason, data)
        return decisions

    def _reply_seed(self, game: int, decision: str) -> int:
        """The seed of a reply at the present step of a game."""
        if game not in self._episodes:
            self._episodes[game] = next(self._numbers)
        return stream(self._seed, self._episodes[game], len(self._histories[game]), decision)

    def remember(self, observations: Sequence[str], infos: Mapping[str, Any], decisions: Sequence[Decision]) -> None:
        """Go on with these decisions in the games that are being played."""
        for game in np.flatnonzero(infos["_task"]).tolist():
            self._histories[game].append((observations[game], decisions[game].action))


def _check_keys(record: type, raw: Mapping[str, Any]) -> None:
    allowed = [f.name for f in fields(record)]
    if not isinstance(raw, Mapping):
        raise ValueError(f"{record.__name__} must be a JSON object, got {type(raw).__name__}")
    unknown = sorted(set(raw) - set(allowed))
    if unknown:
        raise ValueError(f"{record.__name__} has unknown keys {unknown}; allowed: {allowed}")
