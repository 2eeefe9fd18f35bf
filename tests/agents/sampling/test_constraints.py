"""Constrained decoding against what it means, written down a second time: cut the vocabulary, renormalise."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents.lm import LMAgent, LMSettings
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import change
from opid_agents.sampling.admissible import admissible_constraint
from opid_agents.sampling.constraints import Constraint, Phrase, Vocabulary, Walk, token_bytes
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.tokenizer import train_tokenizer
from opid_agents.training.evaluation import evaluate_policy
from opid_agents.training.setup import lm_settings
from opid_agents.training.warm_start import make_start
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from opid_gym.actions import BARE, SEARCH, TAGGED, ActionFormat, parse_action
from tests.agents.architectures import make_policy
from tests.agents.models import Critic, plain_log_probs, random_prompts, tiny_llama, tiny_recipe, train

ACTIONS = ["look", "go to desk 1", "go to desk 10", "open drawer 2", "café ½ ✓"]
SHOP = ["search[<your query>]", "click[buy now]", "click[b00x1]"]
THOUGHT = "<think>I {action}.</think>\n<action>{action}</action>"
# form, how an action is written, stop texts, what is admissible
FORMS = {
    "bare": (BARE, " {action}\n", ("\n",), ACTIONS),
    "ended by its token": (BARE, " {action}", (), ACTIONS),
    "tagged": (TAGGED, THOUGHT, (), ACTIONS),
    "tag alone": (ActionFormat(reasoning=False), "<action> {action} </action>", ("</action>",), ACTIONS),
    "thought alone": (ActionFormat(tag=False), "<think>hm</think>\n{action}\n", ("\n",), ACTIONS),
    "shop": (BARE, " {action}\n", ("\n",), SHOP),
    "shop tagged": (TAGGED, THOUGHT, (), SHOP),
    "elements": (SEARCH, "<think>I {action}.</think>\n{action}", (), None),
    "listed elements": (SEARCH, "{action}", (), ["search[...]", "answer[yes]"]),
}
POLICY = tiny_llama(context=400)


def constraint_of(name, policy=POLICY):
    form, reply, stop, actions = FORMS[name]
    return admissible_constraint(actions, form, reply, stop=stop, end=policy.end_token)


def sample(policy, constraint, max_tokens, *, temperature=1.0, seed=0, count=6):
    prompts = random_prompts(policy, [9, 30, 9, 17, 4, 25][:count], seed=seed)
    params = SamplingParams(max_tokens, temperature, stop=("\n",))
    seeds = range(seed * count, seed * count + count)
    found = HFSampler(policy).sample(prompts, params, seeds=seeds, constraints=[constraint] * count)
    return prompts, found


def means(action, form, actions):
    """Whether an action is one of the admissible ones, with any words where there is a place for them."""
    forms = ["<search>...</search>", "<answer>...</answer>"] if actions is None else actions
    if form.elements and actions is not None:
        forms = ["<search>...</search>", "<answer>yes</answer>"]
    for one in forms:
        head, found, tail = one.partition("<your query>" if "<your query>" in one else "...")
        words = action.removeprefix(head).removesuffix(tail)
        if action == one or (found and action == head + words + tail and words.strip() and "\n" not in words):
            return True
    return False


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("max_tokens", [70, 36])
def test_every_reply_ends_by_itself_and_says_an_admissible_action(name, max_tokens):
    form, _, _, actions = FORMS[name]
    for seed in range(2):
        _, found = sample(POLICY, constraint_of(name), max_tokens, seed=seed, temperature=1.5)
        assert all(found.ended)
        for ids in found.reply_ids:
            assert len(ids) <= max_tokens
            reply = POLICY.decode(ids)
            parsed = parse_action(reply, form)
            assert means(parsed.action, form, actions), reply
            assert parsed.reason in (None, "Chinese characters in the reply")


def test_where_tokens_run_short_the_shortest_action_is_left():
    constraint, cost = constraint_of("bare"), POLICY.vocabulary.cost
    shortest = int(min(cost(f" {action}\n".encode()) for action in ACTIONS))
    _, found = sample(POLICY, constraint, shortest, temperature=3.0)
    assert {len(ids) for ids in found.reply_ids} == {shortest}
    with pytest.raises(ValueError, match=rf"no admissible action can be said in max_tokens={shortest - 1} tokens; the"):
        sample(POLICY, constraint, shortest - 1)


def test_reasoning_and_words_of_its_own_stay_free():
    replies = [
        POLICY.decode(ids)
        for seed in range(2)
        for ids in sample(POLICY, constraint_of("shop tagged"), 60, seed=seed)[1].reply_ids
    ]
    thoughts = [reply.partition("</think>")[0] for reply in replies]
    assert len({thought[:20] for thought in thoughts}) == len(thoughts)
    searches = [
        POLICY.decode(ids).strip()
        for seed in range(4)
        for ids in sample(POLICY, constraint_of("shop"), 30, seed=seed)[1].reply_ids
    ]
    words = {one for one in searches if one.startswith("search[")}
    assert len(words) > 3
    assert {one for one in searches if one.startswith("click[")} <= set(SHOP)


def may_follow(said, token, name):
    """Whether a token may come after the bytes `said` of a bare reply, by comparing whole texts."""
    _, reply, stop, actions = FORMS[name]
    whole = [reply.replace("{action}", action).encode() for action in actions]
    if token == POLICY.end_token:
        return not stop and said in whole
    text = said + POLICY.vocabulary.texts[token]
    return bool(POLICY.vocabulary.texts[token]) and any(one.startswith(text) for one in whole)


@pytest.mark.parametrize("name", ["bare", "ended by its token"])
@pytest.mark.parametrize("temperature", [0.7, 0])
def test_log_probabilities_are_those_of_the_renormalised_distribution(name, temperature):
    prompts, found = sample(POLICY, constraint_of(name), 60, temperature=temperature)
    for prompt, reply, values in zip(prompts, found.reply_ids, found.log_probs, strict=True):
        with torch.no_grad():
            logits = POLICY.model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
        said = b""
        for row, token, value in zip(logits / (temperature or 1.0), reply, values, strict=True):
            left = torch.tensor([may_follow(said, i, name) for i in range(len(row))])
            scores = row.masked_fill(~left, -torch.inf).log_softmax(0)
            assert value == pytest.approx(float(scores[token]), abs=1e-5)
            if not temperature:
                assert token == int(scores.argmax())
            said += POLICY.vocabulary.texts[token]


@pytest.mark.parametrize(("name", "kind"), [*((name, "llama") for name in FORMS), ("shop tagged", "bloom")])
def test_the_policy_scores_what_was_sampled_by_the_same_masks(name, kind):
    policy = POLICY if kind == "llama" else make_policy(kind)  # the latter samples without a cache of ours
    constraint = constraint_of(name, policy)
    prompts, found = sample(policy, constraint, 40, temperature=0.8)
    masks = [constraint.masks(policy.vocabulary, reply, 40) for reply in found.reply_ids]
    scored = policy.score(prompts, found.reply_ids, temperature=0.8, masks=masks)
    for values, again in zip(found.log_probs, scored, strict=True):
        assert again == pytest.approx(values, abs=1e-4)
    # One sample without a constraint among others with one.
    mixed = policy.score(prompts, found.reply_ids, temperature=0.8, masks=[None, *masks[1:]])
    for values, again in zip(scored[1:], mixed[1:], strict=True):
        assert again == pytest.approx(values, abs=1e-5)
    plain = plain_log_probs(policy, prompts[0], found.reply_ids[0], 0.8)
    torch.testing.assert_close(torch.tensor(mixed[0]), plain, atol=1e-4, rtol=0)
    assert sum(scored[0]) > sum(mixed[0])


def test_entropies_and_distributions_are_those_of_what_is_left():
    constraint = constraint_of("bare")
    prompts, found = sample(POLICY, constraint, 40)
    masks = [constraint.masks(POLICY.vocabulary, reply, 40) for reply in found.reply_ids]
    out = POLICY.log_probs(POLICY.rows(prompts, found.reply_ids), masks=masks, distribution=True, entropy_gradient=True)
    left = out.distribution > -1e30
    assert (left.sum(1) < 40).all()
    torch.testing.assert_close(out.distribution.exp().sum(1), torch.ones(len(left)))
    terms = torch.where(left, out.distribution.exp() * out.distribution, 0.0)
    torch.testing.assert_close(out.entropies, -terms.sum(1))
    (out.entropies.sum() + out.log_probs.sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in POLICY.model.parameters())
    POLICY.model.zero_grad()


def test_a_reply_that_breaks_the_constraint_is_named():
    reply = POLICY.encode_reply(" look\nlook\n")
    constraint = constraint_of("bare")
    assert constraint.masks(POLICY.vocabulary, POLICY.encode_reply(" look\n"), 20)
    with pytest.raises(ValueError, match=r"token \d of the reply, b'look', is not allowed there"):
        constraint.masks(POLICY.vocabulary, reply, 20)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6, unique=True), st.integers(0, 2**31))
@settings(max_examples=15)
def test_any_texts_can_be_phrases(texts, seed):
    phrases = tuple(Phrase("", f"{text}\n") for text in texts if "\n" not in text and text.isprintable())
    if not phrases:
        return
    _, found = sample(POLICY, Constraint(phrases), 60, seed=seed % 1000, count=2)
    spelled = [b"".join(POLICY.vocabulary.texts[i] for i in reply).decode() for reply in found.reply_ids]
    assert set(spelled) <= {phrase.head for phrase in phrases}


def sentencepiece_like():
    """Spaces are marked in the words, and what no word spells is bytes: as in Llama 2's and Gemma's tokenizers."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"acegiklnorst", "▁go", "▁look"]
    merges = [("▁", "g"), ("▁g", "o"), ("▁", "l"), ("▁l", "o"), ("▁lo", "o"), ("▁loo", "k")]
    words += [a + b for a, b in merges if a + b not in words]
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", bos_token="<s>")


