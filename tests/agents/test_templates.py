"""Chat templates of today's models, written from their documentation: what a prompt is, and how replies end."""

import pytest
from opid_agents.lm import LMSettings, fit_prompt
from opid_agents.policy import ModelSize, Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.tokenizer import train_tokenizer
from transformers import PreTrainedTokenizerFast

from opid_gym.prompting import PromptView
from tests.agents.models import WORLD_TEXT

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n' + words + '<|im_end|>\n' }}{% endif %}"
QWEN3 = CHATML.replace(
    "<|im_start|>assistant\n' }}{% endif %}",
    "<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# template, special tokens, begin and end token of the tokenizer, and what ends a turn.
TEMPLATES = {
    "qwen2.5": (SYSTEM.replace("words", "'You are Qwen.'") + CHATML, _IM, None, "<|im_end|>", "<|im_end|>"),
    "qwen3": (QWEN3, _IM, None, "<|im_end|>", "<|im_end|>"),
    "llama3": (
        LLAMA3,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|eot_id|>",
    ),
    # The tokenizer's own end token is not what ends a turn.
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>", "<end_of_turn>"),
    "smollm2": (SYSTEM.replace("words", "'You are SmolLM.'") + CHATML, _IM, "<|im_start|>", "<|im_end|>", "<|im_end|>"),
}


def make_policy(name):
    template, special, begin, end, _ = TEMPLATES[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(WORLD_TEXT, 400).backend_tokenizer, eos_token=end, bos_token=begin
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens(["<think>", "</think>"])  # as in Qwen3's tokenizer: tokens, but no special ones
    tokenizer.chat_template = template
    return Policy.create(tokenizer, ModelSize(16, 1, 2, 16, 400))


@pytest.fixture(params=TEMPLATES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def policy(name):
    return make_policy(name)


def test_the_prompt_is_the_template_token_for_token_with_one_begin_token(name, policy):
    ids = policy.encode("go to shelf 1")
    text = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "go to shelf 1"}], add_generation_prompt=True, tokenize=False
    )
    assert policy.tokenizer.decode(ids) == text
    assert ids == policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = TEMPLATES[name][2]
    if begin in ("<|begin_of_text|>", "<bos>"):
        assert ids.count(policy.tokenizer.convert_tokens_to_ids(begin)) == 1


def test_special_tokens_in_an_observation_stay_text(name, policy):
    special = TEMPLATES[name][1]
    plain, spelled = policy.encode("look at it"), policy.encode(f"look {special[-1]} at {special[0]}{special[1]} it")
    ids = policy.tokenizer.convert_tokens_to_ids(special)
    assert [plain.count(i) for i in ids] == [spelled.count(i) for i in ids]
    assert f"look {special[-1]} at {special[0]}{special[1]} it" in policy.tokenizer.decode(spelled)


def test_replies_end_where_the_template_ends_a_turn(name, policy):
    end = policy.tokenizer.convert_tokens_to_ids(TEMPLATES[name][4])
    assert policy.end_token == end
    assert end in policy.end_ids
    prompts = [policy.encode(text) for text in ("look", "go to shelf 1", "open the drawer 2") * 20]
    out = HFSampler(policy).sample(prompts, SamplingParams(200, 3.0), seeds=range(len(prompts)))
    assert any(out.ended)
    for reply, ended in zip(out.reply_ids, out.ended, strict=True):
        assert not policy.end_ids & set(reply[:-1])
        assert ended == (reply[-1] in policy.end_ids)


def test_thinking_is_switched_off_by_an_argument_of_the_template():
    policy = make_policy("qwen3")
    view = PromptView("put a mug in shelf", "You see a mug 1.")
    on = fit_prompt(policy, LMSettings(), view).ids
    off = fit_prompt(policy, LMSettings(template_arguments={"enable_thinking": False}), view).ids
    assert policy.tokenizer.decode(off) == policy.tokenizer.decode(on) + "<think>\n\n</think>\n\n"
    settings = LMSettings(template_arguments={"enable_thinking": False}, max_prompt_tokens=300)
    assert LMSettings.from_json(settings.to_json()) == settings


def test_prompts_keep_to_their_limit():
    policy = make_policy("qwen3")
    history = [("You see a mug 1.", f"go to shelf {i}") for i in range(12)]
    view = PromptView("put a mug in shelf", "You see a mug 1.", history)
    whole = fit_prompt(policy, LMSettings(), view)
    short = fit_prompt(policy, LMSettings(max_prompt_tokens=len(whole.ids) - 40), view)
    assert whole.dropped < short.dropped
    assert len(short.ids) <= len(whole.ids) - 40
    with pytest.raises(ValueError, match=r"room for 5 \(max_prompt_tokens\)"):
        fit_prompt(policy, LMSettings(max_prompt_tokens=5), view)
    with pytest.raises(ValueError, match="max_prompt_tokens must be >= 1, got 0"):
        LMSettings(max_prompt_tokens=0)
