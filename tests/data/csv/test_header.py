"""What the first line of a file is taken for."""

import pytest

from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.header import Header, read_header
from disttrain.errors import DataError, UsageError
from disttrain.storage.open import open_reader


@pytest.fixture
def header_of(tmp_path):
    def read(content, delimiter=None, **options):
        path = tmp_path / "a.csv"
        path.write_bytes(content)
        with open_reader(str(path)) as reader:
            if delimiter is not None:
                options["dialect"] = Dialect(delimiter)
            return read_header(reader, **options)

    return read


HEADERS = [
    # content, options, names, has_header, rows_start
    (b"x,y\n1,2\n", {}, ("x", "y"), True, 4),
    (b"x,y\r\n1,2\r\n", {}, ("x", "y"), True, 5),  # CRLF
    (b"x,y", {}, ("x", "y"), True, 3),  # a header alone, no line feed
    (b"\xef\xbb\xbfx,y\n1,2\n", {}, ("x", "y"), True, 7),  # byte-order mark
    (b"\xef\xbb\xbf1,2\n", {}, ("0", "1"), False, 3),  # byte-order mark, no header
    (b"\n \t\r\nx,y\n1,2\n", {}, ("x", "y"), True, 9),  # blank lines before it
    (b"\n\n1,2\n", {}, ("0", "1"), False, 0),  # blank lines before rows
    (b'"x","y"\n1,2\n', {}, ("x", "y"), True, 8),  # quoted, as pyarrow writes it
    (b'"a,b","say ""hi""",c\n', {}, ("a,b", 'say "hi"', "c"), True, 21),  # what quotes are for
    (b" x , y\n", {}, ("x", "y"), True, 7),  # blanks around names
    ("größe,y\n".encode(), {}, ("größe", "y"), True, 10),  # beyond ASCII
    (b",x,y\n0,1,2\n", {}, ("", "x", "y"), True, 5),  # the first column has no name, as pandas writes its index
    (b"x;y\n", {"delimiter": ";"}, ("x", "y"), True, 4),
    (b"x\ty\n", {"delimiter": "\t"}, ("x", "y"), True, 4),
    (b"1.5,-2e3,nan,inf\n", {}, ("0", "1", "2", "3"), False, 0),  # Python's float grammar
    (b"1,,3\n", {}, ("0", "1", "2"), False, 0),  # an empty field does not decide
    (b"1\n2\n", {}, ("0",), False, 0),
    (b"x,y,x\n1,2,3\n", {}, ("x", "y", "x.1"), True, 6),  # as in pandas
    (b'a "b",5" c,y\n', {}, ('a "b"', '5" c', "y"), True, 13),  # quotes within a name
    (b"#x,y\n1,2\n", {}, ("#x", "y"), True, 5),  # as numpy.savetxt writes it
    (b"1,1\n2,2\n", {}, ("0", "1"), False, 0),  # the job without its header
    (b"1,2\n3,4\n", {}, ("0", "1"), False, 0),
    (b"10,20\n1,2\n", {}, ("0", "1"), False, 0),
    (b"3,5\n4,9\n1,2\n", {}, ("0", "1"), False, 0),  # any two numbers are equally spaced
    (b"5,6\n7,8\n9,10\n", {}, ("0", "1"), False, 0),  # as are those that follow
    (b"1,2,3\n5,6,7\n", {"mode": "no"}, ("0", "1", "2"), False, 0),
    (b"2019,2020\n1,2\n", {"mode": "yes"}, ("2019", "2020"), True, 10),  # numbers as names
    (b"a,b\n", {"mode": "no"}, ("0", "1"), False, 0),  # its faults are found where rows are parsed
    (b"x" * 100_000 + b",y\n1,2\n", {}, ("x" * 100_000, "y"), True, 100_003),  # longer than the first read
]


@pytest.mark.parametrize(("content", "options", "names", "has_header", "rows_start"), HEADERS)
def test_the_first_line_is_a_header_or_a_row(header_of, content, options, names, has_header, rows_start):
    delimiter = options.get("delimiter", ",")
    assert header_of(content, **options) == Header(names, has_header, rows_start, Dialect(delimiter))


FAULTS = [
    # content, options, error, what the message says
    (b"", {}, DataError, "is empty"),
    (b"\xef\xbb\xbf", {}, DataError, "is empty"),
    (b"\n\r\n  \n", {}, DataError, "is empty"),
    (b"\nx,1\n", {}, DataError, "line 2: holds the number '1' and the text 'x'.*--header yes or --header no"),
    (b",,\n", {}, DataError, "only empty fields.*--header"),
    (b"\t\n1\t2\n", {"delimiter": "\t"}, DataError, "line 1: has only empty fields"),  # and is no blank line
    (b'"x,y\n1,2\n', {}, DataError, "line 1: a quote that begins a field must end on its line"),
    (
        b"# made by hand\nx,y\n1,2\n",
        {},
        DataError,
        "line 1: begins with '#'; if such lines are comments, add --comment '#'",
    ),
    (b"0,1,2\n5,6,7\n", {}, DataError, "line 1: holds the numbers 0 to 2: it may name.*--header yes or --header no"),
    (b"1960,1961\n5,6\n", {}, DataError, "line 1: holds the equally spaced numbers 1960, 1961, …"),
    (b"1960,1961\n5,6\n7,3\n", {}, DataError, "line 1: holds the equally spaced numbers 1960, 1961, …"),
    (b"1990,2000,2010\n1500,2.5e3,1\n", {}, DataError, "line 1: holds the equally spaced numbers 1990, 2000, …"),
    (b'"7","9"\n1,2\n', {}, DataError, "line 1: holds quoted numbers, unlike the lines after it"),
    (b"\0\0\n1,2\n", {}, DataError, "NUL"),
    (b"x,y\r1,2\r", {}, DataError, "bare CR"),  # the line ends of an old Mac
    (b"gr\xf6\xdfe,y\n", {}, DataError, "not UTF-8"),
    ("x,y\n".encode("utf-16"), {}, UsageError, "--encoding utf-16"),
    (b"\x1f\x8b\x08\x00", {}, UsageError, "gzip; let its name end in .gz"),  # compressed under another name
    (b"PAR1", {}, UsageError, "Parquet"),
    (b"x" * (1 << 25), {}, DataError, "no line ends"),
]


@pytest.mark.parametrize(("content", "options", "error", "says"), FAULTS)
def test_a_first_line_that_cannot_be_read_is_named(header_of, content, options, error, says):
    with pytest.raises(error, match=says) as caught:
        header_of(content, **options)
    assert "\n" not in str(caught.value)
