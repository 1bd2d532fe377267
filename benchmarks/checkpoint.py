"""What checkpoints cost: the same training without any, with one a minute, and with one a second.

    python -m benchmarks.checkpoint
    python -m benchmarks.checkpoint --model large --every never 1s --seconds 30 --repeats 3 --json checkpoint.json

Each run is a process of its own that trains one epoch, of about `--seconds`; its time is that of the epoch's training,
in which the checkpoints fall (the one at its end comes after). The runs of a round take turns, and a cost is the median
over the rounds of a run's time over that of the run without checkpoints in the same round. On a busy machine the cost
of one a minute drowns in the noise; "ms each" of one a second, over 60 s, tells it better.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import print_table, write_json
from disttrain.config import Every
from disttrain.makedata import Recipe, make_data

ROOT = Path(__file__).parents[1]
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
                    seconds, size_bytes = train(model, rows, every, Path(scratch))
                    results[model][every].append({"seconds": seconds, "checkpoint_bytes": size_bytes})
                    print(f"{model}, {every}: {seconds:.1f} s", file=sys.stderr, flush=True)
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
    """Each round begins with another, so that none has a place of its own."""
    number %= len(names)
    return [*names[number:], *names[:number]]


def rows_of(model, wanted_s, scratch):
    """How many rows an epoch of so many seconds has, by one that is long enough to tell."""
    rows = 10_000
    while True:
        seconds, _ = train(model, rows, "never", scratch)
        if seconds > CALIBRATION_S:
            return int(rows * wanted_s / seconds)
        rows = int(rows * min(2 * CALIBRATION_S / seconds, 20))


def train(model, rows, every, scratch):
    """The seconds of an epoch's training in a process of its own, and the bytes of its last checkpoint."""
    data, output = scratch / f"{rows}.csv", scratch / "run"
    if not data.exists():
        make_data(str(data), Recipe(rows, FEATURES, noise=0.1))
    hidden, batch_size = MODELS[model]
    command = [sys.executable, "-m", "disttrain", "--data", data, "--epochs", "1", "--batch-size", str(batch_size)]
    command += ["--hidden", ",".join(map(str, hidden)), "--checkpoint-every", every, "--output", output, "--overwrite"]
    environ = {**os.environ, "DISTTRAIN_CACHE_DIR": str(scratch / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"disttrain ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    with open(output / "history.csv", encoding="utf-8") as stream:
        (epoch,) = csv.DictReader(stream)
    kept = sorted((output / "checkpoints").glob("*.ckpt"))
    return float(epoch["seconds"]), kept[-1].stat().st_size if kept else 0


def report(results):
    rows = []
    for model, runs in results.items():
        bases = [run["seconds"] for run in runs["never"]]
        for every, found in runs.items():
            seconds = [run["seconds"] for run in found]
            costs = [mine / base - 1 for mine, base in zip(seconds, bases, strict=True)]
            interval_s = Every.parse(every).seconds if every != "never" else None
            each = f"{statistics.median(costs) * interval_s * 1e3:.1f}" if interval_s else ""
            cells = [f"{f(costs):+.1%}" if every != "never" else "" for f in (statistics.median, min, max)]
            size = f"{found[-1]['checkpoint_bytes'] / 1e6:.2f}"
            rows.append([f"{model}, {every}", f"{statistics.median(seconds):.1f}", size, *cells, each])
    print_table(["checkpoints", "s", "MB", "cost", "least", "most", "ms each"], rows)


if __name__ == "__main__":
    main()
