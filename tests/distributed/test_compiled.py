"""The compiled collective: exact sums, lost workers, and runs that cannot use it."""

import os
import pickle
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
from collective_worker import LENGTHS, ROUNDS, values
from command import ROOT, disttrain, environment, regression_rows, write_csv

from disttrain.distributed import compiled
from disttrain.distributed.compiled import slot_bytes
from disttrain.distributed.horovod import load_collective
from disttrain.distributed.launched import launched_on_one_machine

WORKER = ROOT / "tests" / "collective_worker.py"
OPTIONS = ("--data", "data.csv", "--batch-size", 30, "--epochs", 2)


def workers(tmp_path, size, how):
    """Runs some workers to their end; returns their exit codes and what they printed."""
    environ = environment(tmp_path, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), str(size), tmp_path, how],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in started]
    return [process.returncode for process in started], said


@pytest.mark.slow
def test_every_worker_gets_the_same_exact_sums_in_the_order_of_ranks(tmp_path):
    codes, said = workers(tmp_path, 3, "stay")
    assert codes == [0, 0, 0], said
    everyones = [pickle.loads((tmp_path / f"found-{rank}").read_bytes()) for rank in range(3)]
    for found in everyones:
        for length in LENGTHS:
            expected = values(0, length) + values(1, length) + values(2, length)
            for in_xla in (True, False):
                np.testing.assert_array_equal(found[f"{length} {in_xla}"], expected)
        np.testing.assert_array_equal(found["half"], np.array([7.5, np.inf], np.float16))
        expected = [values(rank, 170) for rank in range(3)]
        for _ in range(ROUNDS):
            expected = [(expected[0] + expected[1] + expected[2]) * np.float32(0.25)] * 3
        np.testing.assert_array_equal(found["rounds"], expected[0])
        np.testing.assert_array_equal(found["sum"], [[4.5, 3e300]])
        assert found["gathered"] == [{"rank": rank, "long": bytes([rank]) * (rank * 6_000_000)} for rank in range(3)]
        assert [array.dtype for array in found["broadcast"]] == [np.int64, np.float32]
        assert all((array == 0).all() for array in found["broadcast"])
    assert not list(tmp_path.glob("disttrain-*"))


@pytest.mark.slow
def test_a_worker_that_ends_is_named_to_those_that_wait_for_it(tmp_path):
    codes, said = workers(tmp_path, 3, "end")
    assert codes == [0, 0, 9], said
    told = [[line for line in text.splitlines() if line.startswith("rank")] for text in said[:2]]
    assert told == [["rank 2 ended while others waited for it"] * 3] * 2, (
        said
    )  # TensorFlow may greet each CPU otherwise


def test_all_slots_together_fit_into_the_shared_memory_of_a_container():
    for size in (2, 3, 8, 64):
        assert slot_bytes(size) % 64 == 0
        assert 2 * size * slot_bytes(size) <= 32 << 20
    assert slot_bytes(1000) == 64 << 10


@pytest.mark.parametrize(
    ("environ", "is_so"),
    [
        ({"HOROVOD_LOCAL_SIZE": "2", "HOROVOD_SIZE": "2"}, True),
        ({"HOROVOD_LOCAL_SIZE": "2", "HOROVOD_SIZE": "4"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "2"}, False),
        ({"MPI_LOCALNRANKS": "8", "PMI_SIZE": "8"}, True),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, False),  # a launcher that does not say
    ],
)
def test_launchers_say_whether_all_workers_are_on_one_machine(environ, is_so):
    assert launched_on_one_machine(environ) == is_so
    if not is_so:
        with pytest.raises(ImportError, match="the workers are on several machines"):
            load_collective("compiled", environ)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compiled")
    write_csv(directory / "data.csv", *regression_rows(2003))  # the last step is short on some shards only
    (directory / "digests.py").write_text(DIGESTS)
    return directory


DIGESTS = """
import hashlib
import keras

class Digest(keras.callbacks.Callback):
    "Prints this rank's own weights, in short, at each epoch's end."

    def on_epoch_end(self, epoch, logs=None):
        arrays = [v.numpy() for v in (*self.model.trainable_variables, *self.model.optimizer.variables)]
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]
        print(f"(epoch {epoch} {digest})", flush=True)

def callbacks():
    return [Digest()]
"""


def run(place, name, processes, *options, **environ):
    """Trains, and returns the output and the digests of each epoch, one for each rank."""
    done = disttrain(
        place, *OPTIONS, "--callbacks", "digests:callbacks", "--output", name, *options, processes=processes, **environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line[line.index("(epoch ") + 7 :].split() for line in done.stdout.splitlines() if "(epoch " in line]
    return done.stdout, {number: [digest for epoch, digest in told if epoch == number] for number in "01"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--collective", "horovod"),
        ("--num-shards", 3),  # twice as many rows on one worker as on the other
        ("--hidden", 64, "--compression", "fp16"),  # too large to be one function
    ],
)  # more workers, from run to run, and losses: tests/training/test_training.py
def test_the_weights_are_equal_to_the_bit_on_both_ranks(place, options):
    said, digests = run(place, "-".join(["run", *map(str, options)]), 2, *options)
    assert ("(compiled all-reduce)" in said) == ("horovod" not in options)
    for of_epoch in digests.values():
        assert len(of_epoch) == 2
        assert len(set(of_epoch)) == 1


@pytest.mark.slow
def test_a_library_that_does_not_load_costs_nothing_but_speed_unless_it_is_asked_for(place):
    folder = place / "broken"
    folder.mkdir()
    (folder / f"{compiled.LIBRARY}{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"for another TensorFlow")
    path = os.pathsep.join([str(folder), str(ROOT), str(place)])
    said, _ = run(place, "slow", 2, PYTHONPATH=path)
    assert "(Horovod's all-reduce, as the compiled one does not load: " in said
    done = disttrain(place, *OPTIONS, "--collective", "compiled", "--output", "none", processes=2, PYTHONPATH=path)
    assert done.returncode != 0
    assert "disttrain: rank 0: --collective compiled: the compiled one does not load: " in done.stderr
