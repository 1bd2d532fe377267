"""Compares the training loop alone, on batches in memory: a superstep of disttrain with `jax.lax.scan`.

python -m benchmarks.step
python -m benchmarks.step --steps 1048 --batch-size 250 --repeats 30 --json step.json

Both train the job's 1-16-8-1 network with mean absolute error and Adam on the same batches, in one process with one
intra-op thread each. They take turns; a turn times one compiled call over all its steps, and repeats it.
"""

import argparse
import itertools
import json
import os
import statistics
import sys

import numpy as np

from benchmarks.measure import median_s, print_table, printed, write_json

CONTENDERS = ("disttrain", "jax")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1048, help="steps of one compiled call")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--turns", type=int, default=5, help="processes of each contender, one after the other")
    parser.add_argument("--repeats", type=int, default=30, help="calls of which a turn takes the median")
    parser.add_argument("--json", help="also write the results here")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)  # what a child process times
    options = parser.parse_args()
    if options.contender:
        run = {"disttrain": disttrain_call, "jax": jax_call}[options.contender](batches(options))
        print(json.dumps(median_s(run, options.repeats) / options.steps))
        return
    step_s = {name: [] for name in CONTENDERS}
    for _ in range(options.turns):
        for name in CONTENDERS:
            step_s[name].append(turn(name))
    ratios = [jax / ours for ours, jax in zip(step_s["disttrain"], step_s["jax"], strict=True)]
    medians = {name: statistics.median(times) for name, times in step_s.items()}
    print_table(
        ["contender", "us/step", "rows/s"],
        [[name, f"{s * 1e6:.1f}", f"{options.batch_size / s / 1e6:.2f}M"] for name, s in medians.items()],
    )
    print(f"disttrain's speed over jax.lax.scan's, median of {options.turns} turns: {statistics.median(ratios):.2f}")
    if options.json:
        write_json(options.json, {"step_s": step_s, "speed_over_jax": statistics.median(ratios)})


def turn(name):
    """Returns the median seconds of a step, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], "--contender", name]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    return json.loads(printed(command, environ))


def batches(options):
    """Returns float32 [steps, rows, 2]: x in [0, 1) and y = x."""
    x = np.random.default_rng(0).random((options.steps, options.batch_size, 1), np.float32)
    return np.concatenate([x, x], axis=2)


def disttrain_call(data):
    import keras

    from disttrain.data.superbatches import Superbatch
    from disttrain.distributed.backend import BackendOptions
    from disttrain.distributed.local import open_local
    from disttrain.training.engine import Engine
    from disttrain.training.model import dense_network

    backend = open_local(BackendOptions(threads=1))
    model = dense_network(1, (16, 8), 1)
    model.compile(keras.optimizers.Adam(), loss="mae")
    engine = Engine(model, backend, 1, rows_per_step=data.shape[1])
    rows = Superbatch(data, 0, np.full(len(data), data.shape[1]), data.shape[1:2])
    return lambda: list(engine.train(engine.copy_to_devices(rows), steps_per_superstep=len(data)))


def jax_call(data):
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # one intra-op thread, as disttrain has
    import jax
    import jax.numpy as jnp

    widths, random = (1, 16, 8, 1), np.random.default_rng(0)
    weights = [
        (jnp.asarray(random.normal(0, 0.3, shape), jnp.float32), jnp.zeros(shape[1]))
        for shape in itertools.pairwise(widths)
    ]

    def loss(weights, x, y):
        for kernel, bias in weights[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        return jnp.abs(x @ weights[-1][0] + weights[-1][1] - y).mean()

    def adam(state, batch):
        weights, first, second, step = state
        value, gradients = jax.value_and_grad(loss)(weights, batch[:, :1], batch[:, 1:])
        step = step + 1
        rate = 1e-3 * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        first = jax.tree.map(lambda m, g: m + (g - m) * 0.1, first, gradients)
        second = jax.tree.map(lambda v, g: v + (g * g - v) * 0.001, second, gradients)
        weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), weights, first, second)
        return (weights, first, second, step), value

    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = [(weights, zeros, zeros, jnp.float32(0))]
    scan = jax.jit(lambda state, data: jax.lax.scan(adam, state, data))

    def call():
        state[0], losses = scan(state[0], jnp.asarray(data))
        return np.asarray(losses)

    return call


if __name__ == "__main__":
    main()
