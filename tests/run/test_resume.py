"""A stopped run resumes where it was: bit for bit on the same workers, with the same losses on others."""

import os
import signal

import pytest
from faults import STOPPED, Run, assert_same_end, checkpoints, read, row_counts, run, write_data

HOROVODRUN_FAILED = 1  # whatever its workers' exit codes are
COMMON = (
    "--data", "data.csv", "--validation-data", "validation.csv", "--batch-size", 10,
    "--shuffle", "global", "--checkpoint-every", 10,
)  # fmt: skip
SHARDS = ("--num-shards", 4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("resume")
    write_data(directory)
    return directory


@pytest.mark.slow
def test_a_run_stopped_twice_ends_as_one_that_never_was_to_the_bit(place):
    """Once after its first step, in the middle of a superbatch, and once in the middle of an epoch.

    The number of shards stays with the run, where it is not given again.
    """
    options = (*COMMON, "--steps-per-execution", 16, "--epochs", 6)
    options += ("--model", "counting:unseeded_parts", "--callbacks", "counting:mindful")
    run(place, *options, *SHARDS, "--output", "whole")
    stopped = Run(place, *options, *SHARDS, "--output", "stopped", HOLD_AT="begins 1")
    stopped.wait_for("held)")
    stopped.process.send_signal(signal.SIGTERM)
    stopped.release()
    assert "disttrain: stopped in epoch 1, after step 1; to go on: the same command again" in stopped.finish(STOPPED)
    assert checkpoints(place / "stopped" / "checkpoints")[-1].name == "epoch-00001-step-000000001.ckpt"
    again = Run(place, *options, "--output", "stopped", HOLD_AT="trains 4")
    again.wait_for("held)")
    again.process.send_signal(signal.SIGTERM)
    again.release()
    assert "disttrain: stopped in epoch 4, after step " in again.finish(STOPPED)
    assert "Going on from the checkpoint of epoch 4, step " in run(place, *options, "--output", "stopped")
    assert_same_end(place / "stopped", place / "whole")
    assert (row_counts(place / "stopped") == 6).all()


@pytest.mark.slow
def test_two_workers_that_average_weights_now_and_then_go_on_to_the_bit_however_they_are_told_to_stop(place):
    """First one of the workers gets SIGTERM, then horovodrun itself, as on a machine that is taken away."""
    options = (*COMMON, *SHARDS, "--steps-per-execution", 8, "--sync-every", 4, "--epochs", 3)
    options += ("--model", "counting:random_parts", "--callbacks", "counting:mindful")
    run(place, *options, "--output", "whole2", processes=2)
    stopped = Run(place, *options, "--output", "stopped2", processes=2, HOLD_AT="trains 1")
    stopped.wait_for("held)", 2)
    os.kill(stopped.workers()[1], signal.SIGTERM)
    stopped.release()
    assert "rank 0: stopped in epoch 1, after step " in stopped.finish(HOROVODRUN_FAILED)
    again = Run(place, *options, "--output", "stopped2", processes=2, HOLD_AT="trains 2")
    again.wait_for("held)", 2)
    again.process.terminate()
    again.wait_for("SIGTERM: stopping")
    again.release()
    told = again.finish(HOROVODRUN_FAILED, 0)  # asked itself, it may lose its workers' codes: see launch/supervise.py
    assert "rank 0: stopped in epoch 2, after step " in told
    run(place, *options, "--output", "stopped2", processes=2)
    assert_same_end(place / "stopped2", place / "whole2")
    assert (row_counts(place / "stopped2") == 3 / 2).all()  # the mean of the two


@pytest.mark.slow
def test_one_worker_that_is_told_to_stop_while_all_validate_stops_them_all(place):
    options = (*COMMON, *SHARDS, "--steps-per-execution", 60, "--epochs", 3, "--timeout", 60, "--output", "validating")
    options += ("--model", "counting:counted", "--callbacks", "counting:slow")
    stopped = Run(place, *options, processes=2, HOLD_AT="validates 1")
    stopped.wait_for("held)", 2)
    os.kill(stopped.workers()[1], signal.SIGTERM)
    stopped.release()
    assert "rank 0: stopped in epoch 1, after step 51; to go on" in stopped.finish(HOROVODRUN_FAILED)
    newest = checkpoints(place / "validating" / "checkpoints")[-1]
    assert newest.name == "epoch-00001-step-000000051.ckpt"
    assert read(newest).about["standing"]["results"] == []  # the epoch is to be validated yet
