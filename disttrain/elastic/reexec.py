"""Starts this process over, with its last commit, where Horovod could not be started.

If a worker dies in the fraction of a second that Horovod's start takes, the start fails on all others: by an exception
in C++ that nothing catches, by a flag that is never cleared, or by never ending. All workers would be lost, and the run
with them. So during the start the C++ runtime calls us before it aborts, and the process executes its own command
again. Its process number stays, so horovodrun sees no death, and the last commit is passed on in a file in memory.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from disttrain.checkpoints.file import Checkpoint, read_checkpoint, write_checkpoint

VARIABLE = "_DISTTRAIN_STARTED_OVER"  # "times descriptor", without the descriptor where there was no commit


def start_over(commit: Checkpoint | None, environ: Mapping[str, str], times: int) -> NoReturn:
    """Executes this process's command again in `environ`; may be called in any thread."""
    handed_over = str(times)
    if commit is not None:
        descriptor = os.memfd_create("disttrain-commit", 0)  # 0: stays open in the new program
        with open(descriptor, "wb", closefd=False) as stream:
            write_checkpoint(commit, stream)
        handed_over += f" {descriptor}"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, sys.orig_argv, {**environ, VARIABLE: handed_over})


def handed_over(environ: Mapping[str, str]) -> tuple[int, Checkpoint | None]:
    """Returns how many times in a row this process was started over, and the commit that it had."""
    times, *descriptor = environ.get(VARIABLE, "0").split()
    if not descriptor:
        return int(times), None
    with open(int(descriptor[0]), "rb") as stream:
        stream.seek(0)
        return int(times), read_checkpoint(stream, "the commit before this process was started over")


@contextmanager
def calling_before_abort(function: Callable[[], None]) -> Iterator[None]:
    """Calls `function` before an exception that C++ does not catch aborts the process, while the context lasts."""
    callback = ctypes.CFUNCTYPE(None)(function)
    set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]  # std::set_terminate
    set_terminate.argtypes, set_terminate.restype = [ctypes.c_void_p], ctypes.c_void_p
    before = set_terminate(ctypes.cast(callback, ctypes.c_void_p))
    try:
        yield
    finally:
        set_terminate(before)
