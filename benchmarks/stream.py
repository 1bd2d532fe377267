"""Measures how fast rows are streamed, without training on them: in file order, shuffled, from the epoch cache.

    python -m benchmarks.stream [--rows 20e6] [--columns 2 30] [--batch-size 250] [--shards 1] [--json FILE]

The files and the epoch cache are in the page cache. The contenders take turns, so that other load on the machine
affects them alike; the table has each one's fastest epoch.
"""

import argparse
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from benchmarks.measure import print_table, write_json
from disttrain.data.csv.parser import compile_kernels
from disttrain.data.csv.source import Source
from disttrain.data.epoch import SUPERBATCH_BYTES, EpochPlan
from disttrain.data.row_cache import open_cache
from disttrain.data.sharding import Sharding
from disttrain.data.shuffle import EpochOrder, compile_permutation
from disttrain.data.superbatches import superbatches
from disttrain.synthetic.regression import Recipe, make_data

# name, order, whether a cache is used, whether it is empty at first
CONTENDERS = [
    ("none", "none", False, False),
    ("shard", "shard", False, False),
    ("global", "global", False, False),
    ("none, filling the cache", "none", True, True),
    ("none, from the cache", "none", True, False),
    ("shard, from the cache", "shard", True, False),
    ("global, from the cache", "global", True, False),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=20e6, help="rows of two columns; more columns, fewer rows")
    parser.add_argument("--columns", type=int, nargs="+", default=[2, 30], help="files to make (default: 2 30)")
    parser.add_argument("--batch-size", type=int, default=250, help="rows that a shard gives to a step (default: 250)")
    parser.add_argument("--shards", type=int, default=1, help="shards that the one worker holds (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each contender (default: 5)")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    compile_kernels()
    compile_permutation()
    results = []
    for columns in options.columns:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "file.csv"
            make_data(path, Recipe(int(options.rows * 2 / columns), columns - 1, 0.1, 0), overwrite=False)
            with Source.open(str(path), cache_dir=Path(directory)) as source:
                results += measured(source, Path(directory) / "kept", options)
    titles = ["columns", "how", "rows/s", "CSV MB/s", "x none", "ns of processor a row"]
    print_table(titles, [line(result, results) for result in results])
    if options.json:
        write_json(options.json, results)


def measured(source, kept, options):
    """Returns a result for each contender, that of its fastest epoch."""
    one_epoch(source, EpochOrder(), None, options)  # brings the file into the page cache
    best = {}
    for repeat in range(1, options.repeats + 1):
        for name, mode, uses_cache, is_empty in CONTENDERS:
            if is_empty:
                shutil.rmtree(kept, ignore_errors=True)
            with open_cache(kept, source) if uses_cache else nullcontext() as cache:
                used = one_epoch(source, EpochOrder(mode, 0, repeat), cache, options)
            best[name] = min(best.get(name, used), used)
    of_file = {"columns": source.num_columns, "rows": source.num_rows, "csv_bytes": source.text.info.size_bytes}
    return [{"how": name, **of_file, "wall_s": best[name][0], "cpu_s": best[name][1]} for name, *_ in CONTENDERS]


def one_epoch(source, order, cache, options):
    """Copies an epoch's superbatches, as TensorFlow does; returns the seconds of wall time and of processor time."""
    batch_bytes = options.batch_size * options.shards * source.num_columns * 4
    steps = max(SUPERBATCH_BYTES // batch_bytes, 1)
    copy = np.empty((steps, options.batch_size * options.shards, source.num_columns), np.float32)
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    sharding = Sharding(source.num_rows, options.shards, options.batch_size)
    plan = EpochPlan(sharding, range(options.shards), steps, order)
    with superbatches(source, plan, cache=cache) as stream:
        for superbatch in stream:
            num_steps, num_rows, _ = superbatch.data.shape
            np.copyto(copy[:num_steps, :num_rows], superbatch.data)
    return time.perf_counter() - begun_s, time.process_time() - begun_cpu_s


def line(result, results):
    (plain,) = (other for other in results if (other["columns"], other["how"]) == (result["columns"], "none"))
    return [
        str(result["columns"]),
        result["how"],
        f"{result['rows'] / result['wall_s'] / 1e6:.2f} M",
        f"{result['csv_bytes'] / result['wall_s'] / 1e6:.0f}",
        f"{plain['wall_s'] / result['wall_s']:.2f}",
        f"{result['cpu_s'] / result['rows'] * 1e9:.1f}",
    ]


if __name__ == "__main__":
    main()
