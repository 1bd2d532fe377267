"""The statistics' pass and the encoder, beside the parser of plain numbers and other programs' summaries.

python -m benchmarks.columns [--rows N] [--repeats N]. In one process, from memory (the page cache): rows/s of the
parser, of the statistics' pass, of scaled numbers, and of categories; polars' `describe` and DuckDB's `SUMMARIZE`,
where they are installed, each with all cores that the pass has.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import median_s, write_json
from disttrain.data.csv.encoded_parser import compile_encoder
from disttrain.data.csv.headers import HowRead, read_text
from disttrain.data.csv.kept_statistics import StatisticsOf
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.data.table.columns import Column, Table
from disttrain.data.table.gathering import compile_sums
from disttrain.data.table.values import GAP_WORDS
from disttrain.threads import DaemonPool, num_cores

ROWS_AT_ONCE = 1 << 16


def parse(source: Source) -> None:
    """Parses all rows in this thread."""
    pool = DaemonPool(1, "read")
    rows = source.rows([Range(0, source.num_rows)], pool, block_bytes=8 << 20)
    out = np.empty((ROWS_AT_ONCE, source.num_columns), np.float32)
    for start in range(0, source.num_rows, ROWS_AT_ONCE):
        rows.fill(out[: min(ROWS_AT_ONCE, source.num_rows - start)])
    pool.close()


def measure(place: Path, num_rows: int, repeats: int) -> list[dict[str, object]]:
    """Prints rows/s of each way, and returns them."""
    results: list[dict[str, object]] = []
    draw = np.random.default_rng(0)
    numbers, texts = place / "numbers.csv", place / "texts.csv"
    x = draw.random((num_rows, 2))
    numbers.write_text("x,y\n" + "".join(f"{a:.8f},{b:.8f}\n" for a, b in x))
    words = np.array([f"word{number}" for number in range(1000)])[draw.integers(0, 1000, (num_rows, 2))]
    texts.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in words))
    compile_sums()
    compile_encoder()
    cores = num_cores(1)

    def gather(path: Path, threads: int) -> None:
        with OpenCsv.choose(read_text([str(path)], HowRead(place))) as opened:
            wanted = StatisticsOf(opened, (), GAP_WORDS)
            wanted.join([wanted.gather(0, 1, threads)])

    def show(name: str, work: Callable[[], object], base: float = 0.0) -> float:
        work()
        rate = num_rows / median_s(work, repeats)
        results.append({"way": name, "rows_per_s": rate})
        print(f"{name:44} {rate / 1e6:6.1f} M rows/s" + (f" {rate / base:6.2f}" if base else ""), flush=True)
        return rate

    with Source.open(str(numbers), cache_dir=place) as plain:
        base = show("parser, two numbers, one core", lambda: parse(plain))
        scaled = plain.encoded(Table((Column("x", "number", offset=0.5, scale=0.3), Column("y", "number", "target"))))
        show("scaled numbers, one core", lambda: parse(scaled), base)
    with Source.open(str(texts), cache_dir=place) as source:
        known = tuple(f"word{number}" for number in range(1000))
        table = Table((Column("a", "category", categories=known), Column("b", "category", "target", categories=known)))
        show("two categories, one core", lambda: parse(source.encoded(table)), base)
    show("statistics of numbers, one core", lambda: gather(numbers, 1), base)
    show(f"statistics of numbers, {cores} cores", lambda: gather(numbers, cores))
    show(f"statistics of categories, {cores} cores", lambda: gather(texts, cores))
    try:
        import polars
    except ImportError:
        return results
    show(f"polars.scan_csv().describe(), {cores} cores", lambda: polars.scan_csv(numbers).describe())
    try:
        import duckdb
    except ImportError:
        return results
    show(f"DuckDB's SUMMARIZE, {cores} cores", lambda: duckdb.sql(f"SUMMARIZE FROM '{numbers}'").fetchall())
    return results


def main() -> None:
    """Writes the files, measures, and removes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        results = measure(Path(place), options.rows, options.repeats)
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
