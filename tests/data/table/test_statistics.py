"""Statistics of columns: those that polars computes, and the same to the bit however the file is divided."""

import io

import numpy as np
import polars
import pytest

from disttrain.data.csv import index, statistics_pass, text
from disttrain.data.csv.headers import HowRead, read_text
from disttrain.data.csv.kept_statistics import StatisticsOf
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.table import gathering
from disttrain.data.table.statistics import Statistics
from disttrain.data.table.values import GAP_WORDS
from disttrain.errors import DataError

ROWS = 30_000


def table(seed, rows=ROWS):
    """A table of numbers of all sizes, with gaps, texts with delimiters and quotes, and times."""
    draw = np.random.default_rng(seed)
    cities = np.array(["Rome", "Paris, France", 'Oslo "N"', "Kyoto", "Lima"])
    minutes = draw.integers(0, 2_000_000, rows)

    def gaps(values, share):
        gone = draw.random(rows) < share
        return [None if is_gone else value for value, is_gone in zip(values, gone, strict=True)]

    return polars.DataFrame(
        {
            "small": draw.normal(1e-6, 1e-7, rows),
            "large": draw.normal(1.7e9, 50, rows),
            "whole": gaps(draw.integers(-50, 50, rows).tolist(), 0.1),
            "skewed": gaps(draw.lognormal(0, 3, rows).tolist(), 0.02),
            "city": gaps(cities[draw.integers(0, 5, rows)].tolist(), 0.05),
            "key": [f"k{number}" for number in draw.integers(0, 5000, rows)],
            "when": polars.Series((1_600_000_000 + 60 * minutes) * 1_000_000).cast(polars.Datetime("us")),
            "sorted": np.arange(rows) // 3,
        }
    )


@pytest.fixture(scope="module")
def frame():
    return table(0)


@pytest.fixture(scope="module")
def path(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("statistics") / "a.csv"
    frame.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S")
    return path


def gathered(path, *, workers=1, threads=1, **options):
    with OpenCsv.choose(read_text([str(path)], HowRead(path.parent, **options))) as opened:
        wanted = StatisticsOf(opened, (), GAP_WORDS)
        found = wanted.join([wanted.gather(rank, workers, threads) for rank in range(workers)])
        return found.index, found.statistics


def test_the_statistics_are_those_of_polars(frame, path):
    _, statistics = gathered(path)
    assert statistics.num_rows == len(frame)
    for name in ("small", "large", "whole", "skewed", "sorted"):
        own, column = statistics.of(name), frame[name]
        assert (own.numbers, own.missing) == (column.count(), column.null_count())
        assert (own.min, own.max) == (column.min(), column.max())
        assert own.mean == pytest.approx(column.mean(), rel=1e-13)
        assert own.std == pytest.approx(column.std(ddof=0), rel=1e-9)
        assert own.distinct == pytest.approx(column.drop_nulls().n_unique(), rel=0 if own.is_exact else 0.06)
        ranks = (column.drop_nulls().sort() < own.median).mean()
        assert ranks == pytest.approx(0.5, abs=0.03)
    for name in ("city", "key"):
        own, column = statistics.of(name), frame[name]
        counts = column.drop_nulls().value_counts()
        assert (own.texts, own.missing, own.distinct) == (column.count(), column.null_count(), len(counts))
        assert dict(own.values) == dict(counts.iter_rows())
        assert [count for _, count in own.values] == sorted((count for _, count in own.values), reverse=True)
    when = statistics.of("when")
    assert (when.times, when.min) == (ROWS, frame["when"].min().timestamp())
    assert when.mean == pytest.approx(frame["when"].dt.timestamp("ms").mean() / 1000)


def test_order_and_wholeness_are_found(path):
    _, statistics = gathered(path)
    assert {own.name: own.order for own in statistics.columns if own.order} == {"sorted": "ascending"}
    assert {own.name for own in statistics.columns if own.is_whole} == {"whole", "sorted", "when"}


@pytest.mark.parametrize(("workers", "threads"), [(1, 3), (2, 1), (3, 2), (7, 1)])
def test_they_are_the_same_to_the_bit_for_any_number_of_workers_and_threads(path, monkeypatch, workers, threads):
    monkeypatch.setattr(text, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(statistics_pass, "MIN_PART_CHUNKS", 2)
    whole_index, whole = gathered(path)
    shared_index, shared = gathered(path, workers=workers, threads=threads)
    assert shared.to_json() == whole.to_json()
    assert shared_index.num_rows == whole_index.num_rows == ROWS
    np.testing.assert_array_equal(shared_index.offsets, whole_index.offsets)


def test_they_are_kept_exactly(path):
    _, statistics = gathered(path)
    kept = Statistics.from_json(statistics.to_json())
    assert kept.to_json() == statistics.to_json()
    assert kept.of("city").values == statistics.of("city").values


def test_too_many_values_are_estimated(path, monkeypatch):
    monkeypatch.setattr(gathering, "MAX_TEXTS", 1000)
    monkeypatch.setattr(gathering, "MAX_NUMBERS", 100)
    _, statistics = gathered(path)
    key = statistics.of("key")
    assert (key.values, key.is_exact) == (None, False)
    assert key.distinct == pytest.approx(4987, rel=0.06)
    assert statistics.of("large").distinct == pytest.approx(ROWS, rel=0.06)


def test_the_median_of_few_rows_is_exact(tmp_path):
    frame = table(1, 2001)
    frame.write_csv(tmp_path / "a.csv")
    _, statistics = gathered(tmp_path / "a.csv")
    for name in ("small", "whole", "skewed"):
        assert statistics.of(name).median == frame[name].median()


@pytest.mark.parametrize("end", ["", "\n", "\r\n\n"])
def test_the_last_line_counts_whatever_ends_it(tmp_path, end):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n\n3,4" + end)
    found, statistics = gathered(tmp_path / "a.csv")
    assert (found.num_rows, statistics.of("x").max, statistics.of("y").numbers) == (2, 3.0, 2)


def test_a_line_that_is_no_row_is_named(tmp_path):
    stream = io.StringIO()
    stream.write("x,y\n" + "1,2\n" * 400_000 + "1\n" + "1,2\n" * 1000)
    (tmp_path / "a.csv").write_text(stream.getvalue())
    with pytest.raises(DataError, match="line 400002: the row has 1 field, expected 2"):
        gathered(tmp_path / "a.csv", workers=2)


def test_a_line_may_be_longer_than_what_is_read_at_a_time(tmp_path):
    texts = ["a" * 3_000_000, "b", "c" * 1_500_000]
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{text},{number}\n" for number, text in enumerate(texts)))
    found, statistics = gathered(tmp_path / "a.csv")
    assert (found.num_rows, statistics.of("x").texts, statistics.of("y").max) == (3, 3, 2.0)
    assert {text for text, _ in statistics.of("x").values} == set(texts)


@pytest.mark.parametrize("blanks", [" ", "\n", " \n  ", "\t\t"])
def test_a_row_counts_once_wherever_parts_meet_in_the_blanks_before_it(tmp_path, monkeypatch, blanks):
    monkeypatch.setattr(text, "CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(index, "_LOOK_BEHIND", 64)
    monkeypatch.setattr(statistics_pass, "MIN_PART_CHUNKS", 1)
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{blanks}{number},1\n" for number in range(4000)))
    found, statistics = gathered(tmp_path / "a.csv", threads=2)
    x = statistics.of("x")
    assert (found.num_rows, x.numbers, x.mean, x.max) == (4000, 4000, 1999.5, 3999)
