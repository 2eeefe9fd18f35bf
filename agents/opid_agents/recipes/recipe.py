"""What a run is made of: every number that influences a result has its place and its meaning in one typed record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from opid_agents.learning.advantages import Mode
from opid_agents.learning.learner import LEARNERS, Baseline
from opid_agents.learning.losses import KlEstimator
from opid_agents.openai_api import require_no_secrets
from opid_agents.skills.llm import JsonMode
from opid_agents.skills.route import RoutingMode

EXTRACTORS = ("rules", "llm", "self")


class RecipeError(ValueError):
    """A recipe cannot be used; the message names the key, what was given and what is allowed."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class World(_Record):
    """Which games are played."""

    env: str = Field("opid/ALFWorld-v0", description="registered environment id")
    arguments: dict[str, Any] = Field(
        {}, description="further arguments of the environment, e.g. size, data_dir, task_types"
    )
    train_split: str = Field("train", description="split that demonstrations and rollouts come from")
    eval_split: str = Field("valid_unseen", description="held-back split that results are reported on")
    max_episode_steps: int = Field(30, ge=1, description="an episode is cut after so many steps")


class Prompting(_Record):
    """How the model is prompted and read."""

    template: str = Field("compact", description="bundled template or path of a TOML file")
    history_length: int | None = Field(
        None, ge=0, description="how many of the latest steps a prompt shows; none: the template's own number"
    )
    action_tag: bool = Field(
        False, description="the action stands in <action> tags; false: the whole reply is the action"
    )
    action_elements: tuple[str, ...] = Field(
        (), description='instead: the action is one element with one of these tags, e.g. ["search", "answer"]'
    )
    lower: bool = Field(True, description="actions are lower-cased before use")
    reasoning_tag: bool = Field(False, description="a reply without a <think> block is invalid")
    require_admissible: bool = Field(True, description="an action that is not admissible is invalid")
    reply: str = Field(" {action}\n", description="how an expert's action is written as a reply in the warm start")
    max_reply_tokens: int = Field(12, ge=1, description="a reply has at most so many tokens")
    stop: tuple[str, ...] = Field(("\n",), description="texts that end a reply, besides the model's own end token")


