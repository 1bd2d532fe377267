"""Saving during training: it does not delay training, holds at most two checkpoints, and reports what failed."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from command import ROOT

from disttrain.checkpoints.file import Checkpoint, Position, position_of
from disttrain.checkpoints.store import CheckpointStore
from disttrain.checkpoints.writer import CheckpointWriter
from disttrain.errors import StorageError

LONG_S = 30


class Gated(dict):
    """Arrays whose writing starts and then waits for a gate, in `items`, which a writer calls first."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.begun, self.gate = threading.Event(), threading.Event()

    def items(self):
        self.begun.set()
        assert self.gate.wait(LONG_S)
        return super().items()


def at(step, arrays=None):
    return Checkpoint(Position(1, step), {}, arrays if arrays is not None else {"w": np.full(10, step)})


@pytest.fixture
def failures():
    return []


@pytest.fixture
def writer(tmp_path, failures):
    with CheckpointWriter(CheckpointStore(str(tmp_path / "c"), keep=100), failures.append) as writer:
        yield writer


@pytest.fixture
def held(writer):
    """A writer that is writing the checkpoint of step 0 until the gate is set."""
    arrays = Gated({"w": np.zeros(10)})
    writer.submit(at(0, arrays))
    assert arrays.begun.wait(LONG_S)
    yield writer, arrays.gate
    arrays.gate.set()


def steps(tmp_path):
    return [position_of(name).step for name in CheckpointStore(str(tmp_path / "c"), keep=1).names()]


def test_all_is_saved_once_waited_for(tmp_path, writer, failures):
    assert writer.submit(at(1), {"loss": 0.5})
    writer.wait(LONG_S)
    assert not writer.is_busy
    assert writer.last_s > 0
    newest = CheckpointStore(str(tmp_path / "c"), keep=1).newest(print)
    assert newest.about == {"values": {"loss": 0.5}}
    writer.wait(0)  # with nothing to wait for
    assert failures == []


def test_a_newer_one_replaces_one_that_waits(tmp_path, held):
    writer, gate = held
    begun_s = time.monotonic()
    assert [writer.submit(at(step)) for step in (1, 2, 3)] == [True] * 3
    assert time.monotonic() - begun_s < 1
    assert writer.is_busy
    gate.set()
    writer.wait(LONG_S)
    assert steps(tmp_path) == [0, 3]


def test_one_that_must_be_saved_is_not_replaced(tmp_path, held):
    writer, gate = held
    assert writer.submit(at(1))
    assert writer.submit(at(2), must=True)  # replaces the one that need not
    assert not writer.submit(at(3))
    gate.set()
    writer.wait(LONG_S)
    assert steps(tmp_path) == [0, 2]


def test_one_that_must_be_saved_waits_for_another_that_must(tmp_path, held):
    writer, gate = held
    assert writer.submit(at(1), must=True)
    thread = threading.Thread(target=lambda: writer.submit(at(2), must=True))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    gate.set()
    thread.join(LONG_S)
    writer.wait(LONG_S)
    assert steps(tmp_path) == [0, 1, 2]


def test_waiting_has_an_end(held):
    writer, _ = held
    with pytest.raises(StorageError, match="was not saved within 0 s"):
        writer.wait(0.1)


def test_closing_finishes_what_was_submitted_and_takes_no_more(tmp_path, held):
    writer, gate = held
    writer.submit(at(1))
    threading.Timer(0.2, gate.set).start()
    writer.close()
    assert steps(tmp_path) == [0, 1]
    writer.close()  # a second time does nothing
    with pytest.raises(StorageError, match="after its writer was closed"):
        writer.submit(at(2))


def test_a_failure_is_told_once_and_the_next_one_is_saved(tmp_path, writer, failures):
    (tmp_path / "c").write_text("in the way")
    for step in (1, 2):
        writer.submit(at(step))
        with pytest.raises(StorageError, match="cannot be"):
            writer.wait(LONG_S)
        assert len(failures) == step
        assert failures[-1].startswith(str(tmp_path / "c"))
    os.remove(tmp_path / "c")
    writer.submit(at(3))
    writer.wait(LONG_S)
    assert len(failures) == 2
    assert steps(tmp_path) == [3]


def test_a_fault_of_ours_is_told_too(tmp_path, writer, failures):
    writer.submit(at(1, {"w": np.array([{}])}))
    with pytest.raises(TypeError, match="array w"):
        writer.wait(LONG_S)
    assert failures == ["TypeError: array w: dtype object cannot be kept in a checkpoint"]


def test_a_failure_to_tell_ends_no_writing(tmp_path):
    told = []

    def fail(text):
        told.append(text)
        raise OSError("the terminal is gone")

    with CheckpointWriter(CheckpointStore(str(tmp_path / "c"), keep=100), fail) as writer:
        writer.submit(at(1, {"w": np.array([{}])}))
        with pytest.raises(OSError, match="terminal"):
            writer.wait(LONG_S)
        writer.submit(at(2))
        writer.wait(LONG_S)
    assert steps(tmp_path) == [2]
    assert len(told) == 1


def test_what_is_saved_takes_no_memory_any_more(writer):
    array = np.zeros(10)
    gone = weakref.ref(array)
    writer.submit(at(1, {"w": array}))
    del array
    writer.wait(LONG_S)
    deadline = time.monotonic() + LONG_S
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None


def test_a_writer_that_is_stuck_does_not_hold_up_the_end_of_the_program(tmp_path):
    program = (
        "import os, sys, threading, numpy as np\n"
        "from disttrain.checkpoints.file import Checkpoint, Position\n"
        "from disttrain.checkpoints.store import CheckpointStore\n"
        "from disttrain.checkpoints.writer import CheckpointWriter\n"
        "class Stuck(dict):\n"
        "    def items(self): begun.set(); threading.Event().wait()\n"
        "begun = threading.Event()\n"
        "writer = CheckpointWriter(CheckpointStore(sys.argv[1], keep=1), print)\n"
        "writer.submit(Checkpoint(Position(1, 1), {}, Stuck())); begun.wait()\n"
    )
    begun_s = time.monotonic()
    subprocess.run([sys.executable, "-c", program, tmp_path / "c"], check=True, timeout=LONG_S, cwd=ROOT)
    assert time.monotonic() - begun_s < LONG_S / 2
    assert CheckpointStore(str(tmp_path / "c"), keep=1).names() == []
