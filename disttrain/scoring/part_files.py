"""The parts of an output: files beside it that are joined in the end, and that a later run goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Protocol, cast

from disttrain.activity import activity, touch
from disttrain.errors import UsageError
from disttrain.scoring.formats import Format
from disttrain.storage.local import local_path, remove_parts
from disttrain.storage.open import open_directory, open_reader, read_whole, write_whole
from disttrain.storage.stream import ReaderStream

_ABOUT = "about.txt"
_OWN = re.compile(r"part-\d+\.\w+|about\.txt")


class Parts(Protocol):
    """Where the parts of predictions go."""

    def write(self, number: int, table: Any) -> None:
        """Takes a part."""


class PartsInMemory:
    """The parts of one worker, by number, in memory."""

    def __init__(self) -> None:
        self.tables: dict[int, Any] = {}

    def write(self, number: int, table: Any) -> None:
        """Keeps a part."""
        self.tables[number] = table


class PartFiles:
    """The parts of one output, numbered from 0; a context manager."""

    def __init__(self, output: str, written: Format, num_parts: int) -> None:
        """Opens the directory `OUTPUT.parts`, which need not exist."""
        self._output = output
        self._format = written
        self._url = f"{output}.parts"
        self._names = [f"part-{number:06d}{written.suffix}" for number in range(num_parts)]
        self._directory = open_directory(self._url)

    def begin(self, about: str) -> list[int]:
        """Returns the parts that an earlier run left, if it was `about` the same; removes those of another."""
        names = self._directory.names()
        if _ABOUT in names and self._read_about() == about:
            return [number for number, name in enumerate(self._names) if name in names]
        for name in filter(_OWN.fullmatch, names):
            self._directory.remove(name)
        self._directory.put(_ABOUT, lambda stream: _write(stream, about.encode()))
        return []

    def check_seen(self, about: str) -> None:
        """Raises UsageError unless this worker sees what the leader began: the workers have to share the directory."""
        if _ABOUT not in self._directory.names() or self._read_about() != about:
            raise UsageError(
                f"{self._url}: this worker does not see what the leader writes there: name an --output that all "
                "workers share, such as one in a store"
            )

    def write(self, number: int, table: Any) -> None:
        """Writes a part, whole or not at all."""
        self._directory.put(self._names[number], lambda stream: self._format.write_part(table, stream))

    def join(self, schema: Any) -> None:
        """Writes the output, whole or not at all, and removes the parts."""
        with activity("joining the parts of {}", self._output):
            write_whole(self._output, lambda stream: self._format.join(schema, self._streams(), stream))
        for name in (*self._names, _ABOUT):
            self._directory.remove(name)
        path = local_path(self._url)
        if path is not None:
            remove_parts(path, _OWN.pattern, with_living_writers=False)
            with suppress(OSError):
                path.rmdir()

    def close(self) -> None:
        """Releases the directory; a second call does nothing."""
        self._directory.close()

    def __enter__(self) -> PartFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_about(self) -> str:
        return read_whole(f"{self._url}/{_ABOUT}").decode(errors="replace")

    def _streams(self) -> Iterator[BinaryIO]:
        for name in self._names:
            touch()
            with open_reader(f"{self._url}/{name}") as reader:
                yield cast(BinaryIO, ReaderStream(reader))


def _write(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
