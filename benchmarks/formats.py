"""Measures what other dialects, many files and gzip cost: rows counted and rows parsed, as a share of a plain file's.

    python -m benchmarks.formats [--rows 4e6] [--repeats 5] [--json FILE]

The same two numbers in each row; a file in the page cache, one thread to count and one to parse. gzip is compared with
rapidgzip, which only decompresses.
"""

import argparse
import gzip
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import rapidgzip

from benchmarks.measure import median_s, print_table, write_json
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.headers import HowRead, read_text
from disttrain.data.csv.index import build_index
from disttrain.data.csv.normalizer import compile_dialects
from disttrain.data.csv.parser import compile_kernels
from disttrain.data.csv.row_scanner import count_rows, find_row
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.threads import DaemonPool, num_cores

ROWS_AT_ONCE = 1 << 16
NUM_FILES = 64
PLAIN = "plain"
DIALECTS = {
    "decimal comma": Dialect(";", decimal=","),
    "blanks": Dialect(" ", runs=True),
    "comments": Dialect(",", comment="#"),
    "quoted line breaks": Dialect(",", quoted_newlines=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=4e6, help="rows of the file (default: 4e6)")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes (default: 5)")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    for compile_one in (compile_kernels, compile_dialects, count_rows, find_row):
        compile_one()
    with tempfile.TemporaryDirectory() as directory:
        results = measured(Path(directory), int(options.rows), options.repeats)
    titles = ["file", "MB", "M rows/s counted", "share", "M rows/s parsed", "share"]
    plain = results[0]
    print_table(titles, [line(result, plain) for result in results])
    if options.json:
        write_json(options.json, results)


def measured(directory, num_rows, repeats):
    numbers = np.random.default_rng(0).random((num_rows, 2))
    text = "".join(f"{x:.6f},{y:.6f}\n" for x, y in numbers.tolist())
    path = directory / "a.csv"
    results = []

    def add(name, content, dialect=None):
        path.write_text(content)
        results.append(timed(name, str(path), num_rows, repeats, directory, dialect))

    add(PLAIN, "x,y\n" + text)
    add("decimal comma", "x;y\n" + text.replace(",", ";").replace(".", ","), DIALECTS["decimal comma"])
    add("blanks", "x y\n" + text.replace(",", "  "), DIALECTS["blanks"])
    add("comments", "x,y\n" + text, DIALECTS["comments"])
    add("quoted line breaks", "x,y\n" + text, DIALECTS["quoted line breaks"])
    parts = directory / "parts"
    parts.mkdir()
    lines = text.splitlines(keepends=True)
    each = -(-len(lines) // NUM_FILES)
    for number in range(NUM_FILES):
        (parts / f"{number:02}.csv").write_text("x,y\n" + "".join(lines[number * each : (number + 1) * each]))
    results.append(timed(f"{NUM_FILES} files", str(parts), num_rows, repeats, directory, None))
    packed = directory / "a.csv.gz"
    packed.write_bytes(gzip.compress(("x,y\n" + text).encode(), 6))
    results.append(timed("gzip", str(packed), num_rows, repeats, directory, None))
    seconds = median_s(partial(decompress, packed), repeats)
    results.append({"file": "rapidgzip alone", "bytes": packed.stat().st_size, "parsed": num_rows / seconds})
    return results


def timed(name, path, num_rows, repeats, directory, dialect):
    how = HowRead(directory / "kept", dialect=dialect or Dialect(), finds_delimiter=False)
    text = read_text([path], how)
    with text.reader:
        counted = num_rows / median_s(lambda: build_index(text), repeats)
    with Source.open(path, dialect=dialect, cache_dir=directory / "kept") as source:
        assert source.num_rows == num_rows
        parsed = num_rows / median_s(partial(parse, source), repeats)
    return {"file": name, "bytes": text.info.size_bytes, "counted": counted, "parsed": parsed}


def parse(source):
    """Parses all rows in this thread, as they are read ahead by another one."""
    pool = DaemonPool(1, "read")
    rows = source.rows([Range(0, source.num_rows)], pool, block_bytes=1 << 20)
    out = np.empty((ROWS_AT_ONCE, source.num_columns), np.float32)
    for start in range(0, source.num_rows, ROWS_AT_ONCE):
        rows.fill(out[: min(ROWS_AT_ONCE, source.num_rows - start)])
    pool.close()


def decompress(path):
    """Reads a file through, as its bytes are found out, in as many threads as there are cores."""
    buffer = bytearray(1 << 20)
    with rapidgzip.open(str(path), parallelization=num_cores()) as file:
        while file.readinto(buffer):
            pass


def line(result, plain):
    def cells(name):
        if name not in result:
            return ["", ""]
        return [f"{result[name] / 1e6:.1f}", f"{result[name] / plain[name]:.2f}"]

    return [result["file"], f"{result['bytes'] / 1e6:.0f}", *cells("counted"), *cells("parsed")]


if __name__ == "__main__":
    main()
