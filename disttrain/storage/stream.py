"""An open file as one of Python's binary streams, for libraries that want one."""

from __future__ import annotations

import io
from typing import Any

from disttrain.storage.base import Reader


class ReaderStream(io.RawIOBase):
    """A `Reader` as a stream: small reads are served from a block, large ones fill the buffer directly."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._position = 0
        self._block, self._block_start = memoryview(b""), 0
        self.failure: Exception | None = None  # what a read failed with

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to a position, and returns it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._reader.info.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Returns the position."""
        return self._position

    def readinto(self, target: Any, /) -> int:
        """Fills the beginning of a buffer, and returns how many bytes those are; 0 at the end."""
        try:
            return self._read_into(memoryview(target).cast("B"))
        except Exception as error:
            self.failure = error
            raise

    def _read_into(self, buffer: memoryview) -> int:
        left = max(self._reader.info.size_bytes - self._position, 0)
        if len(buffer) >= self._reader.block_bytes:
            count = min(len(buffer), left)
            self._reader.read_into(self._position, buffer[:count])
        else:
            if not 0 <= self._position - self._block_start < len(self._block):
                self._block = memoryview(bytearray(min(self._reader.block_bytes, left)))
                self._block_start = self._position
                self._reader.read_into(self._position, self._block)
            found = self._block[self._position - self._block_start :][: len(buffer)]
            count = len(found)
            buffer[:count] = found
        self._position += count
        return count
