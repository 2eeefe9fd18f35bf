"""A recipe's model keys hold for every policy of a run, however it comes about."""

import pytest
import torch
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Model, RecipeError, change
from opid_agents.training.run import Run
from opid_agents.training.setup import configure, load_policy
from opid_agents.training.warm_start import make_start
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.agents.models import Critic, tiny_gpt2, tiny_recipe, train

RECIPE = tiny_recipe(
    Critic.NAME,
    "iterations=1",
    "tasks_per_iteration=1",
    "world.max_episode_steps=3",
    "train_uniform_groups=true",
    "advantage.episode_weight=0.1",
    "optimizer.learning_rate=1e-2",
    "warm_start.steps=2",
)
KEYS = {
    "attn_implementation": "eager",
    "gradient_checkpointing": True,
    "score_tokens": 2000,
    "train_tokens": 1000,
    "mask_entries": 4000,
    "context_limit": 900,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    make_start(RECIPE).policy.save(folder)
    return folder


def keys_of(policy):
    return {
        "attn_implementation": policy.model.config._attn_implementation,
        "gradient_checkpointing": policy.gradient_checkpointing,
        "score_tokens": policy.max_tokens,
        "train_tokens": policy.train_tokens,
        "mask_entries": policy.mask_entries,
        "context_limit": policy.context,
    }


def test_loaded_given_made_and_resumed_policies_have_the_keys_of_the_recipe(start, tmp_path):
    model = RECIPE.model.model_copy(update=KEYS)
    assert keys_of(load_policy(start, model)) == KEYS
    assert keys_of(configure(Policy.load(start), model)) == KEYS
    recipe = change(RECIPE, {f"model.{key}": value for key, value in KEYS.items()})
    assert keys_of(make_start(recipe).policy) == KEYS
    recipe = change(recipe, ["algorithm=sdpo", "loss.kl_coef=0.1"])
    for resume in (False, True):
        with Run.open(recipe, tmp_path / "run", policy=None if resume else Policy.load(start), resume=resume) as run:
            policies = (run.policy, run.teacher.policy, run.reference.__self__, run.start_policy())
            assert all(keys_of(policy) == KEYS for policy in policies)


def test_without_keys_a_given_policy_stays_as_it_is(start):
    policy = Policy.load(start, gradient_checkpointing=True, attn_implementation="eager", context_limit=200)
    found = keys_of(configure(policy, Model()))
    assert (found["attn_implementation"], found["gradient_checkpointing"], found["context_limit"]) == (
        "eager",
        True,
        200,
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_gradient_checkpointing_computes_twice_and_gives_the_same_weights(rank, start, tmp_path, monkeypatch):
    passes, weights = [0], []
    forward = LlamaMLP.forward

    def counted(self, x):
        passes[-1] += 1
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    for on in ("false", "true"):
        recipe = change(RECIPE, [f"model.gradient_checkpointing={on}", f"lora.rank={rank}"])
        policy = train(recipe, tmp_path / on, policy=Policy.load(start))
        weights.append([p.detach() for p in policy.trained()])
        passes.append(0)
    assert passes[1] > passes[0]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    untrained = load_policy(tmp_path / "true" / "start", RECIPE.model).trained()
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], untrained, strict=True))


def test_a_run_that_was_out_of_memory_goes_on_with_gradient_checkpointing(start, tmp_path):
    train(RECIPE, tmp_path / "run", policy=Policy.load(start))
    more = change(RECIPE, ["iterations=2", "model.gradient_checkpointing=true"])
    assert train(more, tmp_path / "run", resume=True).gradient_checkpointing
    with pytest.raises(ValueError, match=r"model.mask_entries was 16777216 and is 4000"):
        train(change(more, ["model.mask_entries=4000"]), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.attn_implementation=fast", r"model.attn_implementation: got 'fast'; .*'eager', 'sdpa', 'flash_"),
        ("model.gradient_checkpointing=some", r"model.gradient_checkpointing: got 'some'; .*boolean"),
        ("model.mask_entries=0", r"model.mask_entries: got 0; .*greater than or equal to 1"),
        ("model.context_limit=8", r"model.context_limit: got 8; .*greater than or equal to 32"),
        ("sampler.rescore_old=maybe", r"sampler.rescore_old: got 'maybe'; .*'auto', True or False"),
    ],
)
def test_mistakes_name_the_key_what_was_given_and_what_is_allowed(text, message):
    with pytest.raises(RecipeError, match=message):
        change(RECIPE, [text])


def test_a_context_without_room_for_a_prompt_is_refused():
    with pytest.raises(RecipeError, match=r"context_limit=64 has no room .*max_reply_tokens=64; allowed: more than 64"):
        change(RECIPE, ["model.context_limit=64", "prompting.max_reply_tokens=64"])


def test_an_attention_that_a_model_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"attn_implementation=flash_attention_2 is not possible with 'gpt2': "):
        tiny_gpt2().set_attention("flash_attention_2")
