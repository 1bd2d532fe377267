"""Requests one range of an object, over HTTP or from S3, and checks that the answer is what was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from disttrain.errors import FileChanged, StorageError
from disttrain.storage.base import Span

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Asked:
    """A requested range of an object, with the size and the ETag or date that the object had when it was opened."""

    def __init__(self, url: str, info: Mapping[str, Any], span: Span) -> None:
        self.url = url
        self.size_bytes = int(info["size"])
        self.etag = str(info.get("ETag") or "")
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

    def check(self, content_range: str | None, etag: str, date: str) -> None:
        """Compares an answer's headers with what was asked for.

        Raises:
            StorageError: if the answer has no range, because the server gives the whole file.
            FileChanged: if the object has another version or another size.
            ConnectionError: if the answer has other bytes; a retry may help.
        """
        if (self.etag and etag and etag != self.etag) or (not self.etag and date and self.date and date != self.date):
            raise FileChanged(
                f"{self.url}: the file changed while it was being read (it was {self.etag or self.date}, and is "
                f"{etag or date}); run again when nothing writes to it"
            )
        if content_range is None:
            raise StorageError(
                f"{self.url}: the server does not serve byte ranges; copy the file to a disk or a store that does"
            )
        match = _CONTENT_RANGE.fullmatch(content_range.strip())
        if match is None or (int(match[1]), int(match[2]) + 1) != (self.start, self.stop):
            raise ConnectionError(f"asked for {self.header}, got Content-Range '{content_range}'")
        if match[3] not in ("*", str(self.size_bytes)):
            raise FileChanged(
                f"{self.url}: the file changed while it was being read ({self.size_bytes} bytes before, {match[3]} "
                "now); run again when nothing writes to it"
            )


async def http_info(fs: Any, path: str) -> dict[str, Any]:
    """Returns the size and version that a web server reports; raises an error answer with its status."""
    session = await fs.set_session()
    url, headers = fs.encode_url(path), {"Accept-Encoding": "identity"}
    async with session.head(url, headers=headers, allow_redirects=True) as answer:
        if answer.ok and "Content-Length" in answer.headers and not _is_encoded(answer.headers):
            return _told(answer.headers, int(answer.headers["Content-Length"]))
        if answer.status == 429 or (answer.status >= 500 and answer.status != 501):
            answer.raise_for_status()
    async with session.get(url, headers={**headers, "Range": "bytes=0-0"}) as answer:  # HEAD did not tell the size
        if answer.status == 416:  # the file is empty
            return _told(answer.headers, 0)
        answer.raise_for_status()
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        size = match[3] if match else answer.headers.get("Content-Length")
        is_known = size is not None and size.isdecimal() and not _is_encoded(answer.headers)
        return _told(answer.headers, int(size) if is_known else None)


def _is_encoded(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "identity") not in ("identity", "")


def _told(headers: Mapping[str, str], size_bytes: int | None) -> dict[str, Any]:
    names = ("ETag", "Content-MD5", "Digest", "Last-Modified")
    return {"size": size_bytes, "type": "file", **{name: headers[name] for name in names if headers.get(name)}}


async def http_range(fs: Any, path: str, asked: Asked) -> bytes:
    """Returns the bytes asked for; rejects an answer with other bytes before it reads the body."""
    session = await fs.set_session()
    headers = {"Range": asked.header, "Accept-Encoding": "identity"}
    if asked.strong_etag:
        headers["If-Match"] = asked.strong_etag
    async with session.get(fs.encode_url(path), headers=headers) as answer:
        answer.raise_for_status()
        content_range = answer.headers.get("Content-Range") if answer.status == 206 else None
        is_all = (asked.start, asked.stop) == (0, asked.size_bytes) == (0, answer.content_length)
        is_untold = answer.status == 206 and content_range is None and answer.content_type != "multipart/byteranges"
        if is_untold or (answer.status == 200 and is_all):  # only the length can be checked
            content_range = f"bytes {asked.start}-{asked.stop - 1}/*"
        asked.check(content_range, answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""))
        return bytes(await answer.read())


async def s3_range(fs: Any, path: str, asked: Asked) -> bytes:
    """Returns the bytes asked for as `http_range` does, but from S3, through s3fs."""
    bucket, key, version = fs.split_path(path)
    options = {"VersionId": version} if version else {}
    if asked.strong_etag:
        options["IfMatch"] = asked.strong_etag
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=asked.header, **options)
    try:
        asked.check(answer.get("ContentRange"), answer.get("ETag", ""), "")
        return bytes(await answer["Body"].read())
    finally:
        answer["Body"].close()
