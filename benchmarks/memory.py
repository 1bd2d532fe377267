"""Measures the peak memory of whole runs, by the number of rows and by how these are read.

    python -m benchmarks.memory
    python -m benchmarks.memory --rows 1e3 5e6 500e6 --json memory.json
    python -m benchmarks.memory --data five_hundred.csv --how keras none

Each run is a process of its own: `python -m disttrain` for one epoch (two with the cache). Its peak is the most that it
ever had in memory (`ru_maxrss`). `keras` is what TensorFlow needs by itself: `model.fit` on a single batch. Files are
made and removed in TMPDIR one after the other; they take 22 bytes a row, and 8 more for the cache.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ROOT, print_table, write_json
from disttrain.synthetic.regression import Recipe, make_data

KERAS = "keras"
# Options of disttrain; KEPT stands for an empty directory.
KEPT = "KEPT"
HOWS = {
    "none": ["--epochs", "1"],
    "global": ["--epochs", "1", "--shuffle", "global"],
    "cache": ["--epochs", "2", "--cache", KEPT],
}
BATCH_SIZE = 250


def main():
    options = parse_options()
    results = []
    with tempfile.TemporaryDirectory(prefix="disttrain-benchmark-") as scratch:
        if KERAS in options.how:
            add(results, "one batch", KERAS, peak_bytes(keras_command(Path(scratch)), Path(scratch)))
        for name, path in files(options, Path(scratch)):
            for how in HOWS:
                if how in options.how:
                    with tempfile.TemporaryDirectory(dir=scratch) as place:
                        command = disttrain_command(path, HOWS[how], Path(place))
                        add(results, name, how, peak_bytes(command, Path(place)))
    report(results)
    if options.json:
        write_json(options.json, results)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e3, 5e6, 50e6], help="of the files [1e3 5e6 50e6]")
    parser.add_argument("--data", type=Path, nargs="+", help="these files instead of those that are made")
    hows = [KERAS, *HOWS]
    parser.add_argument("--how", nargs="+", choices=hows, default=hows, help=f"[{' '.join(hows)}]")
    parser.add_argument("--json", help="write results, machine and versions to this file")
    return parser.parse_args()


def files(options, scratch):
    """Yields the name and path of each file, which is made when its turn comes."""
    if options.data:
        yield from ((path.name, path.resolve()) for path in options.data)
        return
    for rows in map(int, options.rows):
        path = scratch / "data.csv"
        make_data(str(path), Recipe(rows, noise=0.1), overwrite=True)
        yield f"{rows:,} rows", path


def keras_command(scratch):
    path = scratch / "batch.csv"
    make_data(str(path), Recipe(BATCH_SIZE))
    return [sys.executable, "-m", "benchmarks.generator_script", path, BATCH_SIZE, BATCH_SIZE, 1]


def disttrain_command(path, flags, place):
    flags = [place / "kept" if flag == KEPT else flag for flag in flags]
    arguments = ["--data", path, "--batch-size", BATCH_SIZE, "--output", place / "run", "--cache-dir", place / "index"]
    return [sys.executable, "-m", "disttrain", *arguments, *flags]


def peak_bytes(command, place):
    """Runs a command and returns the peak memory of its process, in bytes."""
    log = place / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=stream, stderr=stream)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{process.args} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return used.ru_maxrss * 1024


def add(results, file, how, peak):
    results.append({"file": file, "how": how, "peak_bytes": peak})
    print(f"{file}, {how}: {peak / 1e6:.0f} MB", file=sys.stderr, flush=True)


def report(results):
    """Prints each peak, and how much it is above that of Keras alone."""
    alone = next((result["peak_bytes"] for result in results if result["how"] == KERAS), None)
    table = []
    for result in results:
        above = "" if alone is None else f"{(result['peak_bytes'] - alone) / 1e6:.0f}"
        table.append([result["file"], result["how"], f"{result['peak_bytes'] / 1e6:.0f}", above])
    print_table(["file", "how", "peak MB", "above keras"], table)


if __name__ == "__main__":
    main()
