"""The rows' text of a dataset: the lines of its files from their first rows on, as one stretch of bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from disttrain.data.csv.header import Header
from disttrain.storage.base import FileInfo, Reader
from disttrain.storage.joined import JoinedReader
from disttrain.storage.open import check_unchanged, seen_here

CHUNK_BYTES = 1 << 20

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CsvFile:
    """One file as it was when it was first looked at, and its header.

    `columns`, if its fields stand in another order than the first file's: for each field, the number of the first
    file's field of the same name, or -1.
    """

    info: FileInfo
    header: Header
    columns: tuple[int, ...] | None = None

    def seen_here(self) -> CsvFile:
        """Returns the file as this machine sees it, where another worker has read its header."""
        return replace(self, info=seen_here(self.info))

    def take(self, take: Int32s) -> Int32s:
        """Returns, for this file's fields, what `take` says of the first file's, int32 [fields]; -1 for others."""
        if self.columns is None:
            return take
        return np.append(take, np.int32(-1))[list(self.columns)].astype(np.int32)


@dataclass(frozen=True, eq=False)
class CsvText:
    """The text of one file or of several, cut into chunks of CHUNK_BYTES from each file's first row on.

    `reader` reads it; `starts` and `stops` (int64 [files]) are the offsets in it at which each file's rows begin, and
    at which the file ends.
    """

    reader: Reader
    files: Sequence[CsvFile]
    starts: Int64s
    stops: Int64s

    @classmethod
    def of_one(cls, reader: Reader, header: Header) -> CsvText:
        """Returns the text of one open file."""
        bounds = np.array([[header.rows_start], [reader.info.size_bytes]], np.int64)
        return cls(reader, [CsvFile(reader.info, header)], *bounds)

    @classmethod
    def of_several(cls, label: str, files: Sequence[CsvFile], open_file: Callable[[str], Reader]) -> CsvText:
        """Returns the text of several files, which are opened when they are read; `label` is what messages call it."""
        skips = [file.header.rows_start for file in files]
        reader = JoinedReader(label, [file.info for file in files], skips, open_file)
        return cls(reader, files, reader.starts[:-1], reader.starts[1:] - 1)

    @property
    def header(self) -> Header:
        """The first file's, with which the others agree."""
        return self.files[0].header

    @property
    def info(self) -> FileInfo:
        """All files as one."""
        return self.reader.info

    @property
    def chunk_bytes(self) -> int:
        """The size of a chunk; a file's last one may be shorter."""
        return CHUNK_BYTES

    @property
    def first_row(self) -> int:
        """The offset from which the first row may start."""
        return int(self.starts[0])

    @functools.cached_property
    def has_orders(self) -> bool:
        """Tells whether some file's columns stand in another order than the first file's."""
        return any(file.columns is not None for file in self.files)

    @functools.cached_property
    def first_chunks(self) -> Int64s:
        """Gives the number of each file's first chunk, int64 [files + 1]: the last one is that of all chunks."""
        chunks = -((self.starts - self.stops) // self.chunk_bytes)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(chunks)])

    @property
    def num_chunks(self) -> int:
        """Chunks of all files, which the ranks divide among themselves before they scan."""
        return int(self.first_chunks[-1])

    @functools.cached_property
    def chunk_starts(self) -> Int64s:
        """Gives the offset at which each chunk begins, int64 [num_chunks]."""
        counts = np.diff(self.first_chunks)
        numbers = np.arange(self.num_chunks) - np.repeat(self.first_chunks[:-1], counts)
        return np.repeat(self.starts, counts) + numbers * self.chunk_bytes

    def file_of_chunk(self, chunk: int) -> int:
        """Returns the number of the file that a chunk is cut from."""
        return int(np.searchsorted(self.first_chunks, chunk, side="right")) - 1

    def file_at(self, offset: int) -> int:
        """Returns the number of the file whose bytes an offset is among."""
        return max(int(np.searchsorted(self.starts, offset, side="right")) - 1, 0)

    def url_at(self, offset: int) -> str:
        """Returns the path or URL of the file whose bytes an offset is among."""
        return self.files[self.file_at(offset)].info.url

    def check_unchanged(self) -> None:
        """Raises FileChanged if a file, of several one that was read, is no longer as it was."""
        if isinstance(self.reader, JoinedReader):
            self.reader.check_unchanged()
        else:
            check_unchanged(self.reader.info)
