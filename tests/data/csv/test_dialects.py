"""Dialects: every value and every place, as Python's csv module and float read them, wherever chunks and blocks end."""

import csv
import io
import random
from collections import Counter

import dialect_fuzz
import numpy as np
import pytest

from disttrain.data.csv import text as text_module
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.headers import HowRead, read_text
from disttrain.data.csv.index import build_index
from disttrain.data.csv.kept_statistics import StatisticsOf
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.errors import DataError, UsageError
from disttrain.threads import DaemonPool

DIALECTS = {
    "semicolon and decimal comma": Dialect(";", decimal=","),
    "and thousands": Dialect(";", decimal=",", thousands="."),
    "quoted thousands": Dialect(",", thousands=","),
    "apostrophes": Dialect("\t", thousands="'"),
    "comments": Dialect(",", comment="#"),
    "blanks": Dialect(" ", runs=True, comment="%"),
    "blanks and decimal comma": Dialect(" ", runs=True, decimal=",", thousands="."),
    "line breaks": Dialect(",", quoted_newlines=True),
    "everything": Dialect("|", decimal=",", thousands=".", comment="#", skip_lines=3, quoted_newlines=True),
}
ALPHABET = "ab é,;|\t'\"#%."


def number_text(drawn, dialect):
    """A number, and a way to write it."""
    value = drawn.choice([drawn.randrange(-(10**7), 10**7), round(drawn.uniform(-1e5, 1e5), drawn.randrange(4)), 0.25])
    group = "," if dialect.thousands and drawn.random() < 0.6 else ""
    text = f"{value:{group}}".replace(",", "T").replace(".", dialect.decimal).replace("T", dialect.thousands or "")
    return float(value), f'"{text}"' if drawn.random() < 0.1 or dialect.delimiter in text else text


def word_text(drawn, dialect):
    """A text that is no number, and a way to write it."""
    word = "t" + "".join(drawn.choices(ALPHABET, k=drawn.randrange(8))).strip()
    if dialect.quoted_newlines and drawn.random() < 0.4:
        word += drawn.choice(["\n", "\n\n", '\n"', f"\n#{dialect.delimiter}"]) + "x"
    breaks = set('"\n\t ' if dialect.runs else '"\n') | {dialect.delimiter}
    is_quoted = bool(set(word) & breaks) or drawn.random() < 0.2
    return word, '"{}"'.format(word.replace('"', '""')) if is_quoted else word


def file_of(drawn, dialect, num_rows):
    """A file; and its rows of a number, a word and a number, with the lines on which they begin."""
    lines, rows, numbers = ["skipped, a | b ; c\n"] * dialect.skip_lines, [], []
    end = drawn.choice(["\n", "\r\n"])
    gap = (lambda: drawn.choice([" ", "  ", " \t", "\t"])) if dialect.runs else (lambda: dialect.delimiter)
    lines.append(f"x{gap()}word{gap()}y{end}")
    number, counted = 1, 0
    for _ in range(num_rows):
        while drawn.random() < 0.1:
            lines.append(drawn.choice(["", "  "]) + end)
        while dialect.comment and drawn.random() < 0.2:
            lines.append(f'{drawn.choice(["", " "])}{dialect.comment} 1,2 "x{end}')
        (x, x_text), (word, written), (y, y_text) = (
            number_text(drawn, dialect), word_text(drawn, dialect), number_text(drawn, dialect),
        )  # fmt: skip
        number += sum(line.count("\n") for line in lines[counted:])
        counted = len(lines)
        numbers.append(number)
        pad = drawn.choice(["", " "]) if dialect.delimiter != "\t" else ""
        lines.append(f"{pad}{x_text}{gap()}{written}{gap()}{y_text}{pad}{end}")
        rows.append((x, word, y))
    if drawn.random() < 0.5:
        lines[-1] = lines[-1].rstrip("\r\n")
    return "".join(lines), rows, numbers