@pytest.mark.parametrize("tokenizer", [train_tokenizer(["go to café 1\n"] * 9, 300), sentencepiece_like()])
def test_tokens_are_known_by_the_bytes_they_add(tokenizer):
    text = " go to look ½ ✓\n<|end|>"
    ids = tokenizer(f"a{text}", add_special_tokens=False)["input_ids"]
    texts = token_bytes(tokenizer)
    assert b"".join(texts[i] for i in ids).lstrip() == f"a{text}".encode()
    assert texts[tokenizer.eos_token_id] == b""
    policy = Policy.create(tokenizer, ModelSize(16, 1, 2, 16, 200))
    constraint = admissible_constraint(["go", "look ½"], BARE, " {action}\n", stop=["\n"])
    _, found = sample(policy, constraint, 30)
    assert {policy.decode(reply).strip() for reply in found.reply_ids} <= {"go", "look ½"}


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (lambda: Constraint(()), "at least one phrase"),
        (lambda: Constraint((Phrase("<a>", "x"), Phrase("", "x"))), "either all phrases .* or none"),
        (lambda: Constraint((Phrase("", "x", ""),)), "need a text that ends them"),
        (lambda: admissible_constraint(["look"], BARE, "{action}"), r"need an end: .*\('\{action\}'\)"),
        (
            lambda: admissible_constraint(["look"], SEARCH, "{action}"),
            r"none of the actions \['look'\] .*'search', 'an",
        ),
    ],
)
def test_what_cannot_be_said_is_refused(constraint, message):
    with pytest.raises(ValueError, match=message):
        constraint()


