"""An open dataset with the columns chosen from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from disttrain.data.csv.columns import choose_columns, make_layout
from disttrain.data.csv.header import Header
from disttrain.data.csv.parser import Layout
from disttrain.data.csv.text import CsvText


@dataclass(frozen=True, eq=False)
class OpenCsv:
    """An open dataset with the columns chosen from it, before its rows are indexed; a context manager."""

    text: CsvText
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    weight: str | None = None

    @classmethod
    def choose(
        cls,
        text: CsvText,
        *,
        features: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        weight: str | None = None,
        exclude: Sequence[str] = (),
    ) -> OpenCsv:
        """Chooses the columns of an open text; raises UsageError for one that does not exist."""
        try:
            where = text.files[0].info.url
            return cls(text, *choose_columns(text.header, features, targets, weight, exclude, where=where), weight)
        except BaseException:
            text.reader.close()
            raise

    @property
    def header(self) -> Header:
        """The names of its columns, and its delimiter."""
        return self.text.header

    @property
    def column_names(self) -> tuple[str, ...]:
        """The features, the targets, and the weight if there is one."""
        return self.feature_names + self.target_names + (() if self.weight is None else (self.weight,))

    @property
    def layout(self) -> Layout:
        """How the chosen columns are parsed as plain numbers."""
        return make_layout(self.header, self.column_names)

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        self.text.reader.close()

    def __enter__(self) -> OpenCsv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
