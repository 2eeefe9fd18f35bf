import pytest
from opid_agents.trace import TokenTrace

from opid_gym.trajectory import Step, Trajectory


def test_a_trace_survives_the_disk_with_its_step():
    trace = TokenTrace([1, 2, 3], [4, 5], [-0.1, -1e-9], dropped=2)
    step = Step("see", "do", 0.0, "done", data=trace.to_data())
    back = Trajectory.from_json(Trajectory("t", "k", "x", [step]).to_json())
    assert TokenTrace.from_data(back.steps[0].data) == trace


def test_a_step_without_a_trace_has_none_and_a_broken_one_is_named():
    assert TokenTrace.from_data({"tokens": {}}) is None
    with pytest.raises(ValueError, match=r"not a token trace: .*logits"):
        TokenTrace.from_data({"trace": {"logits": [1.0]}})
