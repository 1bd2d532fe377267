"""One worker of a compiled collective without Horovod: `collective_worker.py RANK SIZE FOLDER [end|stay]`.

The workers tell each other what they need to join through files of FOLDER. Each leaves what it summed and gathered
there,
to be compared. With `end`, the last rank ends instead of meeting the others, which print what they raise.
"""

import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from disttrain.distributed import compiled
from disttrain.distributed.backend import World
from disttrain.distributed.compiled import CollectiveLost

LENGTHS = (1, 7, 170, 16_383, 16_384, 100_003, 3_000_001)  # floats; the last is several slots long
ROUNDS = 100


def values(rank, length):
    """Numbers of very different sizes, so that the order of adding them shows."""
    chance = np.random.default_rng([rank, length])
    return (chance.standard_normal(length) * 10.0 ** chance.integers(-8, 8, length)).astype(np.float32)


def gather_by_files(folder, rank, size):
    """Returns a function that gathers through the folder."""
    turns = iter(range(100))

    def gather(value):
        turn = next(turns)
        part = folder / f"{turn}-{rank}.part"
        part.write_bytes(pickle.dumps(value))
        part.rename(folder / f"{turn}-{rank}")
        paths = [folder / f"{turn}-{other}" for other in range(size)]
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        return [pickle.loads(path.read_bytes()) for path in paths]

    return gather


def main(rank, size, folder, ends):
    compiled.SHARED_FOLDER = str(folder)  # so that a test sees what is left, whatever other runs do meanwhile
    library = compiled.load()
    collective = compiled.join(library, World(rank, size, rank, size), gather_by_files(folder, rank, size))
    if ends:
        wait_in_vain(collective, is_victim=rank == size - 1)
        return
    found = {}
    for length in LENGTHS:
        for in_xla in (True, False):
            reduce = tf.function(lambda flat, in_xla=in_xla: collective.reduce(flat, in_xla=in_xla), jit_compile=in_xla)
            found[f"{length} {in_xla}"] = reduce(tf.constant(values(rank, length))).numpy()
    found["half"] = tf.function(lambda flat: collective.reduce(flat, in_xla=True), jit_compile=True)(
        tf.constant([1.5 + rank, 70_000.0], tf.float16)
    ).numpy()

    @tf.function(jit_compile=True)
    def rounds(flat):
        for _ in tf.range(ROUNDS):
            flat = collective.reduce(flat, in_xla=True) * 0.25  # exact, unlike a quotient, of which XLA makes a product
        return flat

    found["rounds"] = rounds(tf.constant(values(rank, 170))).numpy()
    found["sum"] = collective.sum(np.array([[rank + 0.5, 1e300]]))
    found["gathered"] = collective.gather({"rank": rank, "long": bytes([rank]) * (rank * 6_000_000)})
    arrays = [np.full((), rank, np.int64), np.full((3, 700_000), rank, np.float32)]
    variables = [tf.Variable(array) for array in arrays]
    collective.broadcast(variables)
    found["broadcast"] = [variable.numpy() for variable in variables]
    collective.check()
    (folder / f"found-{rank}").write_bytes(pickle.dumps(found))
    collective.gather(None)
    collective.close()


def wait_in_vain(collective, is_victim):
    assert collective.gather(os.getpid())
    if is_victim:
        os._exit(9)
    begun_s = time.monotonic()
    total = tf.function(lambda flat: collective.reduce(flat, in_xla=True), jit_compile=True)(tf.ones([170])).numpy()
    assert np.isnan(total).all()
    for meet in (collective.check, lambda: collective.gather(1), lambda: collective.sum(np.ones(2))):
        try:
            meet()
        except CollectiveLost as error:
            print(error, flush=True)
    assert time.monotonic() - begun_s < 10


if __name__ == "__main__":
    number, count, place, how = sys.argv[1:]
    main(int(number), int(count), Path(place), how == "end")
