"""The index compared with a plain reading of the same bytes: every row and line, however the file is split up."""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttrain.data.csv import kept_index, row_scanner
from disttrain.data.csv import text as text_module
from disttrain.data.csv.header import Header, read_header
from disttrain.data.csv.index import SEEK_BYTES, Index, build_index, index_from_counts, join_counts, scan
from disttrain.data.csv.kept_index import index_text, load_counts, save_counts
from disttrain.data.csv.text import CHUNK_BYTES, CsvText
from disttrain.errors import FileChanged
from disttrain.storage.open import open_reader


def blanks(delimiter):
    return b" \t\r".replace(delimiter, b"")


def rows_of(content, rows_start, delimiter=b","):
    """(offset, line number) of every row, found by splitting the bytes into lines."""
    found, offset = [], 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if offset + len(line) > rows_start and line.strip(blanks(delimiter)):
            found.append((offset + len(line) - len(line.lstrip(blanks(delimiter))), number))
        offset += len(line) + 1
    return found


def assert_same(index, expected):
    assert index.num_rows == expected.num_rows
    for name in ("offsets", "rows", "lines"):
        np.testing.assert_array_equal(getattr(index, name), getattr(expected, name))


LINES = st.sampled_from(
    [
        b"1,2",
        b"",
        b" ",
        b"\r",
        b"\t1,2",
        b"3.25,-1e9\r",
        b"7" * 1920,
        b"5" * 2048,
        b" " * 2000,
        b"1" * 7,
        b"\xff" * 8,
        b"\t",
        b" \t 4",
        b"\x1f",
        b"\x1f5",
        b"\0",
        b"\0" * 64,
    ]  # fields that are empty, and no blanks
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=40), st.booleans(), st.integers(0, 9), st.sampled_from([b",", b"\t", b" ", b"\x1f"]))
def test_the_compiled_loops_find_what_splitting_finds(lines, at_start, cut, delimiter):
    content = b"\n".join(lines)
    content = content[: max(len(content) - cut, 0)]
    expected = [offset for offset, _ in rows_of((b"" if at_start else b"x") + content, 0, delimiter)]
    if not at_start:
        expected = [offset - 1 for offset in expected if offset]
    buffer = np.zeros(-(-len(content) // 8) * 8, np.uint8)
    buffer[: len(content)] = np.frombuffer(content, np.uint8)
    last_line = content.rsplit(b"\n", 1)[-1]
    state = not last_line.strip(blanks(delimiter)) and (at_start or b"\n" in content)
    counted = row_scanner.count_rows()(buffer, buffer.view(np.uint64), len(content), ord(delimiter), at_start)
    assert counted == (len(expected), content.count(b"\n"), state)
    for skip, offset in enumerate([*expected, -1]):
        position, passed, feeds, _ = row_scanner.find_row()(buffer, 0, len(content), ord(delimiter), at_start, skip)
        assert (position, passed) == (offset, skip)
        assert feeds == content[: offset if offset >= 0 else None].count(b"\n")


def big_file(how):
    """Some three chunks of lines, every length different, so that chunks begin anywhere in one."""
    rng = np.random.default_rng(7)
    lines = [b"%d" % 10 ** int(width) for width in rng.integers(0, 40, 150_000)]
    if how == "blank lines":
        for place in rng.integers(0, len(lines), 3000):
            lines[place] = [b"", b" \t", b"\r", b"  5"][place % 4]
    if how == "blank chunk":  # more blanks than a chunk: one in which no row starts, and one that begins within a line
        lines[70_000] = b" " * (2 * CHUNK_BYTES) + b"6"
        lines[90_000:90_000] = [b""] * (2 * CHUNK_BYTES)
    if how == "long line":
        lines[70_000] = b"6" * (2 * CHUNK_BYTES + 11)
    end = b"\r\n" if how == "CRLF" else b"\n"
    return b"x\n" + end.join(lines) + (b"" if how == "no final newline" else end)


HOW = ["plain", "CRLF", "blank lines", "blank chunk", "long line", "no final newline"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_every_row_and_line_is_found(tmp_path, how, num_threads):
    content = big_file(how)
    (tmp_path / "a.csv").write_bytes(content)
    with open_reader(str(tmp_path / "a.csv")) as reader:
        header = read_header(reader, mode="yes")
        index = build_index(CsvText.of_one(reader, header), num_threads=num_threads)
        rows = rows_of(content, header.rows_start)
        assert index.num_rows == len(rows)
        pieces = [chunk + piece for chunk in index.offsets for piece in range(0, CHUNK_BYTES, SEEK_BYTES)]
        around = np.searchsorted([offset for offset, _ in rows], pieces)  # where a search goes on with the next piece
        sample = {*range(0, len(rows), 9973), *around - 1, *around, *around + 1, 69_999, 70_000, 70_001}
        for row in sorted(row for row in sample if 0 <= row < len(rows)):
            offset = index.locate(reader, row)
            assert (offset, index.line_number(reader, offset)) == rows[row]
        assert index.locate(reader, len(rows)) == len(content)
        starts = np.arange(header.rows_start, len(content), CHUNK_BYTES)
        after = np.searchsorted([offset for offset, _ in rows], starts)
        np.testing.assert_array_equal(index.rows, after)
        np.testing.assert_array_equal(index.offsets, [rows[i][0] if i < len(rows) else len(content) for i in after])


@pytest.mark.parametrize("how", HOW)
def test_ranks_may_each_count_a_part(tmp_path, how):
    (tmp_path / "a.csv").write_bytes(big_file(how))
    with open_reader(str(tmp_path / "a.csv")) as reader:
        text = CsvText.of_one(reader, read_header(reader, mode="yes"))
        whole, chunks = build_index(text), text.num_chunks
        for cuts in ([0, 0, 1, chunks], range(chunks + 1), [0, 2, chunks]):
            parts = [scan(text, np.arange(start, stop)) for start, stop in zip(cuts, list(cuts)[1:], strict=False)]
            assert_same(index_from_counts(text, join_counts(parts)), whole)


def test_an_object_of_s3_has_the_index_of_the_same_file(tmp_path, s3):
    content = big_file("blank lines") * 5  # more than one block of a remote read
    (tmp_path / "a.csv").write_bytes(content)
    with open_reader(str(tmp_path / "a.csv")) as local, open_reader(s3.put("index.csv", content)) as remote:
        header = Header(("x",), True, 2)
        assert_same(build_index(CsvText.of_one(remote, header)), build_index(CsvText.of_one(local, header)))


def test_a_header_alone_has_no_rows(tmp_path, cache_dir):
    (tmp_path / "a.csv").write_bytes(b"x,y")
    with open_reader(str(tmp_path / "a.csv")) as reader:
        text = CsvText.of_one(reader, read_header(reader))
        for _ in range(2):
            index = index_text(text, cache_dir)
            assert index.num_rows == 0
            assert index.locate(reader, 0) == 3


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"x,y\n" + b"1,2\n" * 1000)
    return path


def kept_of(csv, cache_dir) -> Index | None:
    with open_reader(str(csv)) as reader:
        text = CsvText.of_one(reader, read_header(reader))
        kept = load_counts(cache_dir, text)
        return None if len(kept.missing) else index_from_counts(text, kept.counts)


def index_of(csv, cache_dir) -> Index:
    with open_reader(str(csv)) as reader:
        return index_text(CsvText.of_one(reader, read_header(reader)), cache_dir)


def test_an_index_is_kept(csv, cache_dir, monkeypatch):
    assert kept_of(csv, cache_dir) is None
    made = index_of(csv, cache_dir)
    assert_same(kept_of(csv, cache_dir), made)
    monkeypatch.chdir(csv.parent)
    assert_same(kept_of(csv.name, cache_dir), made)  # the same file by another name of it
    monkeypatch.setattr(kept_index, "scan", None)  # not made again
    assert_same(index_of(csv, cache_dir), made)


def test_a_changed_file_is_indexed_anew(csv, cache_dir):
    index_of(csv, cache_dir)
    csv.write_bytes(b"x,y\n" + b"1,2\n" * 500 + b"10,20,\n" * 285 + b"1,2\n" + b"\n")  # of the same size
    os.utime(csv, ns=(1, 1))
    assert kept_of(csv, cache_dir) is None
    assert index_of(csv, cache_dir).num_rows == 786


def test_a_file_that_changes_while_it_is_indexed_is_noticed(csv):
    with open_reader(str(csv)) as reader:
        text = CsvText.of_one(reader, read_header(reader))
        os.utime(csv, ns=(1, 1))
        with pytest.raises(FileChanged):
            build_index(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_file_that_is_cut_while_it_is_indexed_is_told_by_every_thread(tmp_path, monkeypatch, num_threads):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 2048)  # so that each thread has many parts
    path = tmp_path / "a.csv"
    path.write_bytes(b"x,y\n" + b"1,2\n" * 200_000)
    with open_reader(str(path)) as reader:
        text = CsvText.of_one(reader, read_header(reader))
        os.truncate(path, 100_000)
        with pytest.raises(FileChanged, match="became shorter while it was being read"):
            build_index(text, num_threads=num_threads)


@pytest.mark.timeout(60)
def test_an_object_that_goes_while_it_is_indexed_is_told(s3, monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 2048)
    with open_reader(s3.put("going.csv", b"x,y\n" + b"1,2\n" * 200_000)) as reader:
        text = CsvText.of_one(reader, read_header(reader))
        s3.client().delete_object(Bucket=s3.bucket, Key="going.csv")
        with pytest.raises(FileChanged, match=r"going\.csv: is no longer there"):
            build_index(text)


def test_a_torn_index_is_made_again(csv, cache_dir):
    whole = index_of(csv, cache_dir)
    (kept,) = (cache_dir / "index").iterdir()
    content = kept.read_bytes()
    for torn in [b"", content[:10], content[: len(content) // 2], content[:-1], b"\0" * len(content)]:
        kept.write_bytes(torn)
        assert kept_of(csv, cache_dir) is None
        assert_same(index_of(csv, cache_dir), whole)
        assert kept.read_bytes() == content


def test_an_index_that_cannot_be_kept_is_a_warning(csv, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    assert index_of(csv, tmp_path / "file").num_rows == 1000
    assert "could not be saved" in caplog.text


def test_a_file_without_a_version_is_not_kept(csv, cache_dir):
    with open_reader(str(csv)) as reader:
        text = CsvText.of_one(reader, read_header(reader))
        counts = scan(text, np.arange(text.num_chunks))
        reader.info = replace(reader.info, fingerprint="4004-unversioned")
        save_counts(cache_dir, text, counts)
    assert not cache_dir.exists()
