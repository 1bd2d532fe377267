"""Raw columns of every kind, and rows with all that may stand in them."""

import csv
import io

import numpy as np

from disttrain.config.option_types import PARTS
from disttrain.data.csv.encoded_parser import EncodedParser, Encoding
from disttrain.data.csv.header import Header
from disttrain.data.table.columns import Column, Table
from disttrain.data.table.values import GAP_WORDS

GAP_NUMBERS = ("-999", "-999.9")
CITIES = ("Rome", "Paris, France", 'Oslo "N"', "[UNK]", "Köln")
TIMES = [
    "2024-02-29", "1969-12-31T23:59:59", "2024-05-01 12:30", "2024-05-01T12:30:15.25", "2000-03-01T00:00:00.123456",
    "2024-05-01T12:30:15+02:00", "2024-05-01T12:30:15-0930", "2024-05-01T12:30+05", "1900-01-01", "9999-12-31",
]  # fmt: skip
COLUMNS = (
    Column("floor", "number", offset=1.7e9, scale=3.0, fill=1.7e9 + 1),
    Column("od/a b", "number", offset=-1e-7, scale=1e-9, fill=0.0, has_indicator=True),
    Column("cast", "number", fill=2.5),
    Column("city", "category", categories=CITIES, has_gaps=True),
    Column("town", "category", categories=CITIES, gap_as="Köln"),
    Column("where", "category", categories=CITIES),
    Column("user", "category", bins=97, has_gaps=True),
    Column("when", "time", offset=1.5e9, scale=1e7, fill=1.6e9, is_text=True),
    Column("then", "time", parts=PARTS, fill=0.0, has_indicator=True, is_text=True),
    Column("unix", "time", parts=("hour",), fill=0.0),
)  # fmt: skip


def rows(count=400):
    """Raw rows as texts: numbers of all sizes, known and unknown texts, times, and every way to write a gap."""
    draw = np.random.default_rng(0)
    words = [*CITIES, "Ulm", "x" * 70, ""]

    def one():
        return [
            repr(1.7e9 + draw.normal()), repr(draw.normal() * 1e-9), repr(draw.normal() * 10),
            *(str(draw.choice(words)) for _ in range(4)),
            str(draw.choice(TIMES)), str(draw.choice(TIMES)), str(draw.integers(-(10**9), 10**10)),
        ]  # fmt: skip

    made = [one() for _ in range(count)]
    gaps = ["", *GAP_WORDS, *GAP_NUMBERS]
    for number, row in enumerate(made[: len(gaps) * len(COLUMNS)]):  # each gap in each column
        gap, place = divmod(number, len(COLUMNS))
        row[place] = gaps[gap] if place != 5 else ""
    return made


def table_of(names=tuple(column.name for column in COLUMNS)):
    """The table of some of these columns."""
    columns = (column for column in COLUMNS if column.name in names)
    return Table((*columns, Column("y", "number", "target")), gaps=(*GAP_WORDS, *GAP_NUMBERS))


def encoded(table, made):
    """What the encoder makes of the rows, written as a CSV: float32 [rows, numbers]."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([[*row, "0"] for row in made])
    names = (*(column.name for column in COLUMNS), "y")
    buffer = np.frombuffer(stream.getvalue().encode() + b" " * 64, np.uint8)
    out = np.empty((len(made), table.num_slots), np.float32)
    parser = EncodedParser(Encoding.of(Header(names, True, 0), table))
    count, _, _ = parser.parse(buffer, 0, len(buffer) - 64, out)
    assert count == len(made)
    return out[:, :-1]


def raw(table, made):
    """The columns of the rows as a raw model takes them: float64 with NaN for gaps, or texts, [rows, 1]."""
    given = {}
    for number, column in enumerate(COLUMNS):
        texts = [row[number] for row in made]
        if column not in table.features:
            continue
        if column.kind == "category" or column.is_text:
            given[column.name] = np.array(texts, object)[:, np.newaxis]
        else:
            values = [float("nan") if text in ("", *GAP_WORDS) else float(text) for text in texts]
            given[column.name] = np.array(values)[:, np.newaxis]
    return given
