"""Reads spans of a file as blocks of whole lines, ahead of use and in the background, into reused buffers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from disttrain.activity import activity
from disttrain.data.csv.first_lines import MAX_LINE_BYTES
from disttrain.data.csv.normalizer import Normalizer
from disttrain.errors import DataError
from disttrain.storage.base import Reader
from disttrain.threads import DaemonPool

_HEADROOM = 1 << 16  # bytes before a block, for the start of a line that began in the previous block


@dataclass(frozen=True, eq=False)
class Block:
    """Whole lines in `buffer[start:stop]`; only a file's last line may lack its line feed.

    `base` is the file's offset of `buffer[0]`. The buffer is reused once the next block is requested.
    """

    buffer: npt.NDArray[np.uint8]
    start: int
    stop: int
    base: int
    ends_span: bool


@dataclass(frozen=True)
class _Read:
    """A part of a span that is being read into `raw`, after the headroom."""

    done: Future[None]
    raw: bytearray
    offset: int
    length: int
    ends_span: bool


def line_blocks(
    reader: Reader,
    spans: Iterable[tuple[int, int]],
    pool: DaemonPool,
    *,
    block_bytes: int,
    num_ahead: int = 1,
    normalizer: Normalizer | None = None,
) -> Iterator[Block]:
    """Yields the lines of each span of bytes `[start, stop)` in turn, in blocks of up to `block_bytes`.

    A span begins and ends where a line does; an empty one gives no block, and no byte outside the spans is read.
    `num_ahead` blocks are being read while one is used; `normalizer` rewrites their lines as plain ones. Raises what
    the reader raises; DataError for a line of more than `MAX_LINE_BYTES`.
    """
    parts = ((offset, stop) for start, stop in spans for offset in range(start, stop, block_bytes))
    pending: deque[_Read] = deque()

    def read_next(raw: bytearray) -> None:
        if (part := next(parts, None)) is not None:
            offset, stop = part
            length = min(block_bytes, stop - offset)
            if len(raw) < _HEADROOM + length:
                raw = bytearray(_HEADROOM + length)
            target = memoryview(raw)[_HEADROOM : _HEADROOM + length]
            done = pool.submit(partial(_read_into, reader, offset, target))
            pending.append(_Read(done, raw, offset, length, offset + length == stop))

    for _ in range(num_ahead + 1):
        read_next(bytearray())
    tail = b""
    while pending:
        read = pending.popleft()
        with activity("waiting for the bytes of {} from {} on", reader.info.url, read.offset, waits_for_threads=True):
            read.done.result()
        raw, end = read.raw, _HEADROOM + read.length
        if normalizer is not None:
            block = _joined(tail, read, end)
            stop = normalizer(block.buffer, block.start, block.stop, is_last=read.ends_span)
            tail = block.buffer[stop : block.stop].tobytes()
            _check_length(tail, reader)
            if stop > block.start:
                yield replace(block, stop=stop)
            elif read.ends_span:
                yield block
            read_next(raw)
            continue
        cut = end if read.ends_span else raw.rfind(b"\n", _HEADROOM, end) + 1
        if not cut:  # no line ends in this block
            tail += raw[_HEADROOM:end]
            _check_length(tail, reader)
        else:
            yield _joined(tail, read, cut)
            tail = bytes(raw[cut:end])
        read_next(raw)


def _check_length(line: bytes, reader: Reader) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise DataError(f"{reader.info.url}: a line of more than {MAX_LINE_BYTES} bytes; expected rows of numbers")


def _read_into(reader: Reader, offset: int, target: memoryview) -> None:
    with activity("reading bytes {} to {} of {}", offset, offset + len(target), reader.info.url):
        reader.read_into(offset, target)


def _joined(tail: bytes, read: _Read, cut: int) -> Block:
    """Returns the lines up to `cut`; `tail` is the start of the first one, from the previous buffer."""
    if len(tail) <= _HEADROOM:
        start = _HEADROOM - len(tail)
        read.raw[start:_HEADROOM] = tail
        return Block(np.frombuffer(read.raw, np.uint8), start, cut, read.offset - _HEADROOM, read.ends_span)
    whole = np.frombuffer(bytearray(tail + read.raw[_HEADROOM:cut]), np.uint8)
    return Block(whole, 0, len(whole), read.offset - len(tail), read.ends_span)
