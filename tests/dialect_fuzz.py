"""Writes small random files in every dialect, breaks some of them, and compares what is read with Python's csv.

python tests/dialect_fuzz.py 10000000 [SEED]

What is whole must be read, to the last value; what is broken must be read as Python reads it, or refused.
"""

import csv
import random
import re
import sys
from itertools import product

import numpy as np

from disttrain.data.csv import dialect_scanner
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.normalizer import Normalizer
from disttrain.data.csv.parser import Layout, ParseFault, parse_rows

MOST_ROWS = 4
TAKE = np.array([0, -1, 1], np.int32)  # a number, a text, a number
WORDS = ["", "a", "t 1", "é", "x#y", "12", "-", "n/a", "a'b", "3.5", "7,5"]
# Neither tabs, as Python's csv skips only spaces before a quote, nor carriage returns in the middle of a line.
BREAKS = [*',;|". \n#+-e0', '""', "\0", '"\n', "  "]
NUMBERS = ["0", "7", "-3", "12", "250", "16777216", "-1234567", "0.5", "-0.25", "1234.75", "98765.5", "1e3", "2.5e-3"]


def dialects():
    """Returns every dialect that makes sense of these characters."""
    found = []
    for delimiter, decimal, thousands, comment, quotes in product(
        [",", ";", "\t", "|", "blanks"], ".,", [None, ".", ",", "'"], [None, "#"], [False, True]
    ):
        runs = delimiter == "blanks"
        if thousands == decimal:
            continue
        found.append(Dialect(" " if runs else delimiter, runs, decimal, thousands, comment, 0, quotes))
    return found


