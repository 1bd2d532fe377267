"""How well numbers train as they are, by their size and offset: what the rule of `--scale auto` was taken from.

python -m benchmarks.scaling [--rows N]. A smooth function of one feature is learnt, whose numbers are multiplied by a
size and shifted by an offset (in standard deviations), or whose target is; each with `--scale none` and `--scale
standard`, all else as by default. The last column is the ratio of the errors on held-out rows: above 1, scaling helps.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import print_table, write_json

SIZES = (0.01, 0.03, 0.1, 0.3, 1.0, 4.0, 10.0, 30.0)
OFFSETS = (2.0, 4.0, 8.0, 16.0)
CASES = [(what, size, 0.0) for what in ("feature", "target") for size in SIZES]
CASES += [(what, 1.0, offset) for what in ("feature", "target") for offset in OFFSETS]


def write(path: Path, rows: int, seed: int, what: str, size: float, offset: float) -> None:
    """Writes rows of y = sin(2 x), both with mean 0 and standard deviation 1, before one of them is changed."""
    x = np.random.default_rng(seed).uniform(-np.sqrt(3), np.sqrt(3), rows)
    y = np.sin(2 * x) / 0.715
    x, y = (x * size + offset, y) if what == "feature" else (x, y * size + offset)
    np.savetxt(path, np.stack([x, y], 1), fmt="%.9g", delimiter=",", header="x,y", comments="")


def error(place: Path, scale: str) -> float:
    """Returns the mean absolute error on held-out rows after a training."""
    files = ["--data", "train.csv", "--validation-data", "test.csv"]
    command = [sys.executable, "-m", "disttrain", *files, "--scale", scale, "--output", "run", "--overwrite"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    with (place / "run" / "history.csv").open() as stream:
        return float(list(csv.DictReader(stream))[-1]["val_loss"])


def main() -> None:
    """Trains each case both ways, and prints the errors in units of the target's standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for what, size, offset in CASES:
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            write(place / "train.csv", options.rows, 0, what, size, offset)
            write(place / "test.csv", 2_000, 1, what, size, offset)
            unit = size if what == "target" else 1.0
            plain, scaled = (error(place, scale) / unit for scale in ("none", "standard"))
        results.append({"what": what, "size": size, "offset": offset, "none": plain, "standard": scaled})
    titles = ["of the", "size", "offset", "as it is", "scaled", "ratio"]
    lines = [[r["what"], r["size"], r["offset"], f"{r['none']:.4f}", f"{r['standard']:.4f}"] for r in results]
    ratios = [f"{r['none'] / r['standard']:.2f}" for r in results]
    print_table(titles, [[*map(str, line), ratio] for line, ratio in zip(lines, ratios, strict=True)])
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
