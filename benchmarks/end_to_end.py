"""Compares the generator script, tuned tf.data and disttrain at the whole job, from CSV to trained model, on one file.

    python -m benchmarks.end_to_end
    python -m benchmarks.end_to_end --contender generator disttrain --rows 100e6 --json end_to_end.json

Each contender runs alone; the slow ones train on the first rows of the file only. `horovod` is two processes that
average their weights every 64 steps. `horovod-cached` is the same, but caches its rows in the first epoch and reads
the cache in all others. A training rate is the rows of an epoch divided by the seconds of the median epoch, without the
first one (which compiles, and fills the cache). A process rate is all rows trained divided by the wall time of the
whole process, including start-up, compiling and indexing.
"""

import argparse
import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, print_table, printed, write_json
from disttrain.synthetic.regression import Recipe, make_data

CONTENDERS = ("generator", "tfdata", "disttrain", "horovod", "horovod-cached")
COMPARED_WITH = ("generator", "tfdata", "horovod")
LAUNCHERS = ("mpi.sh", "horovod.sh")  # of launch/, the faster one first: the first that can start here is used
BATCH_SIZE = 250


@dataclass(frozen=True)
class Run:
    """One process of one contender; `epochs` has the seconds and the loss of each epoch."""

    rows: int
    epochs: list[dict[str, float]]
    process_s: float

    @property
    def rows_per_s(self):
        return self.rows / statistics.median(epoch["seconds"] for epoch in self.epochs[1:])

    @property
    def process_rows_per_s(self):
        return self.rows * len(self.epochs) / self.process_s


def main():
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="disttrain-benchmark-") as scratch:
        options.data = os.path.abspath(options.data or made(options.rows, Path(scratch)))
        num_rows = count_rows(options.data)
        runs = {name: [] for name in contenders(options)}
        for repeat in range(options.repeats):  # contenders take turns, so that a busy minute affects them all
            for name, found in runs.items():
                found.append(run(name, num_rows, options, Path(scratch) / f"{name}-{repeat}"))
                print(f"{name}: {found[-1].rows_per_s:,.0f} rows/s", file=sys.stderr, flush=True)
    results = {name: summary(found) for name, found in runs.items()}
    report(results)
    if options.json:
        write_json(options.json, results)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CSV with columns x,y; default: one is made and removed")
    parser.add_argument("--rows", type=count, default=20_000_000, help="rows of the made file [20e6]")
    parser.add_argument("--generator-rows", type=count, default=250_000, help="of an epoch of the script [250e3]")
    parser.add_argument("--tfdata-rows", type=count, default=1_000_000, help="of an epoch of tf.data [1e6]")
    parser.add_argument("--epochs", type=count, default=3, help="2 or more [3]")
    parser.add_argument("--repeats", type=count, default=1, help="processes of each; medians are shown [1]")
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--disttrain-flags", default="", help='more options of disttrain, as "--threads 1"')
    parser.add_argument("--horovod-flags", default="--sync-every 64", help="of two processes [--sync-every 64]")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="of two processes [mpi.sh, where there is MPI]")
    parser.add_argument("--json", help="write results, machine and versions to this file")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be 2 or more: the first one compiles")
    if options.data and not os.path.isfile(options.data):
        parser.error(f"--data {options.data}: no such file")
    return options


def count(text):
    return int(float(text))


def made(num_rows, scratch):
    make_data(str(scratch / "data.csv"), Recipe(num_rows, noise=0.1))
    return scratch / "data.csv"


def contenders(options):
    """Returns the contenders that can run here; sets `options.launcher`, which starts two processes."""
    if not any(name.startswith("horovod") for name in options.contender):
        return options.contender
    wanted = [options.launcher] if options.launcher else LAUNCHERS
    tried = {script: subprocess.run(launched(script, "--dry-run"), capture_output=True, text=True) for script in wanted}
    options.launcher = next((script for script, done in tried.items() if done.returncode == 0), None)
    if options.launcher:
        return options.contender
    print("horovod is left out:", *(done.stderr.strip() for done in tried.values()), sep="\n", file=sys.stderr)
    return [name for name in options.contender if not name.startswith("horovod")]


def launched(script, *arguments):
    return ["env", f"PYTHON={sys.executable}", ROOT / "launch" / script, "-np", "2", *arguments]


def count_rows(path):
    """Counts the lines below the header; this also brings the file into the page cache, so that no contender has to."""
    lines = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(8 << 20):
            lines += block.count(b"\n")
    return lines - 1


def run(name, num_rows, options, scratch):
    scratch.mkdir()
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    begun_s = time.perf_counter()
    output = printed(command_of(name, num_rows, options, scratch), environment)
    process_s = time.perf_counter() - begun_s
    if name in ("generator", "tfdata"):
        return Run(process_s=process_s, **json.loads(output.splitlines()[-1]))
    rows, epochs = read_history(scratch / "run" / "history.csv")
    return Run(rows, epochs, process_s)


def command_of(name, num_rows, options, scratch):
    heads = {"generator": options.generator_rows, "tfdata": options.tfdata_rows}
    if name in heads:
        numbers = (min(heads[name], num_rows), BATCH_SIZE, options.epochs)
        return [sys.executable, "-m", f"benchmarks.{name}_script", options.data, *numbers]
    arguments = ["--data", options.data, "--epochs", options.epochs, "--batch-size", BATCH_SIZE]
    arguments += ["--output", scratch / "run", "--cache-dir", scratch / "cache"]
    if name == "disttrain":
        return [sys.executable, "-m", "disttrain", *arguments, *shlex.split(options.disttrain_flags)]
    if name == "horovod-cached":
        arguments += ["--cache", scratch / "rows"]
    return launched(options.launcher, "--", *arguments, *shlex.split(options.horovod_flags))


def read_history(path):
    with open(path, encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    epochs = [{"seconds": float(record["seconds"]), "loss": float(record["loss"])} for record in records]
    return int(records[0]["rows"]), epochs


def summary(runs):
    """Returns the medians over the repeats, and the slowest and the fastest rate."""
    rates = [run.rows_per_s for run in runs]
    return {
        "rows": runs[0].rows,
        "epochs": len(runs[0].epochs),
        "rows_per_s": statistics.median(rates),
        "rows_per_s_min": min(rates),
        "rows_per_s_max": max(rates),
        "first_epoch_s": statistics.median(run.epochs[0]["seconds"] for run in runs),
        "process_s": statistics.median(run.process_s for run in runs),
        "process_rows_per_s": statistics.median(run.process_rows_per_s for run in runs),
        "loss": statistics.median(run.epochs[-1]["loss"] for run in runs),
    }


def report(results):
    baselines = [name for name in COMPARED_WITH if name in results]
    titles = ["contender", "rows/epoch", "rows/s", *(f"x {name}" for name in baselines), "process s", "process rows/s"]
    table = []
    for name, found in results.items():
        ratios = [f"{found['rows_per_s'] / results[baseline]['rows_per_s']:.3g}" for baseline in baselines]
        rates = [f"{found['process_s']:.1f}", f"{found['process_rows_per_s']:,.0f}"]
        table.append(
            [name, f"{found['rows']:,}", f"{found['rows_per_s']:,.0f}", *ratios, *rates, f"{found['loss']:.5f}"]
        )
    print_table([*titles, "loss"], table)


if __name__ == "__main__":
    main()
