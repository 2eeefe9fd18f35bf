import pytest
from opid_agents.training.metrics import reply_figures

from opid_gym.trajectory import Step


def test_replies_have_a_length_and_a_share_that_was_cut():
    said = [{"reply_tokens": 4, "cut": False}, {"reply_tokens": 8, "cut": True}, {"reply_tokens": 3, "cut": False}]
    steps = [Step("see", "act", 0.0, "saw", data=data) for data in said]
    assert reply_figures(steps) == {"tokens": 5.0, "longest": 8, "cut": pytest.approx(1 / 3)}
    assert reply_figures([Step("see", "act", 0.0, "saw")]) == reply_figures([]) == {}
