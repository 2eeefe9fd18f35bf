import math
from dataclasses import replace

import pytest
import torch
from opid_agents.algorithms.advantages import Advantage
from opid_agents.skills.route import Route
from opid_agents.tokenizer import train_tokenizer
from opid_agents.training.batch import Batch, StepSample, TeacherScores
from opid_agents.training.token_log import describe_credit, token_texts

from tests.agents.models import WORLD_TEXT


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(WORLD_TEXT, 400)


@pytest.mark.parametrize("text", ["", " go to shelf 10\n", "größe 🙂 家", "two  spaces\n\n"])
def test_token_texts_join_to_the_reply(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text


def test_the_end_token_is_shown_and_a_character_belongs_to_its_last_token(tokenizer):
    ids = [*tokenizer("家")["input_ids"], tokenizer.eos_token_id]
    assert token_texts(tokenizer, ids) == ["", "", "家", "<|end|>"]


def test_bytes_that_are_no_character_are_replaced_and_take_nothing_else_with_them(tokenizer):
    broken = tokenizer("家")["input_ids"][:2]
    texts = token_texts(tokenizer, [*broken, *tokenizer("a")["input_ids"], *broken])
    assert len(texts) == 5
    assert "".join(texts).replace("\ufffd", "") == "a"


def sample(trajectory, step, ids):
    return StepSample(trajectory, step, 0, [1], ids, [-0.123456] * len(ids), 1.0, True)


def test_credit_names_the_skills_that_were_heard_and_sums_to_the_advantage(tokenizer):
    ids = tokenizer("go to")["input_ids"]
    samples = [sample(0, 0, ids), sample(0, 1, ids[:1]), sample(7, 0, ids)]
    width = len(ids)
    outcome = torch.full((3, width), 0.5)
    skill = torch.full((3, width), -0.12345)
    skill[1, 0] = math.nan
    advantage = Advantage(outcome + skill, outcome, skill, torch.zeros_like(skill), 1.0, 1.0, {})
    routes = [Route(episode="look around"), Route(step="take mug 1"), Route()]
    teacher = TeacherScores(skill, skill, torch.tensor([True, False, False]), torch.zeros(3).bool(), 1.0, 0)
    batch = replace(Batch.of([], samples, routes), teacher=teacher)
    credit = describe_credit(tokenizer, batch, advantage, trajectories=5)
    assert set(credit) == {(0, 0), (0, 1)}
    first = credit[0, 0]
    assert first["skills"] == {"episode": "look around"}
    assert first["tokens"]["outcome"] == [0.5] * width
    assert first["tokens"]["skill"] == pytest.approx([-0.12345] * width, rel=1e-3)
    assert first["tokens"]["log_probs"] == [-0.1235] * width
    # The skill did not fit into the context, and the number is not finite.
    assert credit[0, 1]["skills"] == {}
    assert credit[0, 1]["tokens"]["skill"] == [None]
