import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opid_agents.kv_cache import PrefixCache
from opid_agents.packing import batches, pack, share
from opid_agents.policy import Policy

from tests.agents.models import random_prompts, tiny_gpt2, tiny_llama, tiny_qwen3

POLICIES = {"llama": tiny_llama(), "gpt2": tiny_gpt2()}
LENGTHS = [3, 40, 17, 1, 90, 25, 8]


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reference(policy, prompt, reply, temperature=1.0):
    """The plain way: one unpadded sequence through the whole model."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_of_samples_equal_their_scores_and_the_plain_forward_pass(policy, temperature):
    prompts = random_prompts(policy, LENGTHS)
    stop = frozenset(range(2, 400, 4))  # many stop tokens: rows end at different times and leave the batch
    samples = policy.sample(prompts * 3, max_new_tokens=9, temperature=temperature, generator=generator(), stop=stop)
    assert len({len(reply) for reply in samples.reply_ids}) > 2
    scores = policy.score(prompts * 3, samples.reply_ids, temperature=temperature)
    for prompt, reply, sampled, scored in zip(prompts * 3, samples.reply_ids, samples.log_probs, scores, strict=True):
        expected = reference(policy, prompt, reply, temperature)
        torch.testing.assert_close(torch.tensor(sampled), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(scored), expected, atol=1e-4, rtol=0)


def test_replies_end_at_their_first_stop_token(policy):
    stop = frozenset(range(2, 60))
    samples = policy.sample(random_prompts(policy, LENGTHS), max_new_tokens=9, generator=generator(), stop=stop)
    for reply in samples.reply_ids:
        assert not stop & set(reply[:-1])
        assert len(reply) == 9 or reply[-1] in stop


def test_greedy_replies_do_not_depend_on_the_batch_and_equal_the_plain_forward_pass(policy):
    prompts = random_prompts(policy, LENGTHS)
    together = policy.sample(prompts, max_new_tokens=6, temperature=0, stop=frozenset()).reply_ids
    for prompt, reply in zip(prompts, together, strict=True):
        assert policy.sample([prompt], max_new_tokens=6, temperature=0, stop=frozenset()).reply_ids == [reply]
        ids = list(prompt)
        for token in reply:
            with torch.no_grad():
                assert int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_sampling_follows_the_distribution(policy):
    prompt = random_prompts(policy, [12])[0]
    samples = policy.sample([prompt] * 4000, max_new_tokens=1, temperature=0.7, generator=generator(1))
    with torch.no_grad():
        probabilities = (policy.model(torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor(samples.reply_ids)[:, 0], minlength=len(probabilities)) / 4000
    assert float((counts - probabilities).abs().max()) < 0.03


def test_the_prefix_cache_changes_nothing_but_the_work(policy):
    rng = random.Random(0)
    cache, sequences = PrefixCache(), random_prompts(policy, [20, 5, 33, 12, 9, 14])
    for turn in range(8):
        keys = [key for key in range(6) if rng.random() < 0.7] or [0]
        if turn == 4:
            sequences[keys[0]] = random_prompts(policy, [15], seed=9)[0]  # a new game under an old key
        prompts = [sequences[key] for key in keys]
        stop = frozenset(range(2, 100))
        cached = policy.sample(prompts, max_new_tokens=5, generator=generator(turn), stop=stop, cache=cache, keys=keys)
        plain = policy.sample(prompts, max_new_tokens=5, generator=generator(turn), stop=stop)
        assert cached.reply_ids == plain.reply_ids
        for a, b in zip(cached.log_probs, plain.log_probs, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
        for key, reply in zip(keys, cached.reply_ids, strict=True):
            sequences[key] = [*sequences[key], *reply, *random_prompts(policy, [rng.randrange(1, 9)], seed=turn)[0]]


def test_the_prefix_cache_forgets_when_weights_change():
    policy, cache = tiny_llama(), PrefixCache()
    prompts = random_prompts(policy, [20, 30])
    policy.sample(prompts, max_new_tokens=2, generator=generator(), cache=cache)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.1)
    policy.log_probs(pack(prompts, [[5], [6]])).log_probs.sum().backward()
    optimizer.step()
    after = policy.sample(prompts, max_new_tokens=3, temperature=0, cache=cache)
    assert after == policy.sample(prompts, max_new_tokens=3, temperature=0)


def test_nested_and_equal_samples_share_rows_and_keep_their_scores(policy):
    a, b, c, tail = random_prompts(policy, [20, 8, 5, 30])
    prompts = [a, [*a, *b], [*a, *b, *c, *tail], a, tail]
    replies = [b, c, [7], b, [8, 9]]
    rows = pack(prompts, replies)
    assert sorted(len(row.ids) for row in rows) == [32, 64]
    for i, scored in enumerate(policy.score(prompts, replies)):
        assert scored == pytest.approx(reference(policy, prompts[i], replies[i]).tolist(), abs=1e-4)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[5] * 250], "max_new_tokens": 9}, "prompt 0 has 250 tokens; allowed: 1 to 247"),
        ({"prompts": [[]], "max_new_tokens": 9}, "prompt 0 has 0 tokens"),
        ({"prompts": [[5]], "max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
        ({"prompts": [[5]], "max_new_tokens": 1, "temperature": -1}, "temperature must be >= 0, got -1"),
    ],
)
def test_what_cannot_be_sampled_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        POLICIES["llama"].sample(**arguments)


def test_nothing_to_sample_and_nothing_to_score():
    assert POLICIES["llama"].sample([], max_new_tokens=3).reply_ids == []
    assert POLICIES["llama"].score([], []) == []
    assert POLICIES["llama"].score([[5]], [[]]) == [[]]


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no model in .*nothing"):
        Policy.load(tmp_path / "nothing")


def passes(policy, monkeypatch):
    """The token matrices that the model is run on from now on."""
    seen, run = [], Policy._run

    def counted(self, ids, **inputs):
        seen.append(tuple(ids.shape))
        return run(self, ids, **inputs)

    monkeypatch.setattr(Policy, "_run", counted)
    return seen


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
        assert scored == pytest.approx(reference(policy, prompt, reply).tolist(), abs=1e-4)


def test_equal_prompts_are_run_once_when_sampling(policy, monkeypatch):
    prompt, other = random_prompts(policy, [30, 30])
    seen = passes(policy, monkeypatch)
    samples = policy.sample([prompt, other, prompt, prompt], max_new_tokens=4, generator=generator(), stop=frozenset())
    assert seen[0] == (2, 30)
    for ids, reply, found in zip([prompt, other, prompt, prompt], samples.reply_ids, samples.log_probs, strict=True):
        assert found == pytest.approx(reference(policy, ids, reply).tolist(), abs=1e-4)


tokens = st.lists(st.integers(2, 4), min_size=1, max_size=12)


@given(st.lists(st.tuples(tokens, st.lists(st.integers(2, 4), max_size=4)), min_size=1, max_size=12))
def test_sharing_keeps_every_score_whatever_the_sequences(samples):
    policy = POLICIES["llama"]
    prompts, replies = [prompt for prompt, _ in samples], [reply for _, reply in samples]
    rows = share(pack(prompts, replies), even=1e9)  # wherever it is possible at all
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
            expected = reference(policy, prompt, reply).tolist()
            assert [found[i, n] for n in range(len(reply))] == pytest.approx(expected, abs=1e-4)


def test_sharing_happens_where_it_pays_only():
    long, short = list(range(2, 302)), list(range(2, 22))
    siblings = pack([long] * 4, [[n] for n in range(400, 404)])
    assert len(share(siblings, even=300)) == 1
    # Little in common, and attention that is most of the cost: a mask over both would cost more than it saves.
    strangers = pack([short + [n] * 200 for n in range(400, 404)], [[5]] * 4)
    assert len(share(strangers, even=50)) == 4


def test_shared_rows_carry_the_gradient_of_separate_ones(policy):
    prompt = random_prompts(policy, [40])[0]
    prompts, replies = [prompt, prompt, [*prompt, 9, 9]], [[5, 6], [7], [8, 9, 10]]
    gradients = []
    for rows in (pack(prompts, replies), share(pack(prompts, replies), even=1e9)):
        policy.model.zero_grad()
        policy.log_probs(rows).log_probs.sum().backward()
        gradients.append([p.grad.clone() for p in policy.model.parameters()])
    assert len(rows) == 1
    for separate, shared in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, separate, atol=1e-3, rtol=1e-3)
    policy.model.zero_grad()


def test_prompts_of_different_lengths_are_not_padded_to_the_longest(policy, monkeypatch):
    prompts = random_prompts(policy, [8, 200, 9, 190, 10, 11, 7, 12, 6, 5, 4, 3])
    seen = passes(policy, monkeypatch)
    cache = PrefixCache()
    samples = policy.sample(prompts, max_new_tokens=4, generator=generator(), stop=frozenset(), cache=cache)
    prefill = sum(rows * width for rows, width in seen if width > 1)
    assert prefill <= 6 * 200 + 6 * 9
    for prompt, reply, found in zip(prompts, samples.reply_ids, samples.log_probs, strict=True):
        assert found == pytest.approx(reference(policy, prompt, reply).tolist(), abs=1e-4)
    # What was computed apart is found again together.
    longer = [[*prompt, *reply, 9] for prompt, reply in zip(prompts, samples.reply_ids, strict=True)]
    del seen[:]
    again = policy.sample(longer, max_new_tokens=1, generator=generator(), stop=frozenset(), cache=cache)
    assert seen == [(12, 2)]
    for prompt, reply, found in zip(longer, again.reply_ids, again.log_probs, strict=True):
        assert found == pytest.approx(reference(policy, prompt, reply).tolist(), abs=1e-4)


def test_a_model_with_grouped_queries_is_sampled_and_scored_alike():
    policy = tiny_qwen3()
    prompts = random_prompts(policy, [9, 40, 200, 12, 9, 7]) + random_prompts(policy, [9])
    samples = policy.sample(prompts, max_new_tokens=6, generator=generator(), stop=frozenset(range(2, 40)))
    scores = policy.score(prompts, samples.reply_ids)
    for prompt, reply, sampled, scored in zip(prompts, samples.reply_ids, samples.log_probs, scores, strict=True):
        expected = reference(policy, prompt, reply).tolist()
        assert sampled == pytest.approx(expected, abs=1e-4)
        assert scored == pytest.approx(expected, abs=1e-4)


def test_models_that_do_not_see_everything_are_refused():
    with pytest.raises(ValueError, match=r"full attention .* 'qwen3' has layers of sliding_attention"):
        tiny_qwen3(window=8)
