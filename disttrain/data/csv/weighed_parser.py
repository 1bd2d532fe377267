"""Adds a weight to rows that have none, so that rows that cannot be read may weigh nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from disttrain.data.csv.parser import RowParser


class WeighedParser:
    """Parses rows with another parser, and gives each the weight 1 in a further column; a `RowParser`."""

    def __init__(self, parser: RowParser) -> None:
        self._parser = parser
        self.num_columns = parser.num_columns + 1
        self.raw_take = parser.raw_take
        self._rows = np.empty((0, parser.num_columns), np.float32)

    def parse(
        self, buffer: npt.NDArray[np.uint8], start: int, stop: int, out: npt.NDArray[np.float32]
    ) -> tuple[int, int, bool]:
        """Parses lines into the first rows of `out`, as `parser.parse_rows` does."""
        if len(self._rows) < len(out):
            self._rows = np.empty((len(out), self._parser.num_columns), np.float32)
        count, position, has_large = self._parser.parse(buffer, start, stop, self._rows[: len(out)])
        out[:count, :-1] = self._rows[:count]
        out[:count, -1] = 1
        return count, position, has_large