def test_where_a_world_lists_nothing_the_forms_of_actions_are_to_be_named():
    with pytest.raises(ValueError, match=r'the world lists none: .* sampler.actions=\["search\[...\]", '):
        LMSettings(constrain=True).constraint(POLICY, None)
    forms = LMSettings(constrain=True, actions=("search[...]", "answer[...]"))
    heads = [phrase.head for phrase in forms.constraint(POLICY, None).phrases]
    assert heads == [" search[", " answer["]
    assert [phrase.head for phrase in forms.constraint(POLICY, ["look"]).phrases] == [" look\n"]
    assert LMSettings.from_json(json.loads(json.dumps(forms.to_json()))) == forms
    assert LMSettings().constraint(POLICY, None) is None
    recipe = change(RECIPE, ['sampler.actions=["search[...]"]'])
    assert lm_settings(recipe).actions == ("search[...]",)


def test_constraints_survive_json():
    for name in FORMS:
        constraint = constraint_of(name)
        assert Constraint.from_json(json.loads(json.dumps(constraint.to_json()))) == constraint


def test_words_are_written_with_a_space_where_the_model_has_learned_them_so():
    constraint = admissible_constraint(SHOP, replace(BARE, spaces=True), " {action}\n", stop=["\n"])
    assert [phrase.head for phrase in constraint.phrases] == [" search[", " click[ buy now]\n", " click[ b00x1]\n"]


