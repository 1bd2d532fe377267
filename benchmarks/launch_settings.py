"""Measures each setting of the launchers: runs the job with two workers, as launched and with one setting changed.

The workers use Horovod's all-reduce, as on several machines; the compiled one of a single machine needs no settings.

    python -m benchmarks.launch_settings
    python -m benchmarks.launch_settings --job small --settings 'cycle 1 ms' 'no yielding' --turns 5

A turn runs every setting once, one after the other, so that other load on the machine affects all of them alike. A
ratio is a run's rows/s divided by those of the run as launched in the same turn; the table has the medians over the
turns.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ROOT, print_table, printed, write_json
from disttrain.synthetic.regression import Recipe, make_data

AS_LAUNCHED = "as launched"
# The script, and the variables that are set in its environment.
SETTINGS = {
    AS_LAUNCHED: ("mpi.sh", {}),
    "cycle 1 ms": ("mpi.sh", {"HOROVOD_CYCLE_TIME": "1"}),
    "cycle 0.01 ms": ("mpi.sh", {"HOROVOD_CYCLE_TIME": "0.01"}),
    "no fusion": ("mpi.sh", {"HOROVOD_FUSION_THRESHOLD": "0"}),
    "no yielding": ("mpi.sh", {"OMPI_MCA_mpi_yield_when_idle": "0"}),
    "bound to a core": ("mpi.sh", {"DISTTRAIN_MPIRUN_FLAGS": "--bind-to core"}),
    "2 threads": ("mpi.sh", {"DISTTRAIN_THREADS": "2"}),
    "Gloo": ("horovod.sh", {}),
    "Gloo, cycle 1 ms": ("horovod.sh", {"HOROVOD_CYCLE_TIME": "1"}),
}
OPTIONS = ["--collective", "horovod"]
# Features and rows of the data, and options: the job's network, with and without local steps, and a larger one.
JOBS = {
    "small": (1, 400_000, []),
    "local": (1, 4_000_000, ["--sync-every", "64"]),
    "large": (30, 80_000, ["--hidden", "512,256", "--batch-size", "1000"]),
}
EPOCHS = 4


def main():
    options = parse_options()
    results = {}
    with tempfile.TemporaryDirectory(prefix="disttrain-benchmark-") as scratch:
        for job in options.job:
            num_features, rows, _ = JOBS[job]
            make_data(str(Path(scratch, f"{job}.csv")), Recipe(rows, num_features=num_features, noise=0.1))
            results[job] = {setting: [] for setting in options.settings}
            for _ in range(options.turns):
                for setting, found in results[job].items():
                    found.append(run(job, setting, Path(scratch)))
                    print(f"{job}, {setting}: {found[-1]:,.0f} rows/s", file=sys.stderr, flush=True)
    report(results)
    if options.json:
        write_json(options.json, {"rows_per_s": results})


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="beside those launched")
    parser.add_argument("--turns", type=int, default=3, help="runs of each setting [3]")
    parser.add_argument("--json", help="write results, machine and versions to this file")
    options = parser.parse_args()
    options.settings = [AS_LAUNCHED, *(name for name in options.settings if name != AS_LAUNCHED)]
    return options


def run(job, setting, scratch):
    """Returns the rows per second of one run: the median of its epochs, without the first."""
    script, environ = SETTINGS[setting]
    output = Path(tempfile.mkdtemp(dir=scratch))
    command = [ROOT / "launch" / script, "-np", "2", "--", "--data", scratch / f"{job}.csv", "--epochs", EPOCHS]
    command += [
        *OPTIONS,
        *JOBS[job][2],
        "--checkpoint-every",
        "never",
        "--cache",
        scratch / "rows",
        "--output",
        output / "run",
    ]
    environ = {**os.environ, "PYTHON": sys.executable, "DISTTRAIN_CACHE_DIR": str(scratch / "cache"), **environ}
    printed(command, environ)
    with (output / "run" / "history.csv").open(encoding="utf-8", newline="") as file:
        epochs = list(csv.DictReader(file))[1:]
    return int(epochs[0]["rows"]) / statistics.median(float(epoch["seconds"]) for epoch in epochs)


def report(results):
    table = []
    for setting in next(iter(results.values())):
        ratios = [
            statistics.median(mine / base for mine, base in zip(found[setting], found[AS_LAUNCHED], strict=True))
            for found in results.values()
        ]
        table.append([setting, *(f"{ratio:.2f}" for ratio in ratios)])
    print_table(["setting", *(f"{job}, ratio" for job in results)], table)
    rates = (f"{job} {statistics.median(found[AS_LAUNCHED]):,.0f}" for job, found in results.items())
    print(f"rows/s as launched: {', '.join(rates)}")


if __name__ == "__main__":
    main()
