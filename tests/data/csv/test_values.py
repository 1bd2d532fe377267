"""Typed values of fields: doubles as Python reads them, times as datetime does, fingerprints as TensorFlow's, gaps."""

import csv
import datetime
import io
import math
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from disttrain.data.csv.fingerprint64 import fingerprint_of
from disttrain.data.csv.parser import ParseFault
from disttrain.data.csv.value_reader import ValueReader
from disttrain.data.table.values import GAP, GAP_WORDS, NUMBER, TEXT, TIME, text_of


def read(text, num_fields=1, *, as_text=None, gaps=GAP_WORDS, delimiter=","):
    """Returns (tag, value) of each field, row by row; a text's value is the text itself, read by its bounds."""
    content = text.encode()
    buffer = np.frombuffer(b"9," + content + b"9" * 60, np.uint8)
    reader = ValueReader(np.arange(num_fields, dtype=np.int32), ord(delimiter), as_text or [False] * num_fields, gaps)
    rows, position, stop = [], 2, 2 + len(content)
    while position < stop:
        count, position = reader.read(buffer, position, stop)
        own = reader.values
        for row in range(count):
            fields = []
            for column in range(num_fields):
                tag, value = int(own.tags[column, row]), float(own.values[column, row])
                if tag == TEXT:
                    first, end = own.bounds[column, row].tolist()
                    value = text_of(buffer[first:end].tobytes(), is_quoted=bytes(buffer[first - 1 : first]) == b'"')
                    key = int(own.values[column, row : row + 1].view(np.uint64)[0])
                    assert key == fingerprint_of(value)
                fields.append((tag, value))
            rows.append(fields)
    return rows


def texts_of_doubles():
    draw = random.Random(1)
    for _ in range(20_000):
        yield repr(struct.unpack("d", struct.pack("Q", draw.getrandbits(64)))[0])
        yield repr(draw.random())
        yield str(draw.randrange(10 ** draw.randrange(1, 22)))
        yield f"{draw.uniform(-1e6, 1e6):.{draw.randrange(17)}f}"
        yield f"{draw.randrange(1 << 53) * 2 + 1}e{draw.randrange(-30, 30)}"  # halfway between two doubles
        yield f"{draw.randrange(1 << 54) | 1}.5"


def test_numbers_are_the_doubles_that_python_reads():
    texts = [text for text in texts_of_doubles() if "nan" not in text]
    found = read("".join(f"{text}\n" for text in texts))
    assert [value for ((_, value),) in found] == [float(text) for text in texts]


@pytest.mark.parametrize("text", ["1e400", "-0.0", "4.9e-324", "2.2250738585072011e-308", "1" * 400, "0." + "0" * 400])
def test_numbers_at_the_ends_of_the_range_are_read_too(text):
    [[(tag, value)]] = read(f"{text}\n")
    assert (tag, struct.pack("d", value)) == (NUMBER, struct.pack("d", float(text)))


def test_fingerprints_are_those_of_keras_hashing_layer():
    draw = random.Random(2)
    words = ["", "é", *("".join(chr(draw.randrange(32, 0x24F)) for _ in range(length)) for length in range(1, 160))]
    bins = 2**31 - 1
    expected = tf.strings.to_hash_bucket_fast(words, bins).numpy().tolist()
    assert [fingerprint_of(word) % bins for word in words] == expected


TIMES = [
    "2024-02-29",
    "1969-12-31T23:59:59",
    "2024-05-01 12:30",
    "2024-05-01T12:30:15.25",
    "2024-05-01T12:30:15.123456",
    "2024-05-01T12:30:15+02:00",
    "2024-05-01T12:30:15-0930",
    "2024-05-01T12:30+05",
    "2024-05-01T00:00:00Z",
    "0001-01-01",
    "9999-12-31T23:59:59",
]


@pytest.mark.parametrize("text", TIMES)
def test_times_are_seconds_since_1970_in_utc(text):
    ((tag, value),) = read(f'"{text}"\n')[0]
    time = datetime.datetime.fromisoformat(text)
    expected = (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()
    assert (tag, value) == (TIME, pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize(
    "text", ["2023-02-29", "2024-13-01", "2024-05-01T24:00", "2024-5-1", "2024-05-01x", "20240501T12"]
)
def test_what_is_no_time_is_a_text(text):
    assert read(f"{text}\n") == [[(TEXT, text)]]


@pytest.mark.parametrize("word", ["", *GAP_WORDS])
def test_gaps_are_empty_fields_and_words(word):
    found = read(f'{word},1\n"{word}",2\n', 2)
    assert [[tag for tag, _ in row] for row in found] == [[GAP, NUMBER]] * 2


def test_a_word_for_a_gap_may_be_a_number():
    found = read("-999,x\n-999.0,1\n", 2, gaps=("-999",))
    assert [[tag for tag, _ in row] for row in found] == [[GAP, TEXT], [GAP, NUMBER]]


def test_nan_in_small_letters_is_a_number_unless_it_is_named_a_gap():
    ((tag, value),) = read("nan\n")[0]
    assert tag == NUMBER
    assert math.isnan(value)
    assert read("nan\n", gaps=("nan",))[0][0][0] == GAP


def test_a_category_of_numbers_keeps_its_texts():
    assert read("01234, 12\n", 2, as_text=[True, False]) == [[(TEXT, "01234"), (NUMBER, 12.0)]]


FIELDS = st.text(st.sampled_from('ab ",;é?1.-'), max_size=8).map(str.strip)


@settings(max_examples=300)
@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=6))
def test_texts_are_those_that_csv_wrote(rows):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([*rows, ("x", "y", "z")])
    found = read(stream.getvalue(), 3, as_text=[True] * 3, gaps=())
    kept = [row for row in rows if any(row)] + [("x", "y", "z")]
    read_back = [[text if tag == TEXT else "" for tag, text in row] for row in found]
    assert [list(row) for row in kept] == [row for row in read_back if any(row)]


@pytest.mark.parametrize(
    ("text", "kind"), [("1\n", "fields"), ("1,2,3\n", "fields"), ('"a,1\n', "quote"), ("1,2\n\0\0\0\n", "nul")]
)
def test_lines_that_are_no_rows_are_refused(text, kind):
    with pytest.raises(ParseFault) as caught:
        read(text, 2)
    assert caught.value.kind == kind
