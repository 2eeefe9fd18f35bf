import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents import attention
from opid_agents.packing import batches, pack, share
from opid_agents.policy import Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from transformers import T5Config, T5ForConditionalGeneration

from tests.agents.models import passes, plain_log_probs, random_prompts, tiny_gpt2, tiny_llama

POLICIES = {"llama": tiny_llama(), "gpt2": tiny_gpt2()}
LENGTHS = [3, 40, 17, 1, 90, 25, 8]


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]


def test_nested_and_equal_samples_share_rows_and_keep_their_scores(policy):
    a, b, c, tail = random_prompts(policy, [20, 8, 5, 30])
    prompts = [a, [*a, *b], [*a, *b, *c, *tail], a, tail]
    replies = [b, c, [7], b, [8, 9]]
    rows = pack(prompts, replies)
    assert sorted(len(row.ids) for row in rows) == [32, 64]
    for i, scored in enumerate(policy.score(prompts, replies)):
        assert scored == pytest.approx(plain_log_probs(policy, prompts[i], replies[i]).tolist(), abs=1e-4)


def test_packing_never_merges_what_differs():
    rng = random.Random(3)
    prompts = [[rng.randrange(3) for _ in range(rng.randrange(1, 6))] for _ in range(300)]
    replies = [[rng.randrange(3) for _ in range(rng.randrange(3))] for _ in range(300)]
    seen = set()
    for row in pack(prompts, replies):
        for span in row.spans:
            assert row.ids[: span.stop] == prompts[span.sample] + replies[span.sample]
            assert span.start == len(prompts[span.sample])
            seen.add(span.sample)
    assert seen == {i for i, reply in enumerate(replies) if reply}


def test_batches_hold_every_row_once_within_the_budget():
    rows = pack(random_prompts(POLICIES["llama"], [5, 50, 7, 120, 33, 2]), [[1]] * 6)
    parts = list(batches(rows, 100))
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
    assert all(len(part) == 1 or max(len(r.ids) for r in part) * len(part) <= 100 for part in parts)


def test_training_log_probs_carry_the_gradient_of_the_plain_forward_pass(policy):
    prompts, replies = random_prompts(policy, [9, 30, 4]), [[5, 6], [7], [8, 9, 10]]
    policy.model.zero_grad()
    policy.log_probs(pack(prompts, replies)).log_probs.sum().backward()
    packed = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    for prompt, reply in zip(prompts, replies, strict=True):
        logits = policy.model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
        logits.log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)].sum().backward()
    for name, parameter in policy.model.named_parameters():
        if name in packed:
            torch.testing.assert_close(packed[name], parameter.grad, atol=1e-3, rtol=1e-3)
    policy.model.zero_grad()


def test_entropies_are_those_of_the_sampled_distribution(policy):
    prompt, reply = random_prompts(policy, [9])[0], [5]
    with torch.no_grad():
        expected = torch.distributions.Categorical(logits=policy.model(torch.tensor([prompt])).logits[0, -1] / 0.5)
    found = policy.log_probs(pack([prompt], [reply]), temperature=0.5).entropies
    assert float(found[0]) == pytest.approx(float(expected.entropy()), abs=1e-4)


