"""Measures what checkpoints cost: the same training without any, with one a minute, and with one a second.

    python -m benchmarks.checkpoint
    python -m benchmarks.checkpoint --model large --every never 1s --seconds 30 --repeats 3 --json checkpoint.json

Each run is a process of its own that trains one epoch of about `--seconds`. Its time is that of the epoch's training,
which includes the checkpoints except the one at the epoch's end. The runs of a round take turns. A cost is a run's time
divided by that of the run without checkpoints in the same round; the table has the median over the rounds. On a busy
machine the cost of one checkpoint a minute is lost in the noise: a single one's cost, measured with one a second and
divided by 60 s, is more precise. "CPU ms each" is the processor time of the whole process, including the writer's
thread; it depends least on what else runs.
"""

import argparse
import csv
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import print_table, printed, write_json
from disttrain.config.option_types import Every
from disttrain.synthetic.regression import Recipe, make_data

# Hidden units and batch size: the job's network, and 5.3 million weights (a checkpoint of 64 MB with Adam's state).
MODELS = {"small": ((16, 8), 1), "large": ((2048, 2560), 64)}
FEATURES = 8
CALIBRATION_S = 3.0
EVERY = ("never", "60s", "1s")


def main():
    options = parse_options()
    results = {}
    with tempfile.TemporaryDirectory(prefix="disttrain-benchmark-") as scratch:
        for model in options.model:
            rows = rows_of(model, options.seconds, Path(scratch))
            results[model] = {every: [] for every in options.every}
            for number in range(options.repeats):
                for every in rotated(options.every, number):
                    done = train(model, rows, every, Path(scratch))
                    results[model][every].append(done)
                    print(f"{model}, {every}: {done['seconds']:.1f} s", file=sys.stderr, flush=True)
    report(results)
    if options.json:
        write_json(options.json, results)


def parse_options():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--every", nargs="+", default=list(EVERY), help="values of --checkpoint-every; first never")
    parser.add_argument("--seconds", type=float, default=65.0, help="of an epoch: one checkpoint at one a minute [65]")
    parser.add_argument("--repeats", type=int, default=3, help="rounds [3]")
    parser.add_argument("--json", help="also write the results here")
    options = parser.parse_args()
    if options.every[0] != "never":
        parser.error("--every must begin with never: what the others are compared with")
    return options


def rotated(names, number):
    """Returns `names` rotated by `number`, so that each round begins with another one."""
    number %= len(names)
    return [*names[number:], *names[:number]]


def rows_of(model, wanted_s, scratch):
    """Returns how many rows an epoch of `wanted_s` seconds has, judged by a shorter one that is long enough to time."""
    rows, calibration_s = 10_000, min(CALIBRATION_S, wanted_s)
    while True:
        seconds = train(model, rows, "never", scratch)["seconds"]
        if seconds > calibration_s:
            return int(rows * wanted_s / seconds)
        rows = int(rows * min(2 * calibration_s / seconds, 20))


def train(model, rows, every, scratch):
    """Trains an epoch in a process of its own; returns its times, and the size of its last checkpoint."""
    data, output = scratch / f"{rows}.csv", scratch / "run"
    if not data.exists():
        make_data(str(data), Recipe(rows, FEATURES, noise=0.1))
    hidden, batch_size = MODELS[model]
    command = [sys.executable, "-m", "disttrain", "--data", data, "--epochs", "1", "--batch-size", str(batch_size)]
    command += ["--hidden", ",".join(map(str, hidden)), "--checkpoint-every", every, "--output", output, "--overwrite"]
    environ = {**os.environ, "DISTTRAIN_CACHE_DIR": str(scratch / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    before_s = cpu_s()
    printed(command, environ)
    with open(output / "history.csv", encoding="utf-8") as stream:
        (epoch,) = csv.DictReader(stream)
    kept = sorted((output / "checkpoints").glob("*.ckpt"))
    size_bytes = kept[-1].stat().st_size if kept else 0
    return {"seconds": float(epoch["seconds"]), "cpu_s": cpu_s() - before_s, "checkpoint_bytes": size_bytes}


def cpu_s():
    """Returns the processor time of the children that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(results):
    rows = []
    for model, runs in results.items():
        for every, found in runs.items():
            seconds = statistics.median(run["seconds"] for run in found)
            size = f"{found[-1]['checkpoint_bytes'] / 1e6:.2f}"
            rows.append([f"{model}, {every}", f"{seconds:.1f}", size, *costs(every, found, runs["never"])])
    print_table(["checkpoints", "s", "MB", "cost", "least", "most", "ms each", "CPU ms each"], rows)


def costs(every, found, bases):
    """Returns the table cells that compare runs with those without checkpoints."""
    interval_s = Every.parse(every).seconds if every != "never" else None
    if interval_s is None:
        return [""] * 5
    pairs = list(zip(found, bases, strict=True))
    ratios = [run["seconds"] / base["seconds"] - 1 for run, base in pairs]
    each_s = [
        statistics.median((run[key] - base[key]) / max(base["seconds"] // interval_s, 1) for run, base in pairs)
        for key in ("seconds", "cpu_s")
    ]
    return [f"{f(ratios):+.1%}" for f in (statistics.median, min, max)] + [f"{s * 1e3:.0f}" for s in each_s]


if __name__ == "__main__":
    main()