def parsed(source, block_bytes, ranges=None):
    pool = DaemonPool(2, "read")
    try:
        wanted = ranges or [Range(0, source.num_rows)]
        return source.rows(wanted, pool, block_bytes=block_bytes).take(sum(map(len, wanted)))
    finally:
        pool.close()


@pytest.mark.parametrize("name", DIALECTS)
def test_rows_texts_and_places_are_those_that_were_written(tmp_path, cache_dir, monkeypatch, name):
    dialect, drawn = DIALECTS[name], random.Random(name)
    path = tmp_path / "a.csv"
    for case in range(25):
        monkeypatch.setattr(text_module, "CHUNK_BYTES", drawn.choice([8, 24, 104, 5008]))
        content, rows, lines = file_of(drawn, dialect, 200 if case == 0 else drawn.randrange(1, 12))
        path.write_bytes(content.encode())
        options = {"dialect": dialect, "features": ["x"], "targets": ["y"], "cache_dir": cache_dir / str(case)}
        with Source.open(str(path), **options) as source:
            assert source.num_rows == len(rows), content
            expected = np.array([(x, y) for x, _, y in rows], np.float32)
            np.testing.assert_array_equal(parsed(source, drawn.choice([7, 64, 4096])), expected, content)
            first, stop = sorted(drawn.choices(range(len(rows) + 1), k=2))
            np.testing.assert_array_equal(parsed(source, 32, [Range(first, stop)]), expected[first:stop])
            assert [source.place_of(row).line for row in range(len(rows))] == lines, content
        how = HowRead(tmp_path, dialect=dialect, finds_delimiter=False)
        with OpenCsv.choose(read_text([str(path)], how), features=["x", "word"], targets=["y"]) as opened:
            wanted, index = StatisticsOf(opened, (), ()), build_index(opened.text)
            workers = drawn.choice([1, 3])
            found = wanted.join([wanted.gather(rank, workers, 2, index) for rank in range(workers)], index).statistics
        words = {text: count for own in [found.of("word")] for text, count in own.values}
        assert words == Counter(word for _, word, _ in rows), content
        assert found.of("x").mean == pytest.approx(np.mean([x for x, _, _ in rows]))


@pytest.mark.parametrize("name", ["line breaks", "everything"])
def test_a_large_file_is_counted_by_several_threads(tmp_path, name):
    content, _, lines = file_of(random.Random(1), DIALECTS[name], 20_000)
    content = content + content[content.index("x") :].partition("\n")[2] * 4
    (tmp_path / "a.csv").write_bytes(content.encode())
    text = read_text([str(tmp_path / "a.csv")], HowRead(tmp_path, dialect=DIALECTS[name], finds_delimiter=False))
    with text.reader:
        assert text.num_chunks > 2
        index = build_index(text, num_threads=3)
        assert index.line_number(text.reader, index.locate(text.reader, 19_999)) == lines[-1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "blanks"])
def test_the_delimiter_is_found(tmp_path, cache_dir, delimiter):
    between = "  " if delimiter == "blanks" else delimiter
    for rows in (["x", "y"], ["1.5", "-2"]), (["x", "text", "y"], ["1", '"a, b; c|d"', "2"]), (["3", "4"], ["5", "8"]):
        content = "".join(between.join(row) + "\n" for row in [rows[0], *[rows[1]] * 3])
        (tmp_path / "a.csv").write_text(content)
        text = read_text([str(tmp_path / "a.csv")], HowRead(cache_dir))
        assert text.header.dialect.shown == {"\t": "\\t"}.get(delimiter, delimiter)
        assert len(text.header.names) == len(rows[0])
        text.reader.close()