class Fuzzed:
    """One dialect: writes files in it, reads them in both ways."""

    def __init__(self, dialect):
        self.dialect = dialect
        self.normalizer = Normalizer(dialect)
        self.layout = Layout(3, TAKE, 2, ord(dialect.delimiter))
        self.table = dialect_scanner.transitions(dialect)
        self.blanks = " \t\r" if dialect.runs else " \t\r".replace(dialect.delimiter, "")
        whole = rf"\d{{1,3}}(?:{re.escape(dialect.thousands)}\d{{3}})+|\d+" if dialect.thousands else r"\d+"
        point, end = re.escape(dialect.decimal), r"(?:[eE][+-]?\d+)?"
        self.number = re.compile(
            rf"[+-]?(?:(?:{whole})(?:{point}\d*)?{end}|{point}\d+{end}|nan|inf(?:inity)?)", re.A | re.I
        )

    def number_text(self, draw):
        dialect, number = self.dialect, draw.choice(NUMBERS)
        text = number
        if dialect.thousands and "e" not in number and draw.random() < 0.5:
            text = f"{float(number) if '.' in number else int(number):,}"
        text = text.replace(",", "T").replace(".", dialect.decimal).replace("T", dialect.thousands or "")
        needs = dialect.delimiter in text
        return np.float32(number), f'"{text}"' if needs or draw.random() < 0.05 else text

    def word_text(self, draw):
        dialect, word = self.dialect, draw.choice(WORDS)
        if dialect.quoted_newlines and draw.random() < 0.2:
            word += draw.choice(["\n", "\n#", '"\n1'])
        breaks = {*'" \t\n', dialect.delimiter} if dialect.runs else {*'"\n', dialect.delimiter}
        needs = bool(breaks & set(word)) or (dialect.runs and not word)
        return '"{}"'.format(word.replace('"', '""')) if needs or draw.random() < 0.1 else word

    def file(self, draw):
        """Returns a whole file, and its numbers."""
        dialect, lines, rows = self.dialect, [], []
        end = draw.choice(["\n", "\n", "\r\n"])
        for _ in range(draw.randrange(MOST_ROWS + 1)):
            if draw.random() < 0.1:
                lines.append(draw.choice(["", " "]) + end)
            if dialect.comment and draw.random() < 0.2:
                lines.append(f'{draw.choice(["", " "])}# 1,2;"3{end}')
            gap = draw.choice([" ", "  ", "\t", " \t"]) if dialect.runs else dialect.delimiter
            pad = draw.choice(["", "", " "]) if dialect.delimiter != " " or dialect.runs else ""
            (x, x_text), word, (y, y_text) = self.number_text(draw), self.word_text(draw), self.number_text(draw)
            lines.append(f"{pad}{x_text}{gap}{word}{gap}{y_text}{pad}{end}")
            rows.append((x, y))
        text = "".join(lines)
        return text.rstrip("\r\n") if draw.random() < 0.3 else text, rows

    def read(self, text, cut):
        """Reads a text in two blocks as training does; returns its rows, or None if it is refused."""
        data = text.encode()
        size = len(data)
        buffer = np.zeros(size + 64, np.uint8)
        buffer[:size] = np.frombuffer(data, np.uint8)
        _, counted, _ = dialect_scanner.find()(buffer, size, dialect_scanner.LINE, 1 << 40, self.table)
        out = np.zeros((counted + 1, 2), np.float32)
        try:
            border = self.normalizer(buffer, 0, min(cut, size), is_last=False)
            first, *_ = parse_rows(buffer, 0, border, self.layout, out)
            self.normalizer(buffer, border, size, is_last=True)
            rest, *_ = parse_rows(buffer, border, size, self.layout, out[first:])
        except ParseFault:
            return None
        assert first + rest == counted, "as many rows as were counted"
        return [tuple(row) for row in out[: first + rest]]

    def expected(self, text):
        """Returns the rows as Python's csv splits them and as the dialect writes numbers; None if one is no number."""
        rows = []
        for record in self.records(text):
            if len(record) != 3:
                return None
            values = [self.value(record[0]), self.value(record[2])]
            if None in values:
                return None
            rows.append(tuple(values))
        return rows

    def value(self, text):
        text = text.strip(" \t\r")
        if not self.number.fullmatch(text):
            return None
        plain = text.replace(self.dialect.thousands, "") if self.dialect.thousands else text
        with np.errstate(over="ignore"):
            return np.float32(plain.replace(self.dialect.decimal, "."))

    def records(self, text):
        dialect = self.dialect
        lines = iter(text.split("\n"))

        def is_skipped(line):
            bare = line.strip(self.blanks)
            return not bare or (dialect.comment is not None and bare.startswith(dialect.comment))

        for line in lines:
            if is_skipped(line):
                continue
            record = line
            if dialect.quoted_newlines:
                while self.is_open(record):
                    following = next(lines, None)
                    if following is None:
                        break
                    record += "\n" + following
            yield self.fields(record)

    def is_open(self, record):
        """Whether a quote that began a field is not closed."""
        inside, at_start, position = False, True, 0
        while position < len(record):
            character = record[position]
            if inside:
                if character == '"':
                    if record[position + 1 : position + 2] == '"':
                        position += 1
                    else:
                        inside = False
            elif character == '"' and at_start:
                inside = True
            elif character == self.dialect.delimiter or (self.dialect.runs and character in " \t"):
                at_start = True
                position += 1
                continue
            at_start = not inside and at_start and character in self.blanks
            position += 1
        return inside

    def fields(self, record):
        if self.dialect.runs:
            bare = record.strip(" \t\r")
            return [self.unquoted(field) for field in re.findall(r'"(?:[^"]|"")*"[^ \t]*|[^ \t\r][^ \t]*', bare)]
        spaced = record.replace("\r", " ").splitlines(keepends=True)  # Python's csv takes no such character
        parts = csv.reader(spaced, delimiter=self.dialect.delimiter, skipinitialspace=True)
        return [field for part in parts for field in part]

    @staticmethod
    def unquoted(field):
        if len(field) > 1 and field[0] == field[-1] == '"':
            return field[1:-1].replace('""', '"')
        return field


def broken(text, draw):
    """Returns a text with a character removed, replaced or put in between."""
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice(["", *BREAKS]) + text[at + draw.randrange(2) :]


def run(num_files, seed):
    """Checks this many files; returns how many of the broken ones were read."""
    draw = random.Random(seed)
    kinds = [Fuzzed(dialect) for dialect in dialects()]
    num_broken = num_read = 0
    for number in range(num_files):
        kind = kinds[number % len(kinds)]
        text, rows = kind.file(draw)
        is_broken = draw.random() < 0.5
        if is_broken:
            text = broken(text, draw)
        found = kind.read(text, draw.randrange(len(text) + 1))
        if not is_broken:
            assert found == rows, (kind.dialect, text, found, rows)
        elif found is not None:
            expected = kind.expected(text)
            assert expected is not None, (kind.dialect, text, found)
            assert np.array_equal(found, expected, equal_nan=True), (kind.dialect, text, found, expected)
            num_read += 1
        num_broken += is_broken
    return num_broken, num_read


if __name__ == "__main__":
    count = int(sys.argv[1])
    num_broken, num_read = run(count, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{count:,} files in {len(dialects())} dialects: each read as Python reads it, or refused")
    print(f"{num_broken:,} of them were broken, of which {num_read:,} could be read")
