"""Measures the all-reduce by itself and within steps, with the compiled collective, with Horovod's and with neither.

    python -m benchmarks.allreduce
    python -m benchmarks.allreduce --launcher 'horovodrun --gloo -np 2'

All rows are in memory. Each turn starts new processes for each network, and for the all-reduce by itself: one process
alone, the workers with the compiled collective, and the workers with Horovod's. Medians of the turns are shown.
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
VECTORS = (JOB_FLOATS, 10_000, 150_000, 2_000_000)  # floats
# What is measured: of a network features, units, rows of a worker's step, and steps of a call.
MEASURED = {
    "job": (1, (16, 8), 250, 4000),
    "batch-1000": (30, (512, 256), 1000, 40),
    "batch-8192": (30, (512, 256), 8192, 8),
    "vectors": None,
}
CONTENDERS = {"alone": None, "compiled": "compiled", "horovod": "horovod"}
RESULT = "allreduce-result "


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.allreduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--launcher", default="horovodrun -np 2", help="what starts the workers")
    parser.add_argument("--turns", type=int, default=3, help="how often the contenders take turns")
    parser.add_argument("--repeats", type=int, default=9, help="calls of which a turn takes the median")
    parser.add_argument("--json", help="also write the results here")
    parser.add_argument("--measure", nargs="+", choices=MEASURED, default=list(MEASURED), help="[all]")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, *options.measure, options.repeats)
        return
    turns = {name: [] for name in CONTENDERS}
    for _ in range(options.turns):
        for name, found in turns.items():
            launcher = options.launcher if CONTENDERS[name] else ""
            parts = [turn(name, launcher, what, options.repeats) for what in options.measure]
            found.append({what: seconds for part in parts for what, seconds in part.items()})
    medians = {name: median_of(found) for name, found in turns.items()}
    alone, compiled, horovod = medians.values()
    rows = [
        [
            *(what, us(alone, what), us(compiled, what), ratio(compiled, alone, what)),
            *(us(horovod, what), ratio(horovod, alone, what), ratio(horovod, compiled, what)),
        ]
        for what in compiled
    ]
    print_table(["us", "alone", "compiled", "over alone", "horovod", "over alone", "over compiled"], rows)
    if options.json:
        write_json(options.json, {"turns": turns, "medians": medians})


def median_of(turns):
    return {what: statistics.median(turn[what] for turn in turns) for what in turns[0]}


def us(medians, what):
    return f"{medians[what] * 1e6:,.1f}" if what in medians else "-"


def ratio(medians, others, what):
    return f"{medians[what] / others[what]:.2f}" if what in others else "-"


def turn(name, launcher, what, repeats):
    """Starts new processes and returns what the leader measured, in seconds."""
    if what == "vectors" and not launcher:
        return {}
    options = ("--worker", name, "--measure", what, "--repeats", repeats)
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = printed([*shlex.split(launcher), sys.executable, "-m", "benchmarks.allreduce", *options], environ)
    return json.JSONDecoder().raw_decode(output[output.index(RESULT) + len(RESULT) :])[0]


def work(name, what, repeats):
    from disttrain.distributed.backend import BackendOptions
    from disttrain.distributed.registry import open_backend

    options = BackendOptions(num_devices=1, threads=1, collective=CONTENDERS[name] or "auto")
    backend = open_backend("auto", os.environ, options)
    if what == "vectors":
        seconds = {f"all-reduce of {length:,} floats": reduce_s(backend, length, repeats) for length in VECTORS}
    else:
        num_features, hidden, batch_size, _ = MEASURED[what]
        network = "-".join(map(str, (num_features, *hidden, 1)))
        seconds = {f"step of {network}, batch {batch_size}": step_s(backend, *MEASURED[what], repeats)}
    if backend.world.is_leader:
        print(RESULT + json.dumps(seconds), flush=True)
    backend.close()


def step_s(backend, num_features, hidden, batch_size, num_steps, repeats):
    """Returns the seconds of a step, rows of which are in memory."""
    import keras

    from disttrain.data.superbatches import Superbatch
    from disttrain.training.engine import Engine
    from disttrain.training.model import dense_network

    model = dense_network(num_features, hidden, 1)
    model.compile(keras.optimizers.Adam(), loss="mae")
    engine = Engine(model, backend, num_features, rows_per_step=batch_size)
    engine.synchronize()
    data = np.random.default_rng(0).random((num_steps, batch_size, num_features + 1), np.float32)
    rows = Superbatch(data, 0, np.full(num_steps, batch_size * backend.world.size), (batch_size,), is_full=True)

    def steps():
        return list(engine.train(engine.copy_to_devices(rows), steps_per_superstep=num_steps))

    return median_s(steps, repeats) / num_steps


def reduce_s(backend, length, repeats):
    """Returns the seconds of an all-reduce, many of which are one call, each of the result of the last."""
    import tensorflow as tf

    number = max(2_000_000 // length // 10, 5)

    @tf.function(jit_compile=backend.fuses_steps)
    def loop(flat):
        for _ in tf.range(number):
            flat = backend.reduce(flat, in_xla=backend.fuses_steps) * 0.5
        return flat

    return median_s(lambda: loop(tf.ones([length])).numpy(), repeats) / number


if __name__ == "__main__":
    main()
