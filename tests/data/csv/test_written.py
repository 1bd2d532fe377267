"""Tables that other programs wrote, read back to the last value; tests/written/make.py says how each was written."""

import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.headers import HowRead, read_text
from disttrain.data.csv.index import build_index
from disttrain.data.csv.kept_statistics import StatisticsOf
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.data.table.values import GAP_WORDS
from disttrain.threads import DaemonPool

WRITTEN = Path(__file__).resolve().parents[2] / "written"
sys.path.insert(0, str(WRITTEN))
from make import NAMES, ROWS, table  # noqa: E402

NUMBERS = ("id", "large", "exact", "tiny")
COMMAS = Dialect(";", decimal=",")
# The files, and how they have to be asked for where it is not found out.
FILES = {
    "pandas.csv": {},
    "pandas.csv.gz": {},
    "pandas-de.csv": {"dialect": COMMAS, "encoding": "latin-1"},
    "polars.csv": {},
    "polars.tsv": {},
    "duckdb.csv": {},
    "duckdb.csv.zst": {},
    "r.csv": {},
    "r-de.csv": {"dialect": COMMAS},
    "r.txt": {"dialect": Dialect(" ")},
    "libreoffice.csv": {},
    "libreoffice-de.csv": {"dialect": COMMAS},
    "postgresql.csv": {},
    "postgresql.psv": {},
}


def opened(name, kept_in, features):
    asked = FILES[name]
    how = HowRead(
        kept_in, "yes", asked.get("dialect", Dialect()), finds_delimiter="dialect" not in asked,
        encoding=asked.get("encoding", "utf-8"),
    )  # fmt: skip
    return OpenCsv.choose(read_text([str(WRITTEN / name)], how), features=features, targets=["id"])


def test_all_files_are_tried():
    assert set(FILES) == {path.name for path in WRITTEN.iterdir() if path.suffix not in (".py", "")}


@pytest.mark.parametrize("name", FILES)
def test_the_numbers_are_those_that_were_written(tmp_path, name):
    expected = np.array([row[:4] for row in table()], np.float64).astype(np.float32)
    if name.startswith("libreoffice"):  # which writes three digits of tiny numbers, as it shows them
        with (WRITTEN / name).open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter=";"))
        expected[:, 3] = [row["tiny"].replace(",", ".") for row in rows]
    if name.startswith("r"):  # 15 digits of those: one unit in the last place of float32 at most
        np.testing.assert_allclose(rows_of(name, tmp_path)[:, 3], expected[:, 3], rtol=1e-7)
        expected[:, 3] = rows_of(name, tmp_path)[:, 3]
    np.testing.assert_array_equal(rows_of(name, tmp_path), expected)


def rows_of(name, kept_in):
    with opened(name, kept_in, NUMBERS[1:]) as found:
        source, pool = Source.of(found, build_index(found.text)), DaemonPool(1, "read")
        try:
            rows = source.rows([Range(0, ROWS)], pool, block_bytes=4096).take(ROWS)
        finally:
            pool.close()
    return np.roll(rows, 1, axis=1)  # the target first


@pytest.mark.parametrize("name", FILES)
def test_texts_and_gaps_are_those_that_were_written(tmp_path, name):
    rows = table()
    with opened(name, tmp_path, ["text", "gap"]) as found:
        wanted, index = StatisticsOf(found, (), GAP_WORDS), build_index(found.text)
        statistics = wanted.join([wanted.gather(0, 1, 1, index)], index).statistics
    assert {text: count for text, count in statistics.of("text").values if text} == Counter(
        row[5] for row in rows if row[5]
    )
    numbers = [row[4] for row in rows if row[4] is not None]
    gaps = statistics.of("gap")
    assert gaps.numbers == len(numbers)
    assert gaps.missing == ROWS - len(numbers)
    assert gaps.mean == pytest.approx(np.mean(numbers), rel=1e-12)
    assert (gaps.min, gaps.max) == (min(numbers), max(numbers))


def test_the_table_has_these_columns():
    assert (*NUMBERS, "gap", "text") == NAMES