def test_a_saved_policy_is_the_same_policy(policy, tmp_path):
    policy.settings = {"temperature": 0.4}
    policy.save(tmp_path)
    again = Policy.load(tmp_path)
    prompts = random_prompts(policy, [9, 30])
    assert again.settings == {"temperature": 0.4}
    assert again.encode("go to shelf 1\n") == policy.encode("go to shelf 1\n")
    for a, b in zip(again.score(prompts, [[5], [6]]), policy.score(prompts, [[5], [6]]), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_a_chat_template_is_respected_and_its_absence_too():
    policy = tiny_llama()
    plain = policy.encode("look")
    assert policy.tokenizer.decode(plain) == "look"
    policy.tokenizer.chat_template = "{% for m in messages %}user says: {{ m.content }}\n{% endfor %}>"
    assert policy.tokenizer.decode(policy.encode("look")) == "user says: look\n>"


@given(st.text(alphabet=st.sampled_from("ab \n\r\x0b\u2028>é😀"), max_size=30))
def test_a_prompt_is_tokenized_as_a_whole_though_its_lines_are_remembered(text):
    policy = POLICIES["llama"]
    assert policy.encode(text) == (policy.tokenizer(text)["input_ids"] or policy.encode(""))


def test_lone_surrogates_and_empty_prompts_are_prompts_too():
    policy = tiny_llama()
    assert policy.encode("half \ud83d character")
    assert policy.encode("")


def test_the_same_seed_makes_the_same_weights_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    a, b, c = tiny_llama(1), tiny_llama(1), tiny_llama(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [p.model.get_input_embeddings().weight for p in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_nothing_to_score():
    assert POLICIES["llama"].score([], []) == []
    assert POLICIES["llama"].score([[5]], [[]]) == [[]]


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no model in .*nothing"):
        Policy.load(tmp_path / "nothing")


def test_skills_late_in_prompts_reuse_what_stands_before_them(policy, monkeypatch):
    # One episode of four steps, and at three of them another ending.
    turns = random_prompts(policy, [30, 20, 20, 20])
    prompts = [[token for turn in turns[: n + 1] for token in turn] for n in range(4)]
    skilled = [[*prompts[n], *random_prompts(policy, [6], seed=n)[0]] for n in (0, 1, 2)]
    replies = [[5, 6, 7]] * 3
    seen = passes(policy, monkeypatch)
    scores = policy.score(skilled, replies)
    assert [rows * width for rows, width in seen] == [70 + 3 * (6 + 3)]
    for prompt, reply, scored in zip(skilled, replies, scores, strict=True):
        assert scored == pytest.approx(plain_log_probs(policy, prompt, reply).tolist(), abs=1e-4)


tokens = st.lists(st.integers(2, 4), min_size=1, max_size=12)


@given(st.lists(st.tuples(tokens, st.lists(st.integers(2, 4), max_size=4)), min_size=1, max_size=12))
def test_sharing_keeps_every_score_whatever_the_sequences(samples):
    policy = POLICIES["llama"]
    prompts, replies = [prompt for prompt, _ in samples], [reply for _, reply in samples]
    rows = share(pack(prompts, replies), even=1e9, longest=10_000)  # wherever it is possible at all
    found = {}
    with torch.no_grad():
        for batch in batches(rows, 64):
            out = policy.log_probs(batch)
            found |= {
                (sample, position): value
                for sample, position, value in zip(
                    out.sample.tolist(), out.position.tolist(), out.log_probs.tolist(), strict=True
                )
            }
    assert len(found) == sum(map(len, replies))
    for i, (prompt, reply) in enumerate(samples):
        if reply:
            expected = plain_log_probs(policy, prompt, reply).tolist()
            assert [found[i, n] for n in range(len(reply))] == pytest.approx(expected, abs=1e-4)


def test_sharing_happens_where_it_pays_only():
    long, short = list(range(2, 302)), list(range(2, 22))
    siblings = pack([long] * 4, [[n] for n in range(400, 404)])
    assert len(share(siblings, even=300, longest=10_000)) == 1
    # Little in common, and attention that is most of the cost: a mask over both would cost more than it saves.
    strangers = pack([short + [n] * 200 for n in range(400, 404)], [[5]] * 4)
    assert len(share(strangers, even=50, longest=10_000)) == 4


def test_shared_rows_carry_the_gradient_of_separate_ones(policy):
    prompt = random_prompts(policy, [40])[0]
    prompts, replies = [prompt, prompt, [*prompt, 9, 9]], [[5, 6], [7], [8, 9, 10]]
    gradients = []
    for rows in (pack(prompts, replies), share(pack(prompts, replies), even=1e9, longest=10_000)):
        policy.model.zero_grad()
        policy.log_probs(rows).log_probs.sum().backward()
        gradients.append([p.grad.clone() for p in policy.model.parameters()])
    assert len(rows) == 1
    for separate, shared in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, separate, atol=1e-3, rtol=1e-3)
    policy.model.zero_grad()


def test_what_is_no_causal_language_model_is_refused_in_a_sentence(tmp_path):
    config = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    tiny_llama().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be loaded as a causal language model: Unrecognized .*T5Config"):
        Policy.load(tmp_path)
    with pytest.raises(ValueError, match="'t5' is an encoder with a decoder; a decoder-only"):
        Policy(model, tiny_llama().tokenizer)
    tiny_llama().save(tmp_path / "llama")
    with pytest.raises(ValueError, match=r"cannot be loaded .*no_such_attention"):
        Policy.load(tmp_path / "llama", attn_implementation="no_such_attention")


def test_weights_that_are_not_numbers_are_an_error_at_once_and_later():
    policy = tiny_llama()
    with torch.no_grad():
        policy.model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"log-probabilities are not numbers \(NaN\)"):
        policy.score([[5, 6]], [[7]])
    with pytest.raises(ValueError, match=r"log-probabilities are not numbers \(NaN\)"):
        HFSampler(policy).sample([[5, 6]], SamplingParams(2))
    with pytest.raises(ValueError, match=r"the logits of this 'llama' are not numbers \(NaN\)"):
        Policy(policy.model, policy.tokenizer)


def test_a_model_that_looks_ahead_is_refused():
    policy = tiny_llama()
    policy.model.model.layers[0].register_forward_hook(lambda module, given, out: out + out.mean(1, keepdim=True))
    with pytest.raises(ValueError, match=r"'llama' cannot be used: .* depends on the tokens that follow"):
        Policy(policy.model, policy.tokenizer)


def test_a_context_limit_is_a_limit():
    policy = tiny_llama(context=256)
    assert Policy(policy.model, policy.tokenizer, context_limit=100).context == 100
    assert Policy(policy.model, policy.tokenizer, context_limit=1000).context == 256


@given(
    st.integers(20, 200),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=12),
    st.integers(400, 40_000),
)
@settings(max_examples=20, deadline=None)
def test_no_pass_has_more_tokens_or_masks_than_its_limit(limit, stems, shapes, entries):
    """Samples share beginnings of some length; only one that is itself longer than the limit makes a longer pass."""
    policy = Policy(POLICIES["llama"].model, POLICIES["llama"].tokenizer)
    policy.train_tokens = policy.max_tokens = limit
    policy.mask_entries = entries
    beginnings = random_prompts(policy, [60] * stems)
    prompts = [
        beginnings[i % stems][:shared] + random_prompts(policy, [own], seed=i)[0]
        for i, (shared, own, _) in enumerate(shapes)
    ]
    replies = [[5] * length for _, _, length in shapes]
    longest = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        seen, masks = passes(policy, patch), mask_sizes(patch)
        policy.score(prompts, replies)
        for batch in policy.batches(policy.rows(prompts, replies)):
            policy.log_probs(batch)
        assert all(rows * width <= max(limit, longest) for rows, width in seen)
        assert all(size <= entries for size in masks)
        del seen[:], masks[:]
        HFSampler(policy).sample(prompts, SamplingParams(3))
        # A pass over a cache has at least one token of each row.
        assert all(rows * width <= max(limit, len(prompts)) for rows, width in seen)
        assert all(size <= max(entries, len(prompts) * (longest + 3)) for size in masks)


