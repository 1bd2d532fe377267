"""Finds the sockets that a library opened, and cuts them, so that nobody goes on waiting at their other ends."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

Sockets = dict[int, str]

_DESCRIPTORS = Path("/proc/self/fd")


def open_sockets() -> Sockets:
    """Returns this process's sockets: descriptor -> what identifies the socket; empty where the system cannot tell."""
    found = {}
    for entry in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():
        with suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(entry.stat().st_mode):
                found[int(entry.name)] = os.readlink(entry)
    return found


def cut(sockets: Sockets) -> None:
    """Shuts down the sockets that are still open, for both ends; the descriptors stay open.

    A thread that waits on one of them, here or at the other end, notices at once.
    """
    for descriptor, identity in sockets.items():
        with suppress(OSError):  # closed meanwhile, or not connected: a listening socket
            if os.readlink(_DESCRIPTORS / str(descriptor)) == identity:
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
