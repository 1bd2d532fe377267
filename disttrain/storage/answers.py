"""Whether a store's answer is the part of an object that was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from disttrain.errors import FileChanged, StorageError
from disttrain.storage.base import Span

CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Asked:
    """A requested range of an object, with the size and the ETag or date that the object had when it was opened."""

    def __init__(self, url: str, info: Mapping[str, Any], span: Span) -> None:
        self.url = url
        self.size_bytes = int(info["size"])
        self.etag = str(info.get("ETag") or "")
        self.generation = str(info.get("generation") or "")  # Google's name for a version
        self.date = str(info.get("Last-Modified") or "")
        self.start, self.stop = span

    @property
    def header(self) -> str:
        """The range as an HTTP header, which names the last byte and not the one after it."""
        return f"bytes={self.start}-{self.stop - 1}"

    @property
    def strong_etag(self) -> str:
        """The ETag to request the object by; empty if it has none, or a weak one, which other bytes may share."""
        return "" if self.etag.startswith("W/") else self.etag

    def check(self, content_range: str | None, etag: str, date: str = "", generation: str = "") -> None:
        """Compares an answer's headers with what was asked for.

        Raises:
            StorageError: if the answer has no range, because the server gives the whole file.
            FileChanged: if the object has another version or another size.
            ConnectionError: if the answer has other bytes; a retry may help.
        """
        versions = ((self.generation, generation), (self.etag, etag), ("" if self.etag else self.date, date))
        for before, now in versions:
            if before and now and before != now:
                raise FileChanged(
                    f"{self.url}: the file changed while it was being read (bytes {self.start} to {self.stop}: it was "
                    f"{before}, and is {now}); run again when nothing writes to it"
                )
        if content_range is None:
            raise StorageError(
                f"{self.url}: the server does not serve byte ranges (it was asked for bytes {self.start} to "
                f"{self.stop}); copy the file to a disk or a store that does"
            )
        match = CONTENT_RANGE.fullmatch(content_range.strip())
        if match is None or (int(match[1]), int(match[2]) + 1) != (self.start, self.stop):
            raise ConnectionError(f"asked for {self.header}, got Content-Range '{content_range}'")
        if match[3] not in ("*", str(self.size_bytes)):
            raise FileChanged(
                f"{self.url}: the file changed while it was being read (bytes {self.start} to {self.stop}: it had "
                f"{self.size_bytes} bytes before, and {match[3]} now); run again when nothing writes to it"
            )