class Model(_Record):
    """The model: one that exists, by its folder, or the shape of the small Llama-architecture model that the warm start
    makes."""

    path: str | None = Field(
        None, description="folder of a causal language model in Hugging Face format; none: the warm start makes one"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights; what is trained keeps its small changes in float32 in either case"
    )
    device: str = Field("cpu", description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    score_tokens: int = Field(8192, ge=1, description="tokens (with padding) in one pass when scoring")
    train_tokens: int = Field(4096, ge=1, description="tokens (with padding) in one pass with gradients")
    vocabulary: int = Field(1024, ge=258, description="at most so many tokens")
    hidden_size: int = Field(64, ge=8, description="width")
    layers: int = Field(3, ge=1, description="depth")
    heads: int = Field(4, ge=1, description="attention heads; must divide hidden_size into even parts")
    mlp_size: int = Field(128, ge=1, description="width of the MLPs")
    context: int = Field(1024, ge=32, description="longest sequence")


class Lora(_Record):
    """LoRA adapters, trained instead of the weights."""

    rank: int = Field(0, ge=0, description="of each adapter; 0: all weights are trained")
    alpha: float = Field(32.0, gt=0, description="an adapter's output counts alpha / rank times")
    targets: str | tuple[str, ...] = Field("all-linear", description="names of the layers that get one")


class Sampling(_Record):
    """Who samples the replies of rollouts and of evaluations within a run."""

    kind: Literal["hf", "vllm"] = Field(
        "hf", description="hf: the model that is trained; vllm: vLLM with its weights (needs CUDA and the vllm extra)"
    )
    rescore_old: bool = Field(
        True,
        description="vllm: the old log-probabilities come from the model that is trained; false: vLLM's are used, "
        "which saves a pass and leaves its rounding in ratios and skill shifts",
    )
    options: dict[str, Any] = Field(
        {"gpu_memory_utilization": 0.4}, description="vllm: arguments of vllm.LLM, e.g. tensor_parallel_size"
    )


class WarmStart(_Record):
    """Imitation of an expert, mixed with data that teaches the model to use hints."""

    expert: str = Field(
        "opid_gym_envs.alfworld.searching:SearchingExpert",
        description="who is imitated, as module:Class; world: the world's own expert, which sees the hidden state",
    )
    demonstrations: int = Field(800, ge=1, description="episodes of the expert, on tasks of the train split")
    noise: float = Field(0.2, ge=0, lt=1, description="share of random steps in them, to learn recovering from")
    plain: float = Field(0.45, ge=0, description="share of episodes as they were")
    plan: float = Field(0.15, ge=0, description="share of episodes under their own workflow")
    next: float = Field(0.40, ge=0, description='share of episodes cut at "next: A" for a random admissible A')
    steps: int = Field(1500, ge=1, description="at most so many updates")
    short_steps: int = Field(
        100, ge=0, description="how many of them, at the beginning, see only single observations without history"
    )
    short_batch: int = Field(40, ge=1, description="single observations in such an update")
    batch_episodes: int = Field(8, ge=1, description="episodes in an update")
    learning_rate: float = Field(4e-3, gt=0, description="of AdamW")
    check_from: int = Field(0, ge=0, description="no look before so many updates")
    check_every: int = Field(100, ge=1, description="updates between two looks at success and hint following")
    check_tasks: int = Field(96, ge=1, description="tasks of the train split played at each look")
    stop_success: float = Field(0.25, ge=0, le=1, description="stop once success reaches this ...")
    stop_following: float = Field(0.9, ge=0, le=1, description='... and "next: A" is followed this often')


class Skills(_Record):
    """Stages 2 to 4 of OPID."""

    extractor: str = Field(
        "rules",
        description="who finds skills: rules (the trajectory and its group alone), llm (the analyzer's endpoint), self "
        "(the policy itself writes them), or one's own, as module:Class; that is called with the recipe",
    )
    style: Literal["compact", "sentences"] = Field(
        "compact", description="wording of the rules: bare actions, or sentences for a model that knows English"
    )
    max_step_skills: int = Field(5, ge=0, description="at most so many step skills a trajectory")
    success_threshold: float | None = Field(
        None, description="an episode with such a return is a success; none: one whose world said so"
    )
    failed_only: bool = Field(False, description="only failed episodes get skills")
    failed_only_from: int = Field(1, ge=1, description="... from this iteration on; all episodes before")
    teacher_from: int = Field(1, ge=1, description="first iteration with skills")
    teacher_until: int | None = Field(None, ge=1, description="last iteration with skills; none: to the end")
    routing: RoutingMode = Field(
        "step_priority", description="a step hears its step skill only, or additive: all it has"
    )
    episode_weight: float = Field(0.001, ge=0, description="weight of the episode skill's shift; 0: not computed")
    step_weight: float = Field(0.001, ge=0, description="weight of the step skill's shift; 0: not computed")
    center: bool = Field(False, description="subtract the mean of the shifts over their routed tokens")
    normalize: bool = Field(False, description="standardise the shifts over their routed tokens")
    clip: float | None = Field(None, gt=0, description="limit of a token's shift")
    gamma: float = Field(
        0.95, ge=0, le=1, description="discount of the returns that siblings are contrasted by, and of gigpo's"
    )
    library_size: int = Field(64, ge=1, description="skill_grpo, skill_prompt: newest skills kept of each task type")
    library_at_test: bool = Field(False, description="skill_grpo: skills in the prompts of evaluations too")

    @field_validator("extractor")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in EXTRACTORS and ":" not in name:
            raise ValueError(f"allowed: {', '.join(EXTRACTORS)}, or module:Class")
        return name


class Analyzer(_Record):
    """Who writes skills, if a model does: one behind an OpenAI-compatible endpoint (extractor ``llm``), or the policy
    (``self``; then only ``prompt``, ``temperature``, ``max_tokens`` and ``retries`` count)."""

    base_url: str = Field("http://localhost:8000/v1", description="up to and including /v1")
    model: str = Field("default", description="the model's name on the server")
    api_key_variable: str | None = Field(
        None, description="environment variable that holds the API key; the key itself belongs in no recipe"
    )
    prompt: str = Field("general", description="bundled prompt or path of a TOML file")
    json_mode: JsonMode = Field(
        "none", description="what the server is asked for: nothing, a JSON object, or JSON of the skills' schema"
    )
    temperature: float = Field(0.3, ge=0, description="of its replies")
    max_tokens: int = Field(800, ge=16, description="a reply has at most so many tokens")
    retries: int = Field(1, ge=0, description="how often a reply that does not parse is sent back with the error")
    concurrency: int = Field(16, ge=1, description="requests under way at once")
    timeout: float = Field(60.0, gt=0, description="seconds for one request")
    seconds: float = Field(300.0, gt=0, description="seconds for an iteration's requests; what is late has no skills")
    requests: int | None = Field(None, ge=0, description="budget of a run; none: no limit")
    tokens: int | None = Field(None, ge=0, description="budget of a run; none: no limit")
    cost: float | None = Field(None, ge=0, description="budget of a run; none: no limit")
    prompt_price: float = Field(0.0, ge=0, description="of a million tokens, for the cost")
    completion_price: float = Field(0.0, ge=0, description="of a million tokens, for the cost")
    cache: str | None = Field(None, description="folder of replies by prompt and model; none: not kept")

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        require_no_secrets(url)
        return url


class Method(_Record):
    """Constants of particular learners."""

    baseline: Baseline = Field(
        "steps", description="outcome's mean and spread over all step samples of a group, or over its trajectories"
    )
    state_weight: float = Field(1.0, description="gigpo: weight of the state term")
    anchor_similarity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="gigpo: states this much alike are one (its code: 0.95); none: equal ones only",
    )
    rlsd_mix: float = Field(0.5, ge=0, le=1, description="rlsd: lambda at the start ...")
    rlsd_iterations: int = Field(50, ge=1, description="... falling linearly to 0 over so many iterations")
    rlsd_clip: float = Field(0.2, ge=0, lt=1, description="rlsd: how far a token's weight may be from 1")
    distill_weight: float = Field(
        0.01, ge=0, description="grpo_opsd, skill_sd (0.1 in its public code), sdar: weight of the term in the loss"
    )
    gate_sharpness: float = Field(5.0, description="sdar: of the gate")
    constant_success: float = Field(-2.0, description="opid_constant: instead of Delta in successful episodes")
    constant_failure: float = Field(-2.0, description="opid_constant: instead of Delta in failed episodes")


