import random

import pytest
import torch
from opid_agents.packing import pack
from opid_agents.policy import Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import Samples, SamplingParams
from opid_agents.streams import stream
from transformers import LlamaConfig, LlamaForCausalLM

from tests.agents.models import passes, plain_log_probs, random_prompts, tiny_gpt2, tiny_llama, tiny_qwen3

POLICIES = {"llama": tiny_llama(), "gpt2": tiny_gpt2()}
LENGTHS = [3, 40, 17, 1, 90, 25, 8]


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]


def seeds(prompts, seed=0):
    return [stream(seed, i) for i in range(len(prompts))]


def sample(policy, prompts, max_tokens, temperature=1.0, stop=frozenset(), seed=0) -> Samples:
    params = SamplingParams(max_tokens, temperature, stop_token_ids=stop)
    return HFSampler(policy).sample(prompts, params, seeds=seeds(prompts, seed))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_of_samples_equal_their_scores_and_the_plain_forward_pass(policy, temperature):
    prompts = random_prompts(policy, LENGTHS)
    stop = frozenset(range(2, 400, 4))  # many stop tokens: rows end at different times and leave the batch
    samples = sample(policy, prompts * 3, 9, temperature, stop)
    assert len({len(reply) for reply in samples.reply_ids}) > 2
    scores = policy.score(prompts * 3, samples.reply_ids, temperature=temperature)
    for prompt, reply, sampled, scored in zip(prompts * 3, samples.reply_ids, samples.log_probs, scores, strict=True):
        expected = plain_log_probs(policy, prompt, reply, temperature)
        torch.testing.assert_close(torch.tensor(sampled), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(scored), expected, atol=1e-4, rtol=0)


def test_replies_end_at_their_first_stop_token(policy):
    stop = frozenset(range(2, 60))
    samples = sample(policy, random_prompts(policy, LENGTHS), 9, stop=stop)
    assert len(set(samples.ended)) == 2
    for reply, ended in zip(samples.reply_ids, samples.ended, strict=True):
        assert not stop & set(reply[:-1])
        assert ended == (reply[-1] in stop)
        assert ended or len(reply) == 9


def test_greedy_replies_do_not_depend_on_the_batch_and_equal_the_plain_forward_pass(policy):
    prompts = random_prompts(policy, LENGTHS)
    together = sample(policy, prompts, 6, 0).reply_ids
    for prompt, reply in zip(prompts, together, strict=True):
        assert sample(policy, [prompt], 6, 0).reply_ids == [reply]
        ids = list(prompt)
        for token in reply:
            with torch.no_grad():
                assert int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_a_reply_depends_on_its_prompt_and_seed_and_not_on_the_others(policy):
    prompts, stop = random_prompts(policy, LENGTHS), frozenset(range(2, 60))
    params, own = SamplingParams(9, stop_token_ids=stop), seeds(prompts)
    together = HFSampler(policy).sample(prompts, params, seeds=own).reply_ids
    backwards = HFSampler(policy).sample(prompts[::-1], params, seeds=own[::-1]).reply_ids
    alone = [
        HFSampler(policy).sample([prompt], params, seeds=[seed]) for prompt, seed in zip(prompts, own, strict=True)
    ]
    assert together == backwards[::-1] == [samples.reply_ids[0] for samples in alone]
    assert len({len(reply) for reply in together}) > 2  # rows left the batch at different times
    assert HFSampler(policy).sample(prompts, params, seeds=[seed + 1 for seed in own]).reply_ids != together


def test_every_prompt_needs_its_own_seed(policy):
    with pytest.raises(ValueError, match="one seed for each prompt is needed, got 1 for 2"):
        HFSampler(policy).sample([[5], [6]], SamplingParams(2), seeds=[0])


