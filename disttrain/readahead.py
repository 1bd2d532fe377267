"""A shard's bytes as blocks of whole lines, read ahead in the background into buffers that are used again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from disttrain.errors import DataError
from disttrain.reader import Reader
from disttrain.threads import DaemonPool

MAX_LINE_BYTES = 1 << 24  # a longer line is no row of numbers

_HEADROOM = 1 << 16  # room before a block for the line that began in the one before it


@dataclass(frozen=True, eq=False)
class Block:
    """Whole lines in `buffer[start:stop]`, of which only a file's last may lack its line feed; `base` is the file's
    offset of `buffer[0]`. The buffer is used again after the next block was asked for."""

    buffer: npt.NDArray[np.uint8]
    start: int
    stop: int
    base: int


def line_blocks(
    reader: Reader, start: int, stop: int, pool: DaemonPool, *, block_bytes: int, num_ahead: int = 1
) -> Iterator[Block]:
    """The lines of the bytes `[start, stop)`, in blocks of some `block_bytes`; no byte outside is read.

    `num_ahead` blocks are being read while one is used. Raises what the reader raises; DataError for an endless line.
    """
    offsets = iter(range(start, stop, block_bytes))
    pending: deque[tuple[Future[None], bytearray, int, int]] = deque()

    def read_next(raw: bytearray) -> None:
        if (offset := next(offsets, None)) is not None:
            length = min(block_bytes, stop - offset)
            target = memoryview(raw)[_HEADROOM : _HEADROOM + length]
            pending.append((pool.submit(partial(reader.read_into, offset, target)), raw, offset, length))

    for _ in range(num_ahead + 1):
        read_next(bytearray(_HEADROOM + min(block_bytes, stop - start)))
    tail = b""
    while pending:
        read, raw, offset, length = pending.popleft()
        read.result()
        end = _HEADROOM + length
        cut = end if offset + length == stop else raw.rfind(b"\n", _HEADROOM, end) + 1
        if not cut:  # no line ends in this block
            tail += raw[_HEADROOM:end]
            if len(tail) > MAX_LINE_BYTES:
                raise DataError(
                    f"{reader.info.url}: a line of more than {MAX_LINE_BYTES} bytes; expected rows of numbers"
                )
        else:
            yield _joined(tail, raw, cut, offset)
            tail = bytes(raw[cut:end])
        read_next(raw)


def _joined(tail: bytes, raw: bytearray, cut: int, offset: int) -> Block:
    """The lines up to `cut`, the first of which began with `tail`, in the buffer before."""
    if len(tail) <= _HEADROOM:
        raw[_HEADROOM - len(tail) : _HEADROOM] = tail
        return Block(np.frombuffer(raw, np.uint8), _HEADROOM - len(tail), cut, offset - _HEADROOM)
    whole = np.frombuffer(tail + raw[_HEADROOM:cut], np.uint8)
    return Block(whole, 0, len(whole), offset - len(tail))
