"""Decompresses a file from its beginning to its end, and notices one that is torn."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Any

from disttrain.errors import DataError
from disttrain.storage.base import Reader

_BLOCK_BYTES = 4 << 20


def unpacked_blocks(raw: Reader, method: str) -> Iterator[bytes]:
    """Yields what a file compressed with zstd or xz holds, block by block.

    Raises:
        DataError: if it is torn, or something else follows its end.
    """
    url, size_bytes = raw.info.url, raw.info.size_bytes
    new, failures = _decompressor(method)
    decompressor, is_within = new(), False
    for start in range(0, size_bytes, _BLOCK_BYTES):
        buffer = bytearray(min(_BLOCK_BYTES, size_bytes - start))
        raw.read_into(start, memoryview(buffer))
        rest = bytes(buffer)
        while rest:
            if not is_within and method == "xz":
                rest = rest.lstrip(b"\0")  # padding between parts
                if not rest:
                    break
            try:
                block = decompressor.decompress(rest)
            except failures as error:
                raise DataError(
                    f"{url}: cannot be decompressed near byte {start:,} of {size_bytes:,}: {error}; write or copy it "
                    "again"
                ) from error
            if block:
                yield block
            is_within, rest = not decompressor.eof, b""
            if decompressor.eof:  # another compressed part may follow
                rest = decompressor.unused_data
                decompressor = new()
    if is_within or not size_bytes:
        raise DataError(f"{url}: is torn: it ends at byte {size_bytes:,}, within a part; write or copy it again")


def converted_blocks(raw: Reader, encoding: str) -> Iterator[bytes]:
    """Yields a text in another encoding as UTF-8, block by block; DataError for bytes that are no such text."""
    url, size_bytes = raw.info.url, raw.info.size_bytes
    decoder = codecs.getincrementaldecoder(encoding)()
    for start in range(0, size_bytes, _BLOCK_BYTES):
        buffer = bytearray(min(_BLOCK_BYTES, size_bytes - start))
        raw.read_into(start, memoryview(buffer))
        try:
            block = decoder.decode(bytes(buffer), final=start + len(buffer) == size_bytes).encode()
        except UnicodeError as error:
            at = start + getattr(error, "start", 0)
            raise DataError(
                f"{url}: is no text in {encoding} near byte {at:,} ({getattr(error, 'reason', error)}); name its "
                "encoding with --encoding"
            ) from error
        yield block


def _decompressor(method: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """Returns what makes a decompressor of one part, and what it raises."""
    if method == "xz":
        import lzma

        return lzma.LZMADecompressor, (lzma.LZMAError,)
    import zstandard

    return (lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()), (zstandard.ZstdError,)
