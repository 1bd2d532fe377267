"""A run that was stopped goes on where it was: to the bit on the same workers, with the same losses on others."""

import os
import signal

import numpy as np
import pytest
from command import history
from faults import STOPPED, Run, assert_same_end, checkpoints, row_counts, run, write_data

COMMON = (
    "--data", "data.csv", "--validation-data", "validation.csv", "--batch-size", 10, "--num-shards", 4,
    "--shuffle", "global", "--checkpoint-every", 10,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("resume")
    write_data(directory)
    return directory


@pytest.mark.slow
def test_a_run_stopped_twice_ends_as_one_that_never_was_to_the_bit(place):
    """Once after its first step, in the middle of a superbatch, and once in the middle of an epoch."""
    options = (*COMMON, "--steps-per-execution", 16, "--epochs", 6)
    options += ("--model", "counting:random_parts", "--callbacks", "counting:mindful")
    run(place, *options, "--output", "whole")
    stopped = Run(place, *options, "--output", "stopped")
    stopped.wait_for("Compiled the superstep")
    stopped.process.send_signal(signal.SIGTERM)
    assert "disttrain: stopped in epoch 1, after step 1; to go on: the same command again" in stopped.finish(STOPPED)
    assert checkpoints(place / "stopped" / "checkpoints")[-1].name == "epoch-00001-step-000000001.ckpt"
    again = Run(place, *options, "--output", "stopped")
    again.wait_for("epoch 3/6")
    again.wait_for("(trains)", 3 * 4 + 1)
    again.process.send_signal(signal.SIGTERM)
    assert "disttrain: stopped in epoch 4, after step " in again.finish(STOPPED)
    assert "Going on from the checkpoint of epoch 4, step " in run(place, *options, "--output", "stopped")
    assert_same_end(place / "stopped", place / "whole")
    assert (row_counts(place / "stopped") == 6).all()
