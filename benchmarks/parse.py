"""Measures the rows/s of disttrain's parser, pyarrow and polars on one core, from bytes in memory to float32 columns.

    python -m benchmarks.parse [--megabytes 64] [--turns 9] [--json FILE]

There are two files, made from a fixed seed: the two-column job (`0.48291273,0.48291273`), and 30 columns of numbers
over twelve orders of magnitude with 6 to 18 digits each, one in five with an exponent. The parsers take turns, and
processor time is counted, so that other load on the machine affects them alike; each figure is the median over the
turns.
"""

import argparse
import os
import statistics
import time

os.environ["POLARS_MAX_THREADS"] = "1"  # polars reads it when it is imported

import numpy as np
import polars
import pyarrow
from pyarrow import csv

from benchmarks.measure import print_table, write_json
from disttrain.data.csv.parser import Layout, compile_kernels, parse_rows


def job_file(num_bytes):
    values = np.random.default_rng(1).random(num_bytes // 22).tolist()
    return "".join(f"{value:.8f},{value:.8f}\n" for value in values).encode()


def wide_file(num_bytes):
    random = np.random.default_rng(2)
    shape = (num_bytes // 495, 30)
    values = random.standard_normal(shape) * 10 ** random.uniform(-6, 6, shape)
    digits = random.integers(6, 19, shape).tolist()
    exponents = (random.random(shape) < 0.2).tolist()
    rows = zip(values.tolist(), digits, exponents, strict=True)
    return "".join(",".join(map(_number_text, *row)) + "\n" for row in rows).encode()


def _number_text(value, digits, exponent):
    return f"{value:.{digits - 1}e}" if exponent else f"{value:.{digits}g}"


def parse_disttrain(data, num_columns):
    buffer = np.frombuffer(data, np.uint8)
    layout = Layout(num_columns, np.arange(num_columns, dtype=np.int32), num_columns)
    out = np.empty((data.count(b"\n"), num_columns), np.float32)
    return lambda: parse_rows(buffer, 0, len(buffer), layout, out)


def parse_pyarrow(data, num_columns):
    names = [str(column) for column in range(num_columns)]
    read = csv.ReadOptions(use_threads=False, column_names=names)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.float32()))
    return lambda: csv.read_csv(pyarrow.py_buffer(data), read_options=read, convert_options=convert)


def parse_polars(data, num_columns):
    schema = {str(column): polars.Float32 for column in range(num_columns)}
    return lambda: polars.read_csv(data, has_header=False, schema=schema)


PARSERS = {"disttrain": parse_disttrain, "pyarrow": parse_pyarrow, "polars": parse_polars}


def measure_file(data, num_columns, turns):
    """Returns the seconds of each turn by parser; the first turn, which warms up, is not counted."""
    parsers = {name: make(data, num_columns) for name, make in PARSERS.items()}
    times = {name: [] for name in parsers}
    for turn in range(turns + 1):
        for name, parse in parsers.items():
            begun_s = time.process_time()
            parse()
            if turn:
                times[name].append(time.process_time() - begun_s)
    return times


def results_of(data, times):
    num_rows = data.count(b"\n")
    return {
        name: {
            "rows_per_s": round(num_rows / statistics.median(taken)),
            "mb_per_s": round(len(data) / statistics.median(taken) / 1e6),
            "times_pyarrow": round(statistics.median(map(lambda a, b: a / b, times["pyarrow"], taken)), 2),
        }
        for name, taken in times.items()
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64, help="size of each file (default 64)")
    parser.add_argument("--turns", type=int, default=9, help="measured turns of each parser (default 9)")
    parser.add_argument("--json", help="also write the results to this file")
    options = parser.parse_args(argv)
    compile_s = compile_kernels()
    results = {"compile_or_load_s": round(compile_s, 2)}
    rows = []
    for title, make, num_columns in (("two columns", job_file, 2), ("30 columns", wide_file, 30)):
        data = make(options.megabytes * 10**6)
        results[title] = results_of(data, measure_file(data, num_columns, options.turns))
        for name, figures in results[title].items():
            rows.append([title, name, f"{figures['rows_per_s']:,}", figures["mb_per_s"], figures["times_pyarrow"]])
    print_table(["file", "parser, one core", "rows/s", "MB/s", "to pyarrow"], rows)
    print(f"compiling the parser, or loading it from the cache on disk: {compile_s:.2f} s")
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
