"""Several files as one dataset: the rows of a single file that holds them all, each with its own file and line."""

import os
import random

import numpy as np
import pytest

from disttrain.data.csv import kept_index
from disttrain.data.csv import text as text_module
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.errors import DataError, FileChanged, UsageError
from disttrain.storage.listing import list_files
from disttrain.threads import DaemonPool


def rows_of(source, *ranges, block_bytes=4096):
    pool = DaemonPool(2, "read")
    try:
        wanted = [Range(*one) for one in ranges] or [Range(0, source.num_rows)]
        return source.rows(wanted, pool, block_bytes=block_bytes).take(sum(map(len, wanted)))
    finally:
        pool.close()


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Files of 0 to 900 rows with blank lines, other line ends and no last line feed; and all their rows."""
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 1024)
    drawn = random.Random(3)
    rows, places = [], []
    (tmp_path / "parts/deep").mkdir(parents=True)
    for number, count in enumerate([300, 0, 1, 900, 7, 0, 40]):
        lines = ["x,y"]
        path = tmp_path / ("parts/deep" if number % 2 else "parts") / f"{number}.csv"
        for _ in range(count):
            lines += [""] * (drawn.random() < 0.1)
            rows.append((drawn.random(), drawn.randrange(1000)))
            lines.append(f"{rows[-1][0]},{rows[-1][1]}")
            places.append(f"{path}, line {len(lines)}")
        end = "\r\n" if number == 3 else "\n"
        path.write_bytes((end.join(lines) + (end if number % 2 else "")).encode())
    (tmp_path / "parts/_SUCCESS").write_text("")
    (tmp_path / "parts/empty.csv").write_text("")
    paths = list_files([str(tmp_path / "parts")])
    assert [os.path.basename(path) for path in paths] == [
        *(f"{number}.csv" for number in (0, 2, 4, 6, 1, 3, 5)), "empty.csv",
    ]  # fmt: skip
    in_order = sorted(zip(places, rows, strict=True), key=lambda one: paths.index(one[0].partition(",")[0]))
    return str(tmp_path / "parts"), in_order


def test_they_have_the_rows_of_one_file(parts, cache_dir):
    directory, known = parts
    with Source.open(directory, cache_dir=cache_dir, num_threads=2) as source:
        expected = np.array([row for _, row in known], np.float32)
        np.testing.assert_array_equal(rows_of(source), expected)
        ranges = [(295, 305), (1240, 1248), (0, 1), (300, 1248)]
        parts = np.concatenate([expected[slice(*one)] for one in ranges])
        np.testing.assert_array_equal(rows_of(source, *ranges, block_bytes=100), parts)
        for row in {*range(0, len(known), 7), 299, 300, 301, 307, 308, 347, 348}:
            assert str(source.place_of(row)) == known[row][0]
        assert [os.path.basename(file.url) for file in source.files][-1] == "5.csv"


def test_only_what_changed_is_counted_again(parts, cache_dir, monkeypatch):
    directory, known = parts
    Source.open(directory, cache_dir=cache_dir).close()
    scanned = []
    scan = kept_index.scan
    monkeypatch.setattr(kept_index, "scan", lambda text, chunks, **options: (
        scanned.extend(os.path.basename(text.files[text.file_of_chunk(chunk)].info.url) for chunk in chunks),
        scan(text, chunks, **options),
    )[1])  # fmt: skip
    Source.open(directory, cache_dir=cache_dir).close()
    assert not scanned
    with open(f"{directory}/2.csv", "a") as file:
        file.write("\n5,6\n7,8")
    with open(f"{directory}/1a.csv", "w") as file:
        file.write("x,y\n1,2\n")
    with Source.open(directory, cache_dir=cache_dir) as source:
        assert set(scanned) == {"1a.csv", "2.csv"}
        added = [(300, (1, 2)), (302, (5, 6)), (303, (7, 8))]
        rows = [row for _, row in known]
        for place, row in added:
            rows.insert(place, row)
        np.testing.assert_array_equal(rows_of(source), np.array(rows, np.float32))


@pytest.mark.parametrize("line", ["oops,1", "1", "1,2,3", '"1,2'])
def test_a_faulty_row_is_named_by_its_own_file(tmp_path, cache_dir, line):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4")
    (tmp_path / "b.csv").write_text(f"\nx,y\n5,6\n\n{line}\n")
    with Source.open([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], cache_dir=cache_dir) as source:
        with pytest.raises(DataError, match=r"^\S+b\.csv, line 5: "):
            rows_of(source)
        assert source.url == f"{tmp_path}/a.csv and 1 more file"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("x,z\n1,2\n", r"b\.csv, line 1: column 2 is 'z', but 'y' in \S+a\.csv; all files need the same header line"),
        ("y,x\n1,2\n", r"b\.csv, line 1: column 1 is 'y', but 'x' in \S+a\.csv; .*add --by-name"),
        ("x,y,z\n1,2,3\n", r"b\.csv, line 1: has 3 columns, but \S+a\.csv has 2 columns; all files need the same"),
        ("x;y\n1;2\n", r"b\.csv, line 1: has 1 column, but .* one seems to be delimited by ';', the other by ','"),
        ("Notes.\n", r"b\.csv, line 1: has 1 column, but .*; if one is no data, name a pattern"),
    ],
)
def test_other_headers_are_refused(tmp_path, cache_dir, second, message):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text(second)
    with pytest.raises(DataError, match=message):
        Source.open(str(tmp_path / "*.csv"), cache_dir=cache_dir)


def test_columns_may_be_taken_by_name(tmp_path, cache_dir):
    headers = ["x,note,y", "y,x,note", "x,note,y", "more,y,note,x"]
    for number, header in enumerate(headers):
        fields = {"x": number * 10, "y": number * 10 + 1, "note": "abc", "more": "?"}
        row = ",".join(str(fields[name]) for name in header.split(","))
        (tmp_path / f"{number}.csv").write_text(f"{header}\n{row}\n" * 1 + f"{row}\n" * 3)
    options = {"features": ["x"], "targets": ["y"], "cache_dir": cache_dir, "by_name": True}
    with Source.open(str(tmp_path / "?.csv"), **options) as source:
        expected = np.repeat([[0, 1], [10, 11], [20, 21], [30, 31]], 4, axis=0)
        np.testing.assert_array_equal(rows_of(source), expected)
        np.testing.assert_array_equal(rows_of(source, (6, 14)), expected[6:14])
    (tmp_path / "3.csv").write_text("x,note\n1,a\n")
    with pytest.raises(DataError, match=r"3\.csv, line 1: has no column 'y', which \S+0\.csv has"):
        Source.open(str(tmp_path / "?.csv"), **options)


def test_a_file_that_changed_meanwhile_is_named(tmp_path, cache_dir):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("x,y\n1,2\n")
    with Source.open(str(tmp_path / "*.csv"), cache_dir=cache_dir) as source:
        rows_of(source)
        source.check_unchanged()
        os.utime(tmp_path / "b.csv", ns=(1, 1))
        with pytest.raises(FileChanged, match=r"b\.csv: the file changed"):
            source.check_unchanged()


def test_what_names_no_files_or_one_twice_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    for place in ("empty", "*.txt"):
        with pytest.raises(UsageError, match="name files, a pattern"):
            list_files([str(tmp_path / place)])
    with pytest.raises(UsageError, match=r"a\.csv: is named twice"):
        list_files([str(tmp_path / "*.csv"), str(tmp_path / "a.csv")])


def test_a_store_lists_directories_and_patterns(s3, cache_dir):
    for name in ("2.csv", "1.csv", "deep/0.csv", "_SUCCESS", ".part/1.csv"):
        s3.put(f"listed/{name}", f"x,y\n{name[0] if name[0].isdigit() else 9},7\n".encode())
    assert list_files([s3.url("listed/")]) == [s3.url(f"listed/{name}") for name in ("1.csv", "2.csv", "deep/0.csv")]
    assert list_files([s3.url("listed/*.csv")]) == [s3.url("listed/1.csv"), s3.url("listed/2.csv")]
    with Source.open(s3.url("listed"), cache_dir=cache_dir, header="yes") as source:
        np.testing.assert_array_equal(rows_of(source), [[1, 7], [2, 7], [9, 7]])
