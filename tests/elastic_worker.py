"""A worker of an elastic run, for test_membership.py: counts the uses of each row in a vector that all workers sum."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from disttrain.checkpoints.commits import RunDefaults, WorldChanged
from disttrain.checkpoints.file import Checkpoint, Position
from disttrain.distributed.backend import BackendOptions
from disttrain.elastic import membership

NUM_ROWS, ROWS_PER_STEP, STEPS_PER_CALL, NUM_CALLS = 16_000, 8, 10, 200
HELD_FROM = 1500  # no further step is taken from here until there is a file `finish`
CALL_S = 0.05
DIES_IN_START = sys.argv[1:]  # hosts whose workers exit once all have met, while the others start Horovod
BALLAST = np.arange(100, dtype=np.float16).reshape(4, 25)


def say(message):
    print(f"[{os.environ['HOROVOD_HOSTNAME']} {os.getpid()}] {message}", flush=True)


def attempt(backend, commits):
    world, last = backend.world, commits.last
    say(f"rank {world.rank} of {world.size}")
    if commits.change is not None and world.is_leader:
        say(commits.change.news(world.size, last.position if last else None))
    commits.defaults = commits.defaults or RunDefaults("", num_shards=world.size)
    counts = tf.Variable(last.arrays["counts"] if last else tf.zeros([NUM_ROWS]))
    assert last is None or np.array_equal(last.arrays["ballast"], BALLAST)
    first = last.position.step if last else 0

    @tf.function
    def call(step):
        stop = step + STEPS_PER_CALL
        while step < stop:  # a step has the same rows in every world; only who takes which differs
            mine = tf.range(step * ROWS_PER_STEP + world.rank, (step + 1) * ROWS_PER_STEP, world.size)
            ones = tf.scatter_nd(mine[:, None], tf.ones_like(mine, tf.float32), [NUM_ROWS])
            counts.assign_add(backend.reduce(ones))
            step += 1

    def is_wanted(step):
        while True:
            wanted, may_end = backend.sum(np.array([commits.change_wanted, Path("finish").exists()], np.float64))
            if wanted or may_end or step < HELD_FROM:
                return wanted > 0
            time.sleep(CALL_S)

    for step in range(first, NUM_CALLS * STEPS_PER_CALL, STEPS_PER_CALL):
        call(tf.constant(step))
        time.sleep(CALL_S)
        wanted = is_wanted(step)
        done = step + STEPS_PER_CALL
        if wanted or done % (3 * STEPS_PER_CALL) == 0:
            arrays = {"counts": counts.numpy(), "ballast": BALLAST, "none": np.zeros((0, 2), bool)}
            commits.keep(Checkpoint(Position(1, done), {"by": world.rank}, arrays))
            say(f"committed {done}")
        if wanted:
            raise WorldChanged
    backend.gather("trained")
    say(f"began with {commits.defaults.num_shards}")
    return counts.numpy()


if __name__ == "__main__":
    if os.environ["HOROVOD_HOSTNAME"] in DIES_IN_START:
        membership.start_horovod = lambda settings: os._exit(9)
    counts = membership.run_elastic(attempt, os.environ, BackendOptions(threads=1))
    say(f"counted each of {len(counts)} rows once: {bool((counts == 1).all())}")
