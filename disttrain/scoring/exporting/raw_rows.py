"""Rows as a model of raw columns takes them: numbers with NaN for gaps, and texts as they stand in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disttrain.data.csv.columns import make_layout
from disttrain.data.csv.parser import ParseFault
from disttrain.data.csv.source import Source
from disttrain.data.csv.value_reader import ValueReader
from disttrain.data.ranges import Range
from disttrain.data.table.values import NUMBER, numbers_of
from disttrain.errors import DataError
from disttrain.scoring.exporting.comparison import Arrays
from disttrain.scoring.kept_fields import blocks_of_rows, fields_of_rows

_PLACES, _ROWS = 16, 64  # at how many places rows are taken, and how many at each: read and compared within a second


def sample_of(num_rows: int) -> list[Range]:
    """Returns which rows a model is compared on: up to 1,024, from all over the files."""
    if num_rows <= _PLACES * _ROWS:
        return [Range(0, num_rows)]
    starts = np.linspace(0, num_rows - _ROWS, _PLACES).astype(int).tolist()
    return [Range(start, start + _ROWS) for start in starts]


def raw_rows(
    source: Source, inputs: Mapping[str, Sequence[str]], texts: Sequence[str], gaps: Sequence[str]
) -> tuple[Arrays, list[int]]:
    """Reads rows from all over the files.

    Args:
        source: the files.
        inputs: each input's name, with the columns that it is made of.
        texts: the inputs that are texts, of one column each.
        gaps: words that stand for nothing.

    Returns:
        Each input, float64 [rows, its columns] or texts [rows, 1], and the rows' numbers. Rows that cannot be read are
        left out.

    Raises:
        DataError: if no row can be read.
    """
    numbers = {name: columns for name, columns in inputs.items() if name not in texts}
    wanted = [column for columns in numbers.values() for column in columns]
    words = [word for word in gaps if not numbers_of([word])]  # gaps that are numbers are the model's to know
    chosen = [inputs[name][0] for name in texts]

    def read(rows: Range) -> Iterator[_Part]:
        try:
            yield _Part(rows, _numbers(source, rows, wanted, words), fields_of_rows(source, rows, chosen))
        except (ParseFault, DataError):
            middle = (rows.start + rows.stop) // 2
            if len(rows) > 1:
                yield from read(Range(rows.start, middle))
                yield from read(Range(middle, rows.stop))

    found = [part for rows in sample_of(source.num_rows) for part in read(rows)]
    if not found:
        raise DataError(f"{source.url}: none of its rows can be read; name others to compare the exported model on")
    matrix = np.concatenate([part.numbers for part in found])
    starts = np.cumsum([0, *map(len, numbers.values())]).tolist()
    made: dict[str, npt.NDArray[np.float64] | npt.NDArray[np.object_]] = {
        name: matrix[:, start:stop] for name, start, stop in zip(numbers, starts, starts[1:], strict=False)
    }
    for place, name in enumerate(texts):
        made[name] = np.array([[text] for part in found for text in part.texts[place]], object)
    return made, [row for part in found for row in range(part.rows.start, part.rows.stop)]


@dataclass(frozen=True)
class _Part:
    """Some rows: `numbers` float64 [rows, columns], and the texts of each column of texts."""

    rows: Range
    numbers: npt.NDArray[np.float64]
    texts: list[list[str]]


def _numbers(source: Source, rows: Range, names: Sequence[str], gaps: Sequence[str]) -> npt.NDArray[np.float64]:
    """Returns columns of numbers as float64 [rows, columns]; what is no number is NaN."""
    if not names:
        return np.zeros((len(rows), 0))
    parts = []
    for block, header in blocks_of_rows(source, rows):
        layout = make_layout(header, names)
        reader = ValueReader(layout.take, layout.delimiter, [False] * len(names), gaps)
        start = block.start
        while start < block.stop:
            count, start = reader.read(block.buffer, start, block.stop)
            values, tags = (array[:, :count].T for array in (reader.values.values, reader.values.tags))
            parts.append(np.where(tags == NUMBER, values, np.nan))
    return np.concatenate(parts)
