"""Measures the all-reduce: of the job's gradient, and in a step of a larger model compared with one process alone.

python -m benchmarks.allreduce
python -m benchmarks.allreduce --launcher 'horovodrun --mpi -np 2'
"""

import argparse
import json
import os
import shlex
import statistics
import sys

import numpy as np

from benchmarks.measure import median_s, print_table, printed, write_json

JOB_FLOATS = 169 + 1  # the gradient of the 1-16-8-1 network, and the loss, which is reduced with it
LARGE = {"features": 30, "hidden": (512, 256), "batch_size": 8192, "steps": 8}
REDUCTIONS = 200  # in one call of the graph
RESULT = "allreduce-result "


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.allreduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--launcher", default="horovodrun -np 2", help="what starts two workers")
    parser.add_argument("--turns", type=int, default=3, help="how often the two take turns")
    parser.add_argument("--repeats", type=int, default=9, help="calls of which a turn takes the median")
    parser.add_argument("--json", help="also write the results here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.repeats)
        return
    alone, together = [], []
    for _ in range(options.turns):
        alone.append(turn("", options.repeats))
        together.append(turn(options.launcher, options.repeats))
    ratio = statistics.median(two["step_s"] / one["step_s"] for one, two in zip(alone, together, strict=True))
    reduce_us = statistics.median(two["reduce_s"] for two in together) * 1e6
    print_table(
        ["what", "one process", "two processes", "ratio"],
        [
            [f"all-reduce of {JOB_FLOATS} floats, us", "-", f"{reduce_us:.0f}", "-"],
            [
                f"step of 30-512-256-1, batch {LARGE['batch_size']}, ms",
                f"{statistics.median(one['step_s'] for one in alone) * 1e3:.1f}",
                f"{statistics.median(two['step_s'] for two in together) * 1e3:.1f}",
                f"{ratio:.2f}",
            ],
        ],
    )
    if options.json:
        write_json(options.json, {"alone": alone, "together": together, "step_ratio": ratio, "reduce_us": reduce_us})


def turn(launcher, repeats):
    """Starts new workers, or one process without a launcher, and returns what the leader measured."""
    command = [*shlex.split(launcher), sys.executable, "-m", "benchmarks.allreduce", "--worker", "--repeats", repeats]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = printed(command, environ)
    return json.JSONDecoder().raw_decode(output[output.index(RESULT) + len(RESULT) :])[0]


def work(repeats):
    import keras
    import tensorflow as tf

    from disttrain.data.superbatches import Superbatch
    from disttrain.distributed.backend import BackendOptions
    from disttrain.distributed.registry import open_backend
    from disttrain.training.engine import Engine
    from disttrain.training.model import dense_network

    backend = open_backend("auto", os.environ, BackendOptions(num_devices=1, threads=1))
    model = dense_network(LARGE["features"], LARGE["hidden"], 1)
    model.compile(keras.optimizers.Adam(), loss="mae")
    engine = Engine(model, backend, LARGE["features"])
    engine.synchronize()
    shape = (LARGE["steps"], LARGE["batch_size"], LARGE["features"] + 1)
    data = np.random.default_rng(0).random(shape, np.float32)
    global_rows = np.full(LARGE["steps"], LARGE["batch_size"] * backend.world.size)
    rows = Superbatch(data, 0, global_rows, (LARGE["batch_size"],))

    def steps():
        return list(engine.train(engine.copy_to_devices(rows), steps_per_superstep=LARGE["steps"]))

    step_s = median_s(steps, repeats) / LARGE["steps"]
    reduce_s = median_s(reductions(tf, backend), repeats) / REDUCTIONS
    if backend.world.is_leader:
        print(RESULT + json.dumps({"step_s": step_s, "reduce_s": reduce_s}), flush=True)
    backend.close()


def reductions(tf, backend):
    """Returns a function that runs many all-reduces in one call of a graph, each on the result of the last."""

    @tf.function
    def loop(flat):
        for _ in tf.range(REDUCTIONS):
            flat = backend.reduce(flat) * 0.5
        return flat

    return lambda: loop(tf.ones([JOB_FLOATS])).numpy()


if __name__ == "__main__":
    main()
