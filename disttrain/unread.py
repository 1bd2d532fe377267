"""Output that cannot be written is dropped: what a run prints is no reason for it to end.

Ctrl-C in `disttrain ... | tee log` ends tee at once, and the run has a checkpoint to write yet. A shell may have closed
stdout or stderr (`>&-`), and a disk that the output goes to may be full.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def drop_unread_output() -> None:
    """From here on, printing to the process's own stdout and stderr raises no OSError; both are there."""
    _open_closed()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _dropping(stream))


def _open_closed() -> None:
    """Gives closed standard descriptors a file, before a file or a connection of ours gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _dropping(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    try:
        stream.flush()
    except OSError:
        _to_nowhere(stream.fileno())
    raw = _Dropping(stream.fileno(), "wb", closefd=False)
    is_unbuffered = isinstance(stream.buffer, io.RawIOBase)  # PYTHONUNBUFFERED, -u
    return io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Dropping(io.FileIO):
    """Writes to a descriptor, and once that takes nothing any more, points it to nowhere."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            _to_nowhere(self.fileno())
            return super().write(data)
