"""Compares the parser with Python's csv and with the grammar on random lines, as many as are asked for.

python tests/csv_fuzz.py 10000000 [SEED]
"""

import csv
import random
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from disttrain import batches
from disttrain.data.csv.parser import Layout, ParseFault, parse_rows

DELIMITERS = [",", ";", "|", "\t", " ", ":", "\x1f", "/"]
NUMBER = r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|(?i:nan|inf|infinity))"
PIECES = [
    "1",
    "-2.5",
    "0.125",
    "3e2",
    "16777217",
    "nan",
    "",
    "",
    '"',
    '""',
    '"7"',
    '"a"',
    "x",
    "#",
    "\0",
    "é",
    "1.2.3",
    "+",
]
LINES_A_FILE = 400
LAYOUTS = {delimiter: Layout(3, np.array([0, -1, 1], np.int32), 2, ord(delimiter)) for delimiter in DELIMITERS}


def pads_of(delimiter):
    return " \t".replace(delimiter, "")


def row_of(delimiter):
    """Returns the pattern of lines that must be read as three fields, of which the first and the last are wanted."""
    pad, end = f"[{pads_of(delimiter)}]*", re.escape(delimiter)
    wanted = rf'{pad}(?:({NUMBER})|"[ \t]*({NUMBER})[ \t]*"){pad}'
    other = rf'{pad}(?:(?![{pads_of(delimiter)}"])[^{end}\n]*|"(?:[^"\n]|"")*"(?!")[^{end}\n]*)'
    return re.compile(rf"{wanted}{end}{other}{end}{wanted}(?:\r[ \t\r]*)?", re.ASCII)


def a_line(draw, delimiter):
    """Draws a line, mostly of three fields; pads before a quote are spaces, the only ones that Python's csv skips."""
    fields = []
    for _ in range(draw.choices([3, 2, 4, 1, 0], [20, 1, 1, 1, 1])[0]):
        pieces = draw.choices(
            PIECES, [30, 20, 10, 5, 3, 2, 1, 1, 1, 1, 4, 1, 1, 1, 0.2, 1, 1, 1], k=draw.choice([1, 1, 1, 1, 2, 3])
        )
        pad = draw.choice(["", "", "", " ", "  "]) if delimiter != " " else ""
        fields.append(pad + "".join(pieces) + draw.choice(["", "", "", pads_of(delimiter)]))
    return delimiter.join(fields) + draw.choice(["", "", "\r", "\r \r"])


def by_csv(line, delimiter):
    """Returns the two wanted values as Python's csv and numpy read them, or None if they cannot read the line."""
    text = re.sub(r"\r[ \t\r]*\Z", "", line)
    rows = list(csv.reader([text, "next"], delimiter=delimiter, skipinitialspace=delimiter != " "))
    if len(rows) != 2 or len(rows[0]) != 3:
        return None
    texts = [rows[0][0].strip(" \t"), rows[0][2].strip(" \t")]
    if not all(re.fullmatch(NUMBER, text, re.ASCII) for text in texts):
        return None
    with np.errstate(over="ignore", under="ignore"):
        return [np.float32(text) for text in texts]


def by_parser(line, delimiter):
    """Parses a line; returns its rows, float32 [rows, 2], or None if the parser finds a fault."""
    data = line.encode()
    out = np.zeros((2, 2), np.float32)
    try:
        count, *_ = parse_rows(
            np.frombuffer(data + b"\n" + b"9" * 48, np.uint8), 0, len(data) + 1,
            LAYOUTS[delimiter], out,
        )  # fmt: skip
    except ParseFault:
        return None
    return out[:count]


def check_lines(draw, delimiter, count):
    """Compares the parser with both on random lines; returns rows with their values, and blank lines."""
    grammar, kept = row_of(delimiter), []
    blanks = " \t\r".replace(delimiter, "")
    for _ in range(count):
        line = a_line(draw, delimiter)
        found = by_parser(line, delimiter)
        if not line.strip(blanks):
            assert found is not None, (delimiter, line)
            assert len(found) == 0, (delimiter, line)
            kept.append((line, None))
            continue
        expected = by_csv(line, delimiter)
        start = len(line) - len(line.lstrip(blanks))
        if found is None:
            assert grammar.fullmatch(line, start) is None, (delimiter, line)
            continue
        assert expected is not None, (delimiter, line)
        assert len(found) == 1, (delimiter, line)
        assert np.array_equal(found[0], expected, equal_nan=True), (delimiter, line)
        kept.append((line, found[0]))
    return kept


def check_file(place, draw, delimiter, kept):
    """Checks the whole way from the file to the generator, with or without a final newline."""
    path = place / "fuzz.csv"
    header = delimiter.join("abc")
    path.write_text("\n".join([header, *(line for line, _ in kept)]) + draw.choice(["", "\n"]), newline="")
    expected = [values for _, values in kept if values is not None]
    if not expected:
        return
    read = batches(path, 7, features="a", target="c", delimiter=delimiter, header="yes", cache_dir=place / "cache")
    rows = np.concatenate([np.hstack(batch) for batch in read])
    assert np.array_equal(rows, expected, equal_nan=True), delimiter


def run(num_lines, seed):
    """Checks this many lines, in files of some hundred lines each."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        for number in range(-(-num_lines // LINES_A_FILE)):
            delimiter = DELIMITERS[number % len(DELIMITERS)]
            check_file(Path(directory), draw, delimiter, check_lines(draw, delimiter, LINES_A_FILE))


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # the warnings about lost digits
    run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{int(sys.argv[1]):,} lines: each read right or refused")