class Recipe(_Record):
    """One run."""

    name: str = Field("custom", description="for reports")
    about: str = Field("", description="what it is for, in a line")
    learner: str = Field("opid", description=f"one of {', '.join(LEARNERS)}")
    seed: int = Field(0, ge=0, description="of everything random")
    threads: int | None = Field(None, ge=1, description="CPU threads; none: torch's choice")
    world: World = World()
    prompting: Prompting = Prompting()
    model: Model = Model()
    lora: Lora = Lora()
    sampler: Sampling = Sampling()
    warm_start: WarmStart = WarmStart()
    skills: Skills = Skills()
    analyzer: Analyzer = Analyzer()
    method: Method = Method()

    iterations: int = Field(20, ge=0, description="rounds of rollouts and updates")
    tasks: int = Field(16, ge=1, description="tasks in an iteration")
    rollouts: int = Field(8, ge=1, description="rollouts of each task: the group")
    games: int | None = Field(None, ge=1, description="games played at once; none: all of an iteration")
    temperature: float = Field(1.0, gt=0, description="of rollouts")
    eval_temperature: float = Field(0.4, ge=0, description="of evaluation and play")
    eval_tasks: int | None = Field(None, ge=1, description="tasks of the held-back split; none: all")
    eval_every: int = Field(0, ge=0, description="iterations between evaluations within the run; 0: none")
    reward_scale: float = Field(1.0, gt=0, description="factor on the world's reward")
    invalid_penalty: float = Field(0.1, ge=0, description="taken from the score of a step with an invalid action")
    advantage_mode: Mode = Field("mean_std_norm", description="group advantage with or without division by the spread")
    train_uniform_groups: bool = Field(
        False,
        description="also train groups whose rollouts all have the same return: only penalties and skills speak there",
    )

    learning_rate: float = Field(3e-4, gt=0, description="of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    epochs: int = Field(1, ge=1, description="passes over an iteration's samples")
    minibatches: int = Field(1, ge=1, description="updates in a pass")
    clip_low: float = Field(0.2, ge=0, lt=1, description="PPO: lower clip of the probability ratio")
    clip_high: float = Field(0.2, ge=0, description="PPO: upper clip of the probability ratio")
    dual_clip: float | None = Field(3.0, gt=1, description="PPO: limit of the loss at negative advantages")
    kl_weight: float = Field(0.0, ge=0, description="weight of KL to the starting policy; 0: no reference is kept")
    kl_estimator: KlEstimator = Field("k3", description="of that KL")
    clip_norm: float = Field(1.0, gt=0, description="limit of the gradient's norm")
    max_bad_updates: int = Field(
        5, ge=1, description="stop after so many updates in a row with a loss or gradient that is not finite"
    )

    checkpoint_every: int = Field(1, ge=1, description="iterations between checkpoints")
    tensorboard: bool = Field(False, description="also write the metrics as TensorBoard event files")
    wandb: str | None = Field(None, description="project of Weights & Biases to log the metrics to as well")
    keep_trajectories: int = Field(
        2000, ge=0, description="at most so many trajectories (and their skills) are written down"
    )

    @field_validator("learner")
    @classmethod
    def _known_learner(cls, name: str) -> str:
        if name not in LEARNERS:
            raise ValueError(f"unknown learner; allowed: {sorted(LEARNERS)}")
        return name


def change(recipe: Recipe, changes: Sequence[str] | Mapping[str, Any]) -> Recipe:
    """A recipe with some values changed.

    Args:
        recipe: the one to start from.
        changes: ``key=value`` texts, or a mapping. Keys of the parts have dots: ``skills.step_weight=1``.
            Values are JSON, or plain text; ``none`` is no value.

    Raises:
        RecipeError: an unknown key, with the closest known ones, or a value that is not allowed.

    >>> change(Recipe(), ["learner=grpo", "skills.clip=2"]).skills.clip
    2.0
    """
    pairs = dict(changes) if isinstance(changes, Mapping) else dict(_split(text) for text in changes)
    raw = recipe.model_dump()
    known = _keys(raw)
    for key, value in pairs.items():
        if key not in known and not key.startswith(tuple(f"{free}." for free in _FREE)):
            close = get_close_matches(key, known, n=3, cutoff=0.5) or get_close_matches(
                key.rpartition(".")[2], [k.rpartition(".")[2] for k in known], n=3
            )
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"allowed: {', '.join(known)}"
            raise RecipeError(f"unknown recipe key {key!r} (given {value!r}); {hint}")
        *path, last = key.split(".")
        target = raw
        for part in path:
            target = target[part]
        target[last] = value
    return validate(raw)


def validate(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from JSON values.

    Raises:
        RecipeError: names each key that is wrong, what was given, and what is allowed.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc']))}: got {_shown(e)}; {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise RecipeError("recipe: " + "; ".join(problems)) from None


def _shown(error: Any) -> str:
    # A URL that was refused may hold a password.
    return "one that is not shown here" if "base_url" in error["loc"] else repr(error["input"])


def describe(record: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, str]:
    """Every key of a recipe with its meaning."""
    meanings: dict[str, str] = {}
    for name, info in record.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            meanings |= describe(kind, f"{prefix}{name}.")
        else:
            meanings[prefix + name] = info.description or ""
    return meanings


_FREE = ("world.arguments", "sampler.options")  # whose keys are somebody else's


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe by its dotted key, as `change` takes them."""
    raw = recipe.model_dump(mode="json")
    found = {}
    for key in _keys(raw):
        value: Any = raw
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def _split(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign:
        raise RecipeError(f"cannot read {text!r}; changes to a recipe are written key=value")
    if value.lower() in ("none", "null"):
        return key.strip(), None
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value


def _keys(raw: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in raw.items():
        if isinstance(value, dict) and prefix + key not in _FREE:
            found += _keys(value, f"{prefix}{key}.")
        else:
            found.append(prefix + key)
    return found
