"""The process's own terminal: TensorFlow's start-up messages are held back, and output that nobody reads is dropped.

What a run prints is no reason for it to end: Ctrl-C in `disttrain ... | tee log` ends tee at once, and the run has a
checkpoint to write yet. A shell may have closed stdout or stderr (`>&-`), and a disk that the output goes to may be
full.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from disttrain.errors import DisttrainError

UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def drop_unread_output() -> None:
    """Makes printing to the process's own stdout and stderr raise no OSError; opens them if they are closed."""
    _open_closed()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _dropping(stream))


def _open_closed() -> None:
    """Opens /dev/null as each closed standard descriptor, before another file or connection gets its number."""
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
    """Writes to a descriptor; once that fails, points the descriptor to /dev/null."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            _to_nowhere(self.fileno())
            return super().write(data)


@contextmanager
def native_messages_held(wanted: bool) -> Iterator[None]:
    """Holds back what is written to file descriptor 2, and lets it out only if the block fails unexpectedly.

    Args:
        wanted: changes nothing, for users who set TF_CPP_MIN_LOG_LEVEL to see the messages.
    """
    if wanted:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    screen = os.dup(2)
    with open(os.memfd_create("messages"), "w+b") as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, DisttrainError):
                held.seek(0)
                os.write(screen, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