def test_sampling_follows_the_distribution(policy):
    prompt = random_prompts(policy, [12])[0]
    samples = sample(policy, [prompt] * 4000, 1, 0.7, seed=1)
    with torch.no_grad():
        probabilities = (policy.model(torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor(samples.reply_ids)[:, 0], minlength=len(probabilities)) / 4000
    assert float((counts - probabilities).abs().max()) < 0.03


def test_the_prefix_cache_changes_nothing_but_the_work(policy):
    rng = random.Random(0)
    sampler, sequences = HFSampler(policy), random_prompts(policy, [20, 5, 33, 12, 9, 14])
    for turn in range(8):
        keys = [key for key in range(6) if rng.random() < 0.7] or [0]
        if turn == 4:
            sequences[keys[0]] = random_prompts(policy, [15], seed=9)[0]  # a new game under an old key
        prompts = [sequences[key] for key in keys]
        stop = frozenset(range(2, 100))
        params = SamplingParams(5, stop_token_ids=stop)
        cached = sampler.sample(prompts, params, seeds=seeds(prompts, turn), keys=keys)
        plain = sampler.sample(prompts, params, seeds=seeds(prompts, turn))
        assert cached.reply_ids == plain.reply_ids
        for a, b in zip(cached.log_probs, plain.log_probs, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
        for key, reply in zip(keys, cached.reply_ids, strict=True):
            sequences[key] = [*sequences[key], *reply, *random_prompts(policy, [rng.randrange(1, 9)], seed=turn)[0]]


def test_the_prefix_cache_forgets_when_weights_change():
    policy = tiny_llama()
    sampler, params = HFSampler(policy), SamplingParams(3, temperature=0)
    prompts = random_prompts(policy, [20, 30])
    sampler.sample(prompts, params, keys=[0, 1])
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.1)
    policy.log_probs(pack(prompts, [[5], [6]])).log_probs.sum().backward()
    optimizer.step()
    assert sampler.sample(prompts, params, keys=[0, 1]) == sampler.sample(prompts, params)


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([5] * 250, {"max_tokens": 9}, "prompt 0 has 250 tokens; allowed: 1 to 247"),
        ([], {"max_tokens": 9}, "prompt 0 has 0 tokens"),
        ([5], {"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ([5], {"max_tokens": 1, "temperature": -1}, "temperature must be >= 0, got -1"),
        ([5], {"max_tokens": 1, "temperature": float("nan")}, "temperature must be >= 0, got nan"),
        ([5], {"max_tokens": 1, "stop": ("\n", "")}, "stop must not hold an empty text"),
    ],
)
def test_what_cannot_be_sampled_is_refused(prompt, params, message):
    with pytest.raises(ValueError, match=message):
        HFSampler(POLICIES["llama"]).sample([prompt], SamplingParams(**params))


def test_nothing_to_sample():
    assert HFSampler(POLICIES["llama"]).sample([], SamplingParams(3)) == Samples([], [], [])


def test_a_stop_text_ends_a_reply_however_many_tokens_it_is_spelled_with():
    policy = tiny_llama()
    prompts = random_prompts(policy, [5, 9, 30, 12])
    plain = sample(policy, prompts, 12)
    # The end of one reply's sixth token and the beginning of its seventh: no token has this text in it.
    head, whole = policy.decode(plain.reply_ids[0][:6]), policy.decode(plain.reply_ids[0][:7])
    stop = (head[-1:] + whole[len(head) :][:1],)
    assert len(stop[0]) == 2
    assert not any(stop[0] in policy.tokenizer.decode([i]) for i in plain.reply_ids[0])
    params = SamplingParams(12, stop=stop, stop_token_ids=frozenset())
    found = HFSampler(policy).sample(prompts, params, seeds=seeds(prompts))
    assert len(found.reply_ids[0]) <= 7
    assert stop[0] in policy.decode(found.reply_ids[0])
    for reply in found.reply_ids:
        assert stop[0] not in policy.decode(reply[:-1])
        assert stop[0] in policy.decode(reply) or len(reply) == 12


def test_equal_prompts_are_run_once_when_sampling(policy, monkeypatch):
    prompt, other = random_prompts(policy, [30, 30])
    seen = passes(policy, monkeypatch)
    samples = sample(policy, [prompt, other, prompt, prompt], 4)
    assert seen[0] == (2, 30)
    for ids, reply, found in zip([prompt, other, prompt, prompt], samples.reply_ids, samples.log_probs, strict=True):
        assert found == pytest.approx(plain_log_probs(policy, ids, reply).tolist(), abs=1e-4)


def test_games_that_go_on_alike_are_run_once_whatever_is_known_of_each(policy, monkeypatch):
    start, other, long, short = random_prompts(policy, [12, 30, 150, 9])
    sampler, params = HFSampler(policy), SamplingParams(4, stop_token_ids=frozenset())
    # After one turn, most replied something else than what stands in their next prompt.
    first = sampler.sample([start] * 8, params, seeds=range(8), keys=range(8))
    alike, apart = [*start, *first.reply_ids[0], *long], [*start, *first.reply_ids[6], *other]
    prompts = [alike] * 6 + [apart] * 2
    seen = passes(policy, monkeypatch)
    samples = sampler.sample(prompts, params, seeds=range(8), keys=range(8))
    assert sum(rows * width for rows, width in seen if width > 1) < 3 * 160
    # Each goes on by itself from there.
    longer = [[*prompt, *reply, *short] for prompt, reply in zip(prompts, samples.reply_ids, strict=True)]
    again = sampler.sample(longer, params, seeds=range(8), keys=range(8))
    for asked, given in ((prompts, samples), (longer, again)):
        for prompt, reply, found in zip(asked, given.reply_ids, given.log_probs, strict=True):
            assert found == pytest.approx(plain_log_probs(policy, prompt, reply).tolist(), abs=1e-4)
    assert len({tuple(reply) for reply in samples.reply_ids[:6]}) > 1


def test_prompts_of_different_lengths_are_not_padded_to_the_longest(policy, monkeypatch):
    prompts = random_prompts(policy, [8, 200, 9, 190, 10, 11, 7, 12, 6, 5, 4, 3])
    seen = passes(policy, monkeypatch)
    sampler, keys = HFSampler(policy), range(len(prompts))
    params = SamplingParams(4, stop_token_ids=frozenset())
    samples = sampler.sample(prompts, params, seeds=seeds(prompts), keys=keys)
    prefill = sum(rows * width for rows, width in seen if width > 1)
    assert prefill <= 6 * 200 + 6 * 9
    for prompt, reply, found in zip(prompts, samples.reply_ids, samples.log_probs, strict=True):
        assert found == pytest.approx(plain_log_probs(policy, prompt, reply).tolist(), abs=1e-4)
    # What was computed apart is found again together.
    longer = [[*prompt, *reply, 9] for prompt, reply in zip(prompts, samples.reply_ids, strict=True)]
    del seen[:]
    again = sampler.sample(longer, SamplingParams(1), seeds=seeds(prompts), keys=keys)
    assert seen == [(12, 2)]
    for prompt, reply, found in zip(longer, again.reply_ids, again.log_probs, strict=True):
        assert found == pytest.approx(plain_log_probs(policy, prompt, reply).tolist(), abs=1e-4)


def test_a_model_with_grouped_queries_is_sampled_and_scored_alike():
    policy = tiny_qwen3()
    prompts = random_prompts(policy, [9, 40, 200, 12, 9, 7]) + random_prompts(policy, [9])
    samples = sample(policy, prompts, 6, stop=frozenset(range(2, 40)))
    scores = policy.score(prompts, samples.reply_ids)
    for prompt, reply, sampled, scored in zip(prompts, samples.reply_ids, samples.log_probs, scores, strict=True):
        expected = plain_log_probs(policy, prompt, reply).tolist()
        assert sampled == pytest.approx(expected, abs=1e-4)
        assert scored == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_have_ended_may_be_all_of_a_part(seed):
    """With so wide a layer and so narrow attention moving rows is cheap, and parts of ended rows come about."""
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=256,
        intermediate_size=4096,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    torch.manual_seed(0)
    policy = Policy(LlamaForCausalLM(config), tiny_llama().tokenizer)
    prompts = [[5 + i] * 4 for i in range(6)]
    params = SamplingParams(16, stop_token_ids=frozenset(range(2, 30)))
    out = HFSampler(policy).sample(prompts, params, seeds=seeds(prompts, seed))
    for prompt, reply, values in zip(prompts, out.reply_ids, out.log_probs, strict=True):
        assert values == pytest.approx(plain_log_probs(policy, prompt, reply).tolist(), abs=1e-4)
