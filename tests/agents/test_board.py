import pytest
from opid_agents.learning.board import Board

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def curves(folder):
    read = event_accumulator.EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_every_number_is_a_point_and_a_resumed_run_goes_on_where_it_stopped(tmp_path):
    first = Board(tmp_path)
    for iteration in (1, 2, 3):
        first.write({"iteration": iteration, "success": iteration / 4, "eval": None, "name": "x"})
    first.close()
    second = Board(tmp_path, after=2)  # the third iteration was lost
    second.write({"iteration": 3, "success": 0.5})
    second.close()
    assert curves(tmp_path) == {"success": [(1, 0.25), (2, 0.5), (3, 0.5)]}
