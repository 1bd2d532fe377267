"""Measures how fast a file in the page cache is indexed: GB/s of wall time, and per core.

    python -m benchmarks.index [--gigabytes 1] [--repeats 5] [--threads 1 2] [--json FILE]
    python -m benchmarks.index --data five_hundred.csv --repeats 3

The same run times `wc -l` for comparison, which only counts line feeds.
"""

import argparse
import os
import resource
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import median_s, print_table, write_json
from disttrain.data.csv.header import read_header
from disttrain.data.csv.index import build_index
from disttrain.data.csv.row_scanner import count_rows, find_row
from disttrain.data.csv.text import CsvText
from disttrain.storage.open import open_reader

FILES = {"two columns": (2, "\n"), "two columns, CRLF": (2, "\r\n"), "30 columns": (30, "\n")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="this file instead of those that are made and removed")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of each file that is made (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes (default: 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()], help="numbers of threads")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    count_rows()  # compile before anything is timed
    find_row()
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for name, path in files(options, Path(directory)):
            size = path.stat().st_size
            results.append(timed(name, "wc -l", size, options.repeats, partial(count_with_wc, path)))
            for threads in dict.fromkeys(options.threads):
                how = f"index, {threads} threads" if threads > 1 else "index, 1 thread"
                results.append(timed(name, how, size, options.repeats, partial(index, path, threads)))
    print_table(["file", "how", "s", "GB/s", "GB/s per core"], map(line, results))
    if options.json:
        write_json(options.json, results)


def files(options, directory):
    """Yields the name and path of each file, which is made when its turn comes."""
    if options.data:
        yield options.data.name, options.data
        return
    for name, (num_columns, end) in FILES.items():
        write_csv(directory / "file.csv", num_columns, end, options.gigabytes * 1e9)
        yield name, directory / "file.csv"


def write_csv(path, num_columns, end, num_bytes):
    """Writes the same ten thousand rows again and again."""
    values = np.random.default_rng(0).normal(size=(10_000, num_columns))
    piece = "".join(",".join(f"{value:.6f}" for value in row) + end for row in values).encode()
    with open(path, "wb") as stream:
        for _ in range(max(int(num_bytes / len(piece)), 1)):
            stream.write(piece)


def index(path, num_threads):
    with open_reader(str(path)) as reader:
        return build_index(CsvText.of_one(reader, read_header(reader)), num_threads=num_threads)


def count_with_wc(path):
    subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)


def timed(file, how, size, repeats, function):
    begun_s, calls = cpu_s(), 0

    def counted():
        nonlocal calls
        calls += 1
        function()

    seconds = median_s(counted, repeats)
    core_s = (cpu_s() - begun_s) / calls
    rates = {"gb_per_s": size / seconds / 1e9, "gb_per_core_s": size / core_s / 1e9}
    return {"file": file, "how": how, "seconds": seconds, **rates}


def cpu_s():
    """Returns the processor time of this process and of its children that have ended, in seconds."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(times.ru_utime + times.ru_stime for times in used)


def line(result):
    figures = (f"{result[name]:.2f}" for name in ("seconds", "gb_per_s", "gb_per_core_s"))
    return [result["file"], result["how"], *figures]


if __name__ == "__main__":
    main()