REFUSED = {
    "two that serve": ("a;b,c\nx;y,z\n", "may be delimited by ',' or ';'; say which with --delimiter"),
    "a decimal comma": ("x;y\n1,5;2\n2,5;3\n", "line 1: below it are numbers such as '1,5': add --decimal , or"),
    "comments": ("# made by\n# hand\nx,y\n1,2\n", "begins with '#'.* add --comment '#'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_asked_about(tmp_path, cache_dir, case):
    content, message = REFUSED[case]
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises((UsageError, DataError), match=message):
        read_text([str(tmp_path / "a.csv")], HowRead(cache_dir))


WRONG = {
    "a point for a comma": (Dialect(";", decimal=","), "x;y\n1;2\n3;2.5\n", "line 3: column 'y' holds '2.5', expected"),
    "wrong groups": (
        Dialect(";", thousands=","),
        "x;y\n1;2\n\n12,34;2\n",
        "line 4: column 'x' holds '12,34', expected",
    ),
    "a date for a number": (Dialect(";", decimal=",", thousands="."), "x;y\n01.02.2024;2\n", "holds '01.02.2024', exp"),
    "too many fields": (Dialect(" ", runs=True), "x y\n1 2\n  3 4  5\n", "line 3: the row has 3 fields, expected 2"),
    "an open quote": (Dialect(quoted_newlines=True), 'x,y\n1,2\n"3,4\n5,6\n', "line 3: column 'x' holds '\"3,4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_faulty_row_is_shown_as_it_was_written(tmp_path, cache_dir, case):
    dialect, content, message = WRONG[case]
    (tmp_path / "a.csv").write_text(content)
    path = str(tmp_path / "a.csv")
    with Source.open(path, dialect=dialect, cache_dir=cache_dir) as source, pytest.raises(DataError, match=message):
        parsed(source, 4096)


@pytest.mark.parametrize(
    ("content", "options", "names"),
    [
        ('# size in "\na,b\n1,2\n', {"comment": "#"}, ("a", "b")),
        ('Report 5" disks\na,b\n1,2\n3,4\n', {"skip_lines": 1}, ("a", "b")),
        ('Report 5" disks\na,b"\n1,2\n3,4\n', {"skip_lines": 1}, ("a", 'b"')),
        ('height in ",width\n1,2\n', {}, ('height in "', "width")),
        ('"a\nb", "c ""\nd" \n1,2\n', {}, ("a\nb", 'c "\nd')),
    ],
)
def test_a_quote_counts_only_where_a_field_begins(tmp_path, cache_dir, content, options, names):
    (tmp_path / "a.csv").write_text(content)
    dialect = Dialect(quoted_newlines=True, **options)
    with Source.open(str(tmp_path / "a.csv"), dialect=dialect, cache_dir=cache_dir) as source:
        assert source.header.names == names
        np.testing.assert_array_equal(parsed(source, 64)[0], [1, 2])


def test_an_open_quote_ends_with_its_file(tmp_path, cache_dir):
    (tmp_path / "0.csv").write_text('x,y\n1,2\n3,"4\n')
    (tmp_path / "1.csv").write_text('x,y\n5,6\n7,"8"\n')
    with Source.open(str(tmp_path / "?.csv"), dialect=Dialect(quoted_newlines=True), cache_dir=cache_dir) as source:
        assert source.num_rows == 4
        np.testing.assert_array_equal(parsed(source, 64, [Range(2, 4)]), [[5, 6], [7, 8]])
        with pytest.raises(DataError, match=r"0\.csv, line 3: column 'y' holds '\"4"):
            parsed(source, 64)


def test_what_is_kept_of_a_file_is_of_its_encoding(tmp_path, cache_dir):
    (tmp_path / "a.csv").write_bytes("größe,y\n".encode("latin-1") + b"1,2\n" * 3 + b"\xe9,5\n" * 9)
    found = []
    for encoding in ("latin-1", "cp1252", "latin-1"):
        text = read_text([str(tmp_path / "a.csv")], HowRead(cache_dir, encoding=encoding))
        with text.reader:
            found.append(text.info)
            text.check_unchanged()
    assert found[0] == found[2] != found[1]


def test_excel_s_line_names_the_delimiter(tmp_path, cache_dir):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfsep=|\r\nx|y\r\n1|2\r\n")
    with Source.open(str(tmp_path / "a.csv"), cache_dir=cache_dir) as source:
        assert (source.header.names, source.header.delimiter, source.place_of(0).line) == (("x", "y"), "|", 3)


def test_the_second_column_of_a_name_gets_a_number_as_in_pandas(tmp_path, cache_dir):
    (tmp_path / "a.csv").write_text("x,x,x.1,y,x\n1,2,3,4,5\n")
    with Source.open(str(tmp_path / "a.csv"), cache_dir=cache_dir) as source:
        assert source.header.names == ("x", "x.2", "x.1", "y", "x.3")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "shift_jis"])
def test_text_in_another_encoding_is_converted(tmp_path, cache_dir, encoding):
    word = "日本" if encoding == "shift_jis" else "größe"
    (tmp_path / "a.csv").write_bytes(f"{word},y\n1,2\n3,4\n".encode(encoding))
    text = read_text([str(tmp_path / "a.csv")], HowRead(cache_dir, encoding=encoding))
    assert text.header.names == (word, "y")
    text.reader.close()
    if encoding != "utf-16-le":
        with pytest.raises((DataError, UsageError), match="--encoding"):
            read_text([str(tmp_path / "a.csv")], HowRead(cache_dir))
    (tmp_path / "a.csv").write_bytes(b"x,y\n1,2\n\x81\x8d,\xff\n")
    if encoding in ("cp1252", "shift_jis"):
        with pytest.raises(DataError, match=r"a\.csv: is no text in .* near byte"):
            read_text([str(tmp_path / "a.csv")], HowRead(cache_dir, encoding=encoding))


COLUMNS = {
    "a pattern": (["x*"], None, (), ("x1", "x2", "x10")),
    "a range": (["1-3"], None, (), ("x1", "x2", "x10")),
    "a range that holds the target": (["2-9"], ["x10"], (), ("x2", "y")),
    "a pattern and a name": (["x?", "id"], None, (), ("x1", "x2", "id")),
    "all but": (None, None, ["id", "x1*"], ("x2",)),
    "some of a pattern": (["x*"], None, ["x2"], ("x1", "x10")),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_are_chosen_by_pattern_and_range(tmp_path, cache_dir, case):
    features, targets, exclude, expected = COLUMNS[case]
    (tmp_path / "a.csv").write_text("id,x1,x2,x10,y\n1,2,3,4,5\n")
    text = read_text([str(tmp_path / "a.csv")], HowRead(cache_dir))
    with OpenCsv.choose(text, features=features, targets=targets, exclude=exclude) as opened:
        assert opened.feature_names == expected
        for asked, message in (({"features": ["z*"]}, "by 'z"), ({"exclude": ["x3"]}, "has no column 'x3'")):
            with pytest.raises(UsageError, match=message):
                OpenCsv.choose(text, **asked)


def test_python_s_csv_module_reads_the_same_words(tmp_path):
    """The files of these tests are what they are thought to be."""
    drawn = random.Random(3)
    for name in ("line breaks", "quoted thousands"):
        content, rows, _ = file_of(drawn, DIALECTS[name], 50)
        read = [
            row for row in csv.reader(io.StringIO(content, newline=""), skipinitialspace=True) if "".join(row).strip()
        ]
        assert [row[1].strip() for row in read[1:]] == [word for _, word, _ in rows]


@pytest.mark.slow
def test_fuzzed_files_of_every_dialect_are_read_as_pythons_csv_reads_them_or_refused():
    """Millions were tried once: docs/records/reliability.md."""
    broken, read = dialect_fuzz.run(40_000, seed=11)
    assert broken > 15_000
    assert read > 5_000
