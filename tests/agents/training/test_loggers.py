import pytest
from opid_agents.training.loggers import TensorBoard, open_loggers

from tests.agents.models import tiny_recipe

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def curves(folder):
    read = event_accumulator.EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_every_number_is_a_point_and_a_resumed_run_goes_on_where_it_stopped(tmp_path):
    first = TensorBoard(tmp_path)
    for iteration in (1, 2, 3):
        first.write({"iteration": iteration, "success": iteration / 4, "eval": None, "name": "x"})
    first.close()
    second = TensorBoard(tmp_path, after=2)  # the third iteration was lost
    second.write({"iteration": 3, "success": 0.5})
    second.close()
    assert curves(tmp_path) == {"success": [(1, 0.25), (2, 0.5), (3, 0.5)]}


def test_weights_and_biases_gets_the_numbers_and_a_resumed_run_goes_on_under_its_id(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = tiny_recipe("loggers=wandb", "wandb_project=households")
    for iteration in (1, 2):
        (logger,) = open_loggers(recipe, tmp_path, after=iteration - 1)
        logger.write({"iteration": iteration, "success": iteration + 0.0625, "evaluated": None})
        logger.close()
    wandb.teardown()  # its service would outlive the test
    run = (tmp_path / "wandb_id.txt").read_text().strip()
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run}*/run-{run}.wandb"))
    written = [file.read_bytes() for file in files]  # a log of records, whose strings stand there as they are
    assert len(written) == 2
    assert all(b"households" in log and b"success" in log and b"evaluated" not in log for log in written)
    assert [b"1.0625" in log for log in written] == [True, False]
    assert [b"2.0625" in log for log in written] == [False, True]


def test_no_logger_unless_named(tmp_path):
    assert open_loggers(tiny_recipe(), tmp_path) == []
