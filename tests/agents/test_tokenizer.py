import pytest
from hypothesis import given
from hypothesis import strategies as st
from opid_agents.tokenizer import train_tokenizer
from transformers import AutoTokenizer

from tests.agents.models import WORLD_TEXT

TOKENIZER = train_tokenizer(WORLD_TEXT, 400)


def ids(text):
    return TOKENIZER(text)["input_ids"]


@given(st.text(max_size=60))
def test_any_text_survives(text):
    assert TOKENIZER.decode(ids(text)) == text


@pytest.mark.parametrize(
    "text", [*WORLD_TEXT[:4], "", "  two  spaces ", "tab\tNUL\0 é 中文 😀\r\n\n", "<|end|><|pad|>"]
)
def test_world_text_and_odd_text_survive(text):
    assert TOKENIZER.decode(ids(text)) == text


def test_text_that_spells_a_special_token_is_plain_text():
    assert TOKENIZER.eos_token_id not in ids("a <|end|> b")
    assert TOKENIZER.pad_token_id not in ids("<|pad|>")


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_line_end_is_a_boundary(before, after):
    assert ids(before + "\n") + ids(after) == ids(before + "\n" + after)


def test_words_of_the_world_are_single_tokens_and_digits_stand_alone():
    assert [TOKENIZER.decode([i]) for i in ids(" cabinet 10\n>")] == [" cabinet", " 1", "0", "\n", ">"]


def test_it_is_the_same_after_saving_and_loading(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    text = "You arrive at shelf 10. <|end|>\n> 中"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == ids(text)


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"at least 258.*got 100"):
        train_tokenizer(WORLD_TEXT, 100)