def mask_sizes(patch):
    """Entries of the masks that are made from now on."""
    sizes, made = [], attention._added

    def counted(seen, dtype):
        sizes.append(seen.numel())
        return made(seen, dtype)

    patch.setattr(attention, "_added", counted)
    return sizes


def test_logits_of_a_large_vocabulary_are_made_in_parts(policy, monkeypatch):
    prompts, replies = random_prompts(policy, [9, 30, 4]), [[5, 6], [7], [8, 9, 10]]
    found = []
    for most in (2**26, 2 * len(policy.tokenizer)):
        monkeypatch.setattr("opid_agents.policy._MOST_LOGITS", most)
        policy.model.zero_grad()
        out = policy.log_probs(pack(prompts, replies))
        out.log_probs.sum().backward()
        found.append((out.log_probs, out.entropies, [p.grad.clone() for p in policy.model.parameters()]))
    policy.model.zero_grad()
    torch.testing.assert_close(found[0], found[1])


def test_a_learning_step_on_shared_rows_is_that_on_separate_ones_to_the_last_bits_of_float64():
    """Log-probabilities and gradients, to four units in the last place (of the largest gradient).

    Bit for bit is impossible whatever the order of sums: of tokens that samples share, gradients p and q are added
    before they meet the activations x, and x(p + q) = xp + xq holds for 71 % of random numbers in float64.
    (GPT-2, because Llama's rotations are float32 always.)
    """
    found = []
    for shared in (True, False):
        policy = tiny_gpt2()
        policy.model.double()
        stem, other = random_prompts(policy, [30, 12])
        prompts, replies = [stem, [*stem, 5, 6], [*stem, 9], other], [[5, 6, 7], [7, 8], [9, 3], [4, 4]]
        pairs = list(zip(prompts, replies, strict=True))
        runs = [(row, [i]) for i, (p, r) in enumerate(pairs) for row in pack([p], [r])]
        if shared:
            runs = [(row, range(4)) for row in share(pack(prompts, replies), even=1e9, longest=1000)]
        assert any(row.branches for row, _ in runs) is shared
        scores = {}
        for row, names in runs:
            out = policy.log_probs([row])
            out.log_probs.sum().neg().backward()
            for n, position, value in zip(
                *(t.tolist() for t in (out.sample, out.position, out.log_probs)), strict=True
            ):
                scores[names[n], position] = value
        found.append((scores, [p.grad for p in policy.model.parameters()]))
    (scores, gradients), (plain_scores, plain_gradients) = found
    few = 4 * torch.finfo(torch.float64).eps
    assert scores == {key: pytest.approx(value, rel=few, abs=0) for key, value in plain_scores.items()}
    largest = max(float(gradient.abs().max()) for gradient in plain_gradients)
    for a, b in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=few * largest, rtol=0)
