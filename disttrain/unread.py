"""Output that nobody reads any more is dropped: what a run prints is no reason for it to end.

Ctrl-C in `disttrain ... | tee log` ends tee at once, and the run has a checkpoint to write yet.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


def drop_unread_output() -> None:
    """From here on, printing to the process's own stdout and stderr raises no BrokenPipeError."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _dropping(stream))


def _dropping(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
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
    """Writes to a descriptor, and once nobody reads that, points it to nowhere."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)
