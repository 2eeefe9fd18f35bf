"""What a run is made of: every number that influences a result has its place and its meaning in one typed record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from opid_agents.algorithms import ALGORITHMS, AdvantageSettings, LossSettings
from opid_agents.algorithms.optimizer import OptimizerSettings
from opid_agents.algorithms.table import allowed_names
from opid_agents.openai_api import require_no_secrets
from opid_agents.settings import Settings
from opid_agents.skills.extract import HindsightSource
from opid_agents.skills.llm import JsonMode
from opid_agents.skills.route import RoutingMode
from opid_gym.json_text import parse_json
from opid_gym.named import did_you_mean
from opid_gym.panel import DATA_ARGUMENTS, load_panel

EXTRACTORS = ("rules", "llm", "self")
Logger = Literal["tensorboard", "wandb"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]


class RecipeError(ValueError):
    """A recipe cannot be used; the message names the key, what was given and what is allowed."""


class World(Settings):
    """Which games are played."""

    env: str = Field("opid/ALFWorld-v0", description="registered environment id")
    arguments: dict[str, Any] = Field(
        {}, description="further arguments of the environment, e.g. size, data_dir, task_types"
    )
    train_split: str | None = Field(
        "train", description="split that demonstrations and rollouts come from; none: the world has no splits"
    )
    eval_split: str | None = Field(
        "valid_unseen", description="held-back split that results are reported on; none: the world has no splits"
    )
    max_episode_steps: int = Field(30, ge=1, description="maximum steps of an episode")


class Prompting(Settings):
    """How the model is prompted and read."""

    template: str = Field("compact", description="bundled template or path of a TOML file")
    history_length: int | None = Field(
        None, ge=0, description="number of latest steps in a prompt; none: the template's own number"
    )
    action_tag: bool = Field(
        False, description="the action is written in <action> tags; false: the whole reply is the action"
    )
    action_elements: tuple[str, ...] = Field(
        (), description='instead: the action is one element with one of these tags, e.g. ["search", "answer"]'
    )
    lower: bool = Field(True, description="actions are lower-cased before use")
    spaces: bool = Field(
        False,
        description='actions are read and written as "click[ red]": a word is one token with the space before it',
    )
    reasoning_tag: bool = Field(False, description="a reply without a <think> block is invalid")
    require_admissible: bool = Field(True, description="an action that is not admissible is invalid")
    reply: str = Field(" {action}\n", description="how an expert's action is written as a reply in the warm start")
    max_reply_tokens: int = Field(12, ge=1, description="maximum tokens per reply")
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="maximum tokens per prompt: the oldest history goes first; none: the context",
    )
    stop: tuple[str, ...] = Field(("\n",), description="texts that end a reply, besides the model's own end token")


class Model(Settings):
    """The model: an existing one, by its folder, or the shape of the one that the warm start makes.

    The warm start makes a small model of the Llama architecture.
    """

    path: str | None = Field(
        None, description="folder of a causal language model in Hugging Face format; none: the warm start makes one"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the weights; trained weights keep a float32 copy in either case"
    )
    device: str = Field("cpu", description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    rollout_device: str | None = Field(
        None, description="with staleness: device of the process that plays, e.g. cuda:1; none: that of the model"
    )
    attn_implementation: Attention | None = Field(
        None,
        description="what computes attention; flex_attention (GPU) shares beginnings of rows without square masks; "
        "none: transformers' choice for the model",
    )
    gradient_checkpointing: bool = Field(
        False, description="layers keep their inputs alone for the gradient: a third more work for much less memory"
    )
    score_tokens: int = Field(8192, ge=1, description="maximum tokens (with padding) of a scoring pass")
    train_tokens: int = Field(4096, ge=1, description="maximum tokens (with padding) of a pass with gradients")
    mask_entries: int = Field(
        2**24, ge=1, description="maximum entries of the attention masks of a pass over rows that share a beginning"
    )
    context_limit: int | None = Field(
        None, ge=32, description="longest sequence that is used, prompt and reply; none: the longest the model takes"
    )
    template: dict[str, Any] = Field(
        {}, description='arguments of the model\'s chat template, e.g. {"enable_thinking": false}'
    )
    vocabulary: int = Field(1024, ge=258, description="maximum size of the vocabulary, in tokens")
    hidden_size: int = Field(64, ge=8, description="width")
    layers: int = Field(3, ge=1, description="depth")
    heads: int = Field(4, ge=1, description="attention heads; must divide hidden_size into even parts")
    mlp_size: int = Field(128, ge=1, description="width of the MLPs")
    context: int = Field(1024, ge=32, description="longest sequence")


class Lora(Settings):
    """LoRA adapters, trained instead of the weights."""

    rank: int = Field(0, ge=0, description="rank of each adapter; 0: all weights are trained")
    alpha: float = Field(32.0, gt=0, description="scale: an adapter's output is multiplied by alpha / rank")
    targets: str | tuple[str, ...] = Field("all-linear", description="names of the layers that get an adapter")


class Sampling(Settings):
    """Who samples the replies of rollouts and of evaluations within a run."""

    kind: Literal["hf", "vllm"] = Field(
        "hf", description="hf: the model that is trained; vllm: vLLM with its weights (needs CUDA and the vllm extra)"
    )
    rescore_old: Literal["auto", True, False] = Field(
        "auto",
        description="the old log-probabilities are computed anew, by the model that is trained and before its updates; "
        "false: those of sampling are used, which saves a pass and leaves their rounding in ratios and skill shifts; "
        "auto: where they round differently, by vllm or with weights in half precision",
    )
    constrain: bool = Field(
        False,
        description="replies can say admissible actions alone, in rollouts, evaluations and play; ratios and skill "
        "shifts are those of the distribution that is left",
    )
    actions: tuple[str, ...] = Field(
        (),
        description='constrain: what can be said where the world lists no actions, e.g. ["search[...]", "answer[...]"] '
        "with any words for the dots",
    )
    options: dict[str, Any] = Field(
        {"gpu_memory_utilization": 0.4}, description="vllm: arguments of vllm.LLM, e.g. tensor_parallel_size"
    )


class WarmStart(Settings):
    """Imitation of an expert, after lessons that teach the model to read hints."""

    expert: str = Field(
        "world",
        description="who is imitated: world (the world's own expert, which sees the hidden state), random (any "
        "admissible action, for a world without an expert), or one of your own, as module:Class",
    )
    demonstrations: int = Field(800, ge=1, description="episodes of the expert, on tasks of the train split")
    noise: float = Field(0.2, ge=0, lt=1, description="share of random steps in them, to learn recovering from")
    hints: int = Field(6, ge=0, description='hints in an episode: "next: A" is said at a step, and A is to be answered')
    from_expert: float = Field(0.2, ge=0, le=1, description="share of hints that name the expert's action ...")
    from_elsewhere: float = Field(
        0.1, ge=0, le=1, description="... or one from another state; all others name a random admissible action"
    )
    plan: float = Field(0.2, ge=0, le=1, description="share of demonstrations shown under their own workflow")
    own: float = Field(0.4, ge=0, le=1, description="share of hinted episodes that are the model's own rollouts")
    steps: int = Field(1500, ge=1, description="maximum number of updates")
    copy_steps: int = Field(0, ge=0, description="the first updates say random words of the world again")
    short_steps: int = Field(
        100, ge=0, description="the next updates see single hinted observations without their history"
    )
    short_play: bool = Field(
        False, description="the expert's own action is learned from these single observations too, where they are new"
    )
    read_steps: int = Field(
        300, ge=0, description="the next updates see whole episodes and answer hints alone; the rest imitate as well"
    )
    short_batch: int = Field(40, ge=1, description="single observations in an update")
    batch_episodes: int = Field(8, ge=1, description="episodes in an update")
    learning_rate: float = Field(3e-3, gt=0, description="of AdamW")
    act_rate: float = Field(1.0, gt=0, description="factor on it while the expert is imitated")
    check_from: int = Field(0, ge=0, description="no look at the model before this update")
    check_every: int = Field(100, ge=1, description="updates between two looks at success and hint following")
    check_tasks: int = Field(
        96, ge=1, description="tasks of the train split played at each look, and as many own rollouts"
    )
    stop_success: float = Field(0.25, ge=0, le=1, description="stop once success reaches this ...")
    stop_following: float = Field(0.9, ge=0, le=1, description='... and "next: A" is followed this often')


class Skills(Settings):
    """Stages 2 to 4 of OPID."""

    extractor: str = Field(
        "rules",
        description="who finds skills: rules (the trajectory and its group alone), llm (the analyzer's endpoint), self "
        "(the policy itself writes them), or one's own, as module:Class; that is called with the recipe",
    )
    style: Literal["compact", "sentences"] = Field(
        "compact", description="wording of the rules: bare actions, or sentences for a model that knows English"
    )
    hindsight: HindsightSource = Field(
        "decisive",
        description="rules: step skills from the world's hindsight: decisive (could be acted on at once), all, or none",
    )
    contrast: bool = Field(False, description="rules: step skills from what siblings did better in the same state")
    workflow: bool = Field(True, description="rules: episode skills from the workflows of successful episodes")
    max_step_skills: int = Field(5, ge=0, description="maximum step skills per trajectory")
    success_threshold: float | None = Field(
        None, description="an episode with at least this return is a success; none: the world decides"
    )
    failed_only: bool = Field(False, description="only failed episodes get skills")
    failed_only_from: int = Field(1, ge=1, description="... from this iteration on; all episodes before")
    gate: bool = Field(
        False,
        description="only task types in which the policy does better with skills get any: a teacher's report on train "
        "tasks is made before the first iteration",
    )
    gate_every: int = Field(0, ge=0, description="gate: iterations between two reports; 0: only the first")
    gate_tasks: int = Field(64, ge=1, description="gate: maximum number of tasks of a report")
    teacher_from: int = Field(1, ge=1, description="first iteration with skills")
    teacher_until: int | None = Field(None, ge=1, description="last iteration with skills; none: to the end")
    routing: RoutingMode = Field(
        "step_priority", description="a step hears its step skill only, or additive: all it has"
    )
    once_per_advice: bool = Field(
        False, description="in an episode each distinct step skill is heard at its first step only"
    )
    max_per_state: int | None = Field(
        None,
        ge=1,
        description="maximum step skills of an iteration in a kind of state, its name without numbers; none: no limit",
    )
    library_size: int = Field(64, ge=1, description="skill_grpo, skill_prompt: newest skills kept of each task type")
    library_at_test: bool = Field(False, description="skill_grpo: skills in the prompts of evaluations too")

    @field_validator("extractor")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in EXTRACTORS and ":" not in name:
            raise ValueError(f"allowed: {', '.join(EXTRACTORS)}, or module:Class")
        return name


class Analyzer(Settings):
    """The model that writes skills, if a model does.

    It is one behind an OpenAI-compatible endpoint (extractor ``llm``), or the policy itself (``self``; then only
    ``prompt``, what it is shown, ``temperature``, ``max_tokens`` and ``retries`` count).
    """

    base_url: str = Field("http://localhost:8000/v1", description="up to and including /v1")
    model: str = Field("default", description="the model's name on the server")
    api_key_variable: str | None = Field(
        None, description="environment variable that holds the API key; the key itself belongs in no recipe"
    )
    prompt: str = Field("general", description="bundled prompt or path of a TOML file")
    hindsight: bool = Field(False, description="it is shown what the world's hindsight says of each step")
    replies: bool = Field(False, description="it is shown whole replies with their reasoning, not only the actions")
    returns: bool = Field(False, description="it is shown each step's discounted return (advantage.gamma)")
    uncut: bool = Field(False, description="it is shown whole texts as long as they fit, not 1,500 characters of each")
    json_mode: JsonMode = Field(
        "none", description="what the server is asked for: nothing, a JSON object, or JSON of the skills' schema"
    )
    temperature: float = Field(0.3, ge=0, description="sampling temperature of its replies")
    max_tokens: int = Field(800, ge=16, description="maximum tokens per reply")
    retries: int = Field(1, ge=0, description="how often a reply that does not parse is sent back with the error")
    concurrency: int = Field(16, ge=1, description="maximum requests at once")
    timeout: float = Field(60.0, gt=0, description="time limit of one request, in seconds")
    seconds: float | None = Field(
        300.0,
        gt=0,
        description="time limit of an iteration's requests, in seconds, late ones give no skills; none: no limit",
    )
    requests: int | None = Field(None, ge=0, description="maximum requests of a run; none: no limit")
    tokens: int | None = Field(None, ge=0, description="maximum tokens of a run; none: no limit")
    cost: float | None = Field(None, ge=0, description="maximum cost of a run; none: no limit")
    prompt_price: float = Field(0.0, ge=0, description="price of a million prompt tokens, for the cost")
    completion_price: float = Field(0.0, ge=0, description="price of a million completion tokens, for the cost")
    cache: str | None = Field(None, description="folder of replies by prompt and model; none: not kept")

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        require_no_secrets(url)
        return url


class EvaluationSettings(Settings):
    """When and how success on held-back tasks is measured."""

    tasks: int | None = Field(None, ge=1, description="tasks of the held-back split; none: all")
    temperature: float = Field(0.4, ge=0, description="sampling temperature of evaluation and play")
    every: int = Field(0, ge=0, description="iterations between evaluations within the run; 0: none")
    before: bool = Field(False, description="also evaluate the starting policy")


class Recipe(Settings):
    """One run."""

    name: str = Field("custom", description="name in reports")
    about: str = Field("", description="purpose, in a line")
    algorithm: str = Field("opid", description=f"one of {allowed_names()}")
    constants: dict[str, Any] = Field(
        {},
        description="constants of the algorithm in place of its own; those of an algorithm of yours may have any names",
    )
    seed: int = Field(0, ge=0, description="seed of everything random")
    threads: int | None = Field(None, ge=1, description="CPU threads; none: torch's choice")
    panel: str | None = Field(
        None,
        description="panel whose lists are trained on and tested (see `opid-gym panel`); it sets world.env, its "
        "arguments, splits and episode limit; none: the tasks of the splits",
    )
    world: World = World()
    prompting: Prompting = Prompting()
    model: Model = Model()
    lora: Lora = Lora()
    sampler: Sampling = Sampling()
    warm_start: WarmStart = WarmStart()
    skills: Skills = Skills()
    analyzer: Analyzer = Analyzer()
    advantage: AdvantageSettings = AdvantageSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    parallel: Literal["auto", "none", "replicate", "shard"] = Field(
        "auto",
        description="how several processes learn, with the same results but for rounding: replicate (each has the "
        "whole model), shard (each keeps a part of it, by FSDP2), auto (shard where weights, gradients and optimizer "
        "would fill more than half of a GPU), none (one process only)",
    )
    start: Literal["auto", "fresh"] = Field(
        "auto",
        description="starting policy: auto is the model at model.path, or the one that comes with the package for this "
        "recipe, or a warm start; fresh is a warm start in any case, on top of the model at model.path if there is one",
    )
    staleness: int = Field(
        0,
        ge=0,
        le=8,
        description="a second process plays the next iterations while this one learns, with weights that miss this "
        "number of updates (1 is enough where playing takes no longer than learning); 0: first play, then learn",
    )
    iterations: int = Field(20, ge=0, description="rounds of rollouts and updates")
    tasks_per_iteration: int = Field(16, ge=1, description="tasks in an iteration")
    group_size: int = Field(8, ge=1, description="rollouts of each task")
    num_envs: int | None = Field(None, ge=1, description="games played at once in a process; none: all of an iteration")
    temperature: float = Field(1.0, gt=0, description="sampling temperature of rollouts")
    reward: Literal["return", "success"] = Field(
        "return", description="outcome of an episode: the sum of the world's rewards, or 1 for a success and else 0"
    )
    reward_scale: float = Field(1.0, gt=0, description="factor on the outcome")
    invalid_penalty: float = Field(0.1, ge=0, description="deducted from the score of a step with an invalid action")
    train_uniform_groups: bool = Field(
        False,
        description="also train groups whose rollouts all have the same return, where only penalties and skills speak; "
        "groups that are left out do not count in the means of the loss, so that a step is as large where many are",
    )

    checkpoint_every: int = Field(1, ge=1, description="iterations between checkpoints")
    loggers: tuple[Logger, ...] = Field(
        (), description="where the metrics go besides metrics.jsonl: tensorboard, wandb, or both with a comma"
    )
    wandb_project: str = Field("opid-gym", description="project of Weights & Biases")
    pictures: bool = Field(
        True, description="draw the report's pictures where matplotlib is installed, which takes seconds"
    )
    keep_trajectories: int = Field(
        2000, ge=0, description="maximum number of trajectories (with their skills) written to the run's folder"
    )

    @model_validator(mode="before")
    @classmethod
    def _world_of_the_panel(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not raw.get("panel"):
            return raw
        panel = load_panel(raw["panel"])
        given = raw.get("world", {})
        arguments = (given.arguments if isinstance(given, World) else given.get("arguments", {})) or {}
        where = {key: value for key, value in arguments.items() if key in DATA_ARGUMENTS}
        world = World(
            env=panel.env,
            arguments={**panel.arguments, **where},
            train_split=panel.task_list("train").split,
            eval_split=panel.task_list("test").split,
            max_episode_steps=panel.max_episode_steps,
        )
        return {**raw, "world": world}

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, name: str) -> str:
        if name not in ALGORITHMS and ":" not in name:
            hint = did_you_mean(name, ALGORITHMS)
            raise ValueError(f"unknown algorithm; {hint and hint + ' '}allowed: {allowed_names()}")
        return name

    @model_validator(mode="after")
    def _constants_of_the_algorithm(self) -> Recipe:
        if self.algorithm in ALGORITHMS:
            ALGORITHMS[self.algorithm].with_constants(self.constants)
        return self

    @model_validator(mode="after")
    def _room_for_prompts(self) -> Recipe:
        limit, reply = self.model.context_limit, self.prompting.max_reply_tokens
        if limit is not None and limit <= reply:
            raise ValueError(
                f"model.context_limit={limit} has no room for a prompt beside prompting.max_reply_tokens={reply}; "
                f"allowed: more than {reply}, or none"
            )
        return self

    @model_validator(mode="after")
    def _stale_samples_are_scored_again(self) -> Recipe:
        if self.staleness and self.sampler.rescore_old is False:
            raise ValueError(
                f"sampler.rescore_old=false does not go with staleness={self.staleness}, whose samples come from older "
                "weights; allowed: true, auto"
            )
        return self

    @field_validator("parallel", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: Any) -> Any:
        return "none" if value is None else value  # elsewhere "none" is no value

    @field_validator("loggers", mode="before")
    @classmethod
    def _split_loggers(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def change(recipe: Recipe, changes: Sequence[str] | Mapping[str, Any]) -> Recipe:
    """A recipe with some values changed.

    Args:
        recipe: the one to start from.
        changes: ``key=value`` texts, or a mapping. Keys of the parts have dots: ``advantage.step_weight=1``.
            Values are JSON, or plain text; ``none`` is no value.

    Raises:
        RecipeError: an unknown key, with the closest known ones, or a value that is not allowed.

    >>> change(Recipe(), ["algorithm=grpo", "advantage.clip=2"]).advantage.clip
    2.0
    """
    pairs = dict(changes) if isinstance(changes, Mapping) else dict(_split(text) for text in changes)
    raw = recipe.model_dump()
    known = _keys(raw)
    for key, value in pairs.items():
        if key not in known and not key.startswith(tuple(f"{free}." for free in _FREE)):
            hint = _hint(key, known) or f"allowed: {', '.join(known)}"
            raise RecipeError(f"unknown recipe key {key!r} (given {value!r}); {hint}")
        *path, last = key.split(".")
        target = raw
        for part in path:
            target = target[part]
        target[last] = value
    return validate(raw)


def _hint(key: str, known: Sequence[str]) -> str:
    """Known keys that may have been meant: by their last part, in whatever section, else as a whole."""
    last = {other: other.rpartition(".")[2] for other in known}
    near = get_close_matches(key.rpartition(".")[2], last.values(), n=1)
    meant = [other for other in known if last[other] in near][:3]
    return f"did you mean {' or '.join(map(repr, meant))}?" if meant else did_you_mean(key, known, most=3, cutoff=0.5)


def validate(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from JSON values.

    Raises:
        RecipeError: names each key that is wrong, what was given, and what is allowed.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError("recipe: " + "; ".join(map(_problem, error.errors()))) from None


def _problem(error: Any) -> str:
    message: str = error["msg"].removeprefix("Value error, ")
    # What concerns several keys names them itself.
    return f"{'.'.join(map(str, error['loc']))}: got {_shown(error)}; {message}" if error["loc"] else message


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


_FREE = ("world.arguments", "model.template", "sampler.options", "constants")  # whose keys are somebody else's


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
        return key.strip(), parse_json(value)
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
