"""The job from CSV to trained model: the generator script, tuned tf.data and disttrain, side by side on one file.

    python -m benchmarks.end_to_end
    python -m benchmarks.end_to_end --contender generator disttrain --rows 100e6 --json end_to_end.json

Each contender is a process of its own, on the head of the same file with as many rows as it can do in seconds. Its
training rate is the rows of an epoch over the seconds of its median epoch, the first (which compiles) left out; its
process rate is all rows trained over the wall time of the whole process, start-up, compiling and indexing included.
"""

import argparse
import csv
import itertools
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import print_table, write_json
from disttrain.makedata import Recipe, make_data

ROOT = Path(__file__).parents[1]
CONTENDERS = ("generator", "tfdata", "disttrain", "horovod")
BATCH_SIZE = 250


@dataclass(frozen=True)
class Run:
    """One process of one contender: `epochs` holds seconds and loss of each."""

    rows: int
    epochs: list[dict[str, float]]
    process_s: float

    @property
    def rows_per_s(self):
        return self.rows / statistics.median(epoch["seconds"] for epoch in self.epochs[1:])

    @property
    def process_rows_per_s(self):
        return self.rows * len(self.epochs) / self.process_s


@dataclass(frozen=True)
class Contender:
    """What one contender trains on: the first `rows` rows of `data`."""

    name: str
    data: str
    rows: int


def main():
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="disttrain-benchmark-") as scratch:
        contenders = prepare(options, Path(scratch))
        runs = {contender.name: [] for contender in contenders}
        for repeat in range(options.repeats):  # contenders take turns, so that a busy minute meets all of them
            for contender in contenders:
                done = run(contender, options, Path(scratch) / f"{contender.name}-{repeat}")
                runs[contender.name].append(done)
                print(f"{contender.name}: {done.rows_per_s:,.0f} rows/s", file=sys.stderr, flush=True)
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
    parser.add_argument("--horovod-rows", type=count, default=2_000_000, help="of an epoch of two processes [2e6]")
    parser.add_argument("--epochs", type=count, default=3, help="2 or more [3]")
    parser.add_argument("--repeats", type=count, default=1, help="processes of each; medians are shown [1]")
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--disttrain-flags", default="", help='more options of disttrain, as "--threads 1"')
    parser.add_argument("--horovod-flags", default="", help="more options of disttrain under Horovod")
    parser.add_argument("--launcher", default="horovodrun -np 2", help="[horovodrun -np 2]")
    parser.add_argument("--json", help="write results, machine and versions to this file")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be 2 or more: the first one compiles")
    if options.data and not os.path.isfile(options.data):
        parser.error(f"--data {options.data}: no such file")
    return options


def count(text):
    return int(float(text))


def prepare(options, scratch):
    """The contenders that can run here, each with its part of the file."""
    data = options.data or str(scratch / "data.csv")
    if not options.data:
        make_data(data, Recipe(options.rows, noise=0.1))
    num_rows = count_rows(data)
    wanted = {
        "generator": options.generator_rows,
        "tfdata": options.tfdata_rows,
        "disttrain": num_rows,
        "horovod": options.horovod_rows,
    }
    contenders = []
    for name in options.contender:
        rows = min(wanted[name], num_rows)
        if name == "horovod" and not shutil.which(shlex.split(options.launcher)[0]):
            print(f"horovod is left out: {options.launcher} cannot be started here", file=sys.stderr)
            continue
        whole = name != "horovod" or rows == num_rows
        contenders.append(Contender(name, data if whole else write_head(data, rows, scratch / "head.csv"), rows))
    return contenders


def write_head(data, num_rows, path):
    with open(data, "rb") as source, open(path, "wb") as head:
        head.writelines(itertools.islice(source, num_rows + 1))
    return str(path)


def count_rows(path):
    """Lines below the header; reading them also brings the file into the page cache, so that no contender pays."""
    lines = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(8 << 20):
            lines += block.count(b"\n")
    return lines - 1


def run(contender, options, scratch):
    scratch.mkdir()
    command = command_of(contender, options, scratch)
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    begun_s = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    process_s = time.perf_counter() - begun_s
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    if contender.name in ("disttrain", "horovod"):
        rows, epochs = read_history(scratch / "run" / "history.csv")
    else:
        printed = json.loads(done.stdout.splitlines()[-1])
        rows, epochs = printed["rows"], printed["epochs"]
    return Run(rows, epochs, process_s)


def command_of(contender, options, scratch):
    data = os.path.abspath(contender.data)
    if contender.name in ("generator", "tfdata"):
        numbers = [str(number) for number in (contender.rows, BATCH_SIZE, options.epochs)]
        return [sys.executable, "-m", f"benchmarks.{contender.name}_script", data, *numbers]
    command = [sys.executable, "-m", "disttrain", "--data", data, "--epochs", str(options.epochs)]
    command += [
        "--batch-size",
        str(BATCH_SIZE),
        "--output",
        str(scratch / "run"),
        "--cache-dir",
        str(scratch / "cache"),
    ]
    if contender.name == "horovod":
        return [*shlex.split(options.launcher), *command, *shlex.split(options.horovod_flags)]
    return [*command, *shlex.split(options.disttrain_flags)]


def read_history(path):
    with open(path, encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    epochs = [{"seconds": float(record["seconds"]), "loss": float(record["loss"])} for record in records]
    return int(records[0]["rows"]), epochs


def summary(runs):
    """Medians over the repeats, and the slowest and the fastest."""
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
    baselines = [name for name in ("generator", "tfdata") if name in results]
    titles = ["contender", "rows/epoch", "rows/s", *(f"x {name}" for name in baselines), "process s", "process rows/s"]
    table = []
    for name, found in results.items():
        ratios = [f"{found['rows_per_s'] / results[baseline]['rows_per_s']:.1f}" for baseline in baselines]
        rates = [f"{found['process_s']:.1f}", f"{found['process_rows_per_s']:,.0f}"]
        table.append(
            [name, f"{found['rows']:,}", f"{found['rows_per_s']:,.0f}", *ratios, *rates, f"{found['loss']:.5f}"]
        )
    print_table([*titles, "loss"], table)


if __name__ == "__main__":
    main()
