"""How fast rows are found in a file that lies in the page cache: GB/s of wall time and per core.

    python -m benchmarks.index [--gigabytes 1] [--repeats 5] [--threads 1 2] [--json FILE]

Beside it, in the same run, stands `wc -l`, which counts line feeds only.
"""

import argparse
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import median_s, print_table, write_json
from disttrain.header import read_header
from disttrain.index import build_index
from disttrain.newlines import count_rows, find_row
from disttrain.storage import open_reader

FILES = {"two columns": (2, "\n"), "two columns, CRLF": (2, "\r\n"), "30 columns": (30, "\n")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of each file (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes (default: 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()], help="numbers of threads")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    count_rows()  # compile before anything is timed
    find_row()
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for name, (num_columns, end) in FILES.items():
            path = Path(directory) / "file.csv"
            size = write_csv(path, num_columns, end, options.gigabytes * 1e9)
            results.append(timed(name, "wc -l", size, options.repeats, partial(count_with_wc, path)))
            for threads in dict.fromkeys(options.threads):
                how = f"index, {threads} threads" if threads > 1 else "index, 1 thread"
                results.append(timed(name, how, size, options.repeats, partial(index, path, threads)))
    titles = ["file", "how", "GB/s", "GB/s per core"]
    print_table(titles, [[r["file"], r["how"], f"{r['gb_per_s']:.2f}", f"{r['gb_per_core_s']:.2f}"] for r in results])
    if options.json:
        write_json(options.json, results)


def write_csv(path, num_columns, end, num_bytes):
    """The same ten thousand rows again and again; returns the bytes written."""
    values = np.random.default_rng(0).normal(size=(10_000, num_columns))
    piece = "".join(",".join(f"{value:.6f}" for value in row) + end for row in values).encode()
    with open(path, "wb") as stream:
        for _ in range(max(int(num_bytes / len(piece)), 1)):
            stream.write(piece)
    return path.stat().st_size


def index(path, num_threads):
    with open_reader(str(path)) as reader:
        return build_index(reader, read_header(reader), num_threads=num_threads)


def count_with_wc(path):
    subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)


def timed(file, how, size, repeats, function):
    used = os.times()
    begun = used.user + used.system + used.children_user + used.children_system
    calls = 0

    def counted():
        nonlocal calls
        calls += 1
        function()

    seconds = median_s(counted, repeats)
    used = os.times()
    core_s = (used.user + used.system + used.children_user + used.children_system - begun) / calls
    return {"file": file, "how": how, "gb_per_s": size / seconds / 1e9, "gb_per_core_s": size / core_s / 1e9}


if __name__ == "__main__":
    main()
