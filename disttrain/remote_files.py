"""A directory of any store that fsspec opens: small listings, whole objects put in one piece, and removed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from disttrain.errors import UsageError
from disttrain.reader import Patience
from disttrain.store_calls import StoreCalls

SLOW_BYTES_PER_S = 2_000_000  # a link slower than this is given up, however large the object


class RemoteDirectory:
    """The objects right below a URL; every call waits and tries again as its patience says."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = url.rstrip("/")
        self._patience = patience
        self._calls = StoreCalls(self._url, patience)

    def names(self) -> list[str]:
        """The names of its objects, in no order; none where the directory does not exist."""

        def attempt(timeout_s: float) -> list[str]:
            self._calls.fs.invalidate_cache(self._calls.path)
            try:
                paths = self._calls.run("ls", timeout_s, self._calls.path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths]

        return self._calls.patiently("list the directory", attempt)

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Store what `write` writes as one object, whole or not at all, in place of one of that name."""
        stream = io.BytesIO()
        write(stream)
        content = stream.getvalue()

        def attempt(timeout_s: float) -> None:
            try:
                self._calls.run("pipe_file", timeout_s, f"{self._calls.path}/{name}", content)
            except FileNotFoundError as error:
                raise UsageError(f"{self._url}: there is no such bucket or directory; make it first") from error
            except NotImplementedError as error:
                raise UsageError(f"{self._url}: cannot be written to; name a directory or a bucket") from error

        extra_s = len(content) / SLOW_BYTES_PER_S
        patience = replace(
            self._patience,
            attempt_s=self._patience.attempt_s + extra_s,
            total_s=self._patience.total_s + 2 * extra_s,
        )
        self._calls.patiently(f"take {name} ({len(content):,} bytes)", attempt, patience)

    def remove(self, name: str) -> None:
        """Remove an object; one that is not there is removed."""

        def attempt(timeout_s: float) -> None:
            try:
                self._calls.run("rm_file", timeout_s, f"{self._calls.path}/{name}")
            except FileNotFoundError:
                return

        self._calls.patiently(f"remove {name}", attempt)

    def close(self) -> None:
        """Cancel what is running; a second call does nothing."""
        self._calls.close()