def test_words_end_where_the_world_ends_them():
    walk = Walk(constraint_of("shop"), Vocabulary(POLICY.tokenizer), 90)
    for token in POLICY.encode_reply(" search["):
        walk.add(token)

    def allowed(text):
        (token,) = POLICY.encode_reply(text)
        return walk.allowed().allows(token)

    assert not allowed("]")  # there has to be a word
    assert not allowed("[")
    assert not allowed("\n")
    walk.add(POLICY.encode_reply("a")[0])
    assert allowed("]")
    assert not allowed("\n")
    walk.add(POLICY.encode_reply("]")[0])
    assert allowed("\n")
    assert not allowed("[")
    assert not walk.finished
    walk.add(POLICY.encode_reply("\n")[0])
    assert walk.finished


RECIPE = tiny_recipe(
    Critic.NAME,
    "sampler.constrain=true",
    "sampler.rescore_old=true",
    "iterations=1",
    "train_uniform_groups=true",
    "advantage.episode_weight=0.1",
    "optimizer.learning_rate=1e-2",
    "loss.kl_coef=0.1",
    "warm_start.steps=2",
    "tasks_per_iteration=1",
    "world.max_episode_steps=4",
)


def test_a_policy_that_knows_nothing_plays_and_trains_without_an_invalid_action(tmp_path):
    policy = make_start(RECIPE).policy
    trained = train(RECIPE, tmp_path / "run", policy=policy)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    for line in lines:
        assert line["valid_actions"] == 1.0
        assert line["reply/cut"] == 0.0
        # What was sampled is what is learned from: no ratio is away from 1 when an update begins.
        assert line["sampler/mean"] < 1e-5
        assert line["train/clip_fraction"] == 0.0
        assert line["opid/occupancy"] == 1.0
        assert 0 < line["train/entropy"] < 3
    assert LMAgent.load(tmp_path / "run" / "model").settings.constrain
    played = evaluate_policy(RECIPE, trained)
    assert all(episode.valid_actions == episode.length for episode in played.episodes)


def test_a_library_of_ones_own_settings_can_be_switched(tmp_path):
    policy = tiny_llama()
    policy.settings = LMSettings(max_reply_tokens=20).to_json()
    policy.save(tmp_path)
    assert LMAgent.make(None, path=tmp_path, constrain=True).settings.constrain
    assert not LMAgent.make(None, path=tmp_path).settings.constrain
