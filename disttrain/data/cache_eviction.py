"""The directory of an epoch cache: its entries, who uses them, and which go when room is needed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROWS, RECORDS, ABOUT = "rows", "extents", "about.json"  # the files of an entry
_ENTRY = re.compile(r"[0-9a-f]{20}")  # nothing of another name in the directory is ever touched


@dataclass(frozen=True)
class Entry:
    """One entry: the room that it takes now and may come to, in bytes, and when it was last opened or closed."""

    path: Path
    size_bytes: int
    planned_bytes: int
    used_ns: int
    in_use: bool

    @property
    def growth_bytes(self) -> int:
        """What its users are still going to add."""
        return max(self.planned_bytes - self.size_bytes, 0) if self.in_use else 0


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which all who open or remove entries hold, in any process."""
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_unused(records: int) -> bool:
    """Whether nobody but the owner of this descriptor of an entry's records uses the entry."""
    try:
        fcntl.flock(records, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def entries(directory: Path) -> list[Entry]:
    """All entries, the one that was used longest ago first."""
    found = [entry(path) for path in directory.iterdir() if _ENTRY.fullmatch(path.name)]
    return sorted(found, key=lambda found: (found.used_ns, found.path.name))


def make_room(directory: Path, path: Path, planned_bytes: int, limit_bytes: int | None) -> str | None:
    """Remove what was used longest ago until the entry `path` may grow to `planned_bytes`; hold the lock meanwhile.

    No more than `limit_bytes` are then used by all entries together, and the disk has what is missing. Returns why
    there cannot be room, if so; then nothing is removed. An entry that is in use stays.
    """
    others = [other for other in entries(directory) if other.path != path]
    own_bytes = entry(path).size_bytes
    wanted_bytes = max(planned_bytes, own_bytes)
    used_bytes = sum(other.size_bytes + other.growth_bytes for other in others)
    free_bytes = shutil.disk_usage(directory).free - sum(other.growth_bytes for other in others)
    victims = []
    for other in others:
        fits = limit_bytes is None or used_bytes + wanted_bytes <= limit_bytes
        if fits and own_bytes + free_bytes >= wanted_bytes:
            break
        if not other.in_use:
            victims.append(other)
            used_bytes -= other.size_bytes
            free_bytes += other.size_bytes
    if limit_bytes is not None and used_bytes + wanted_bytes > limit_bytes:
        return (
            f"it needs {show_bytes(wanted_bytes)}, and the limit leaves {show_bytes(max(limit_bytes - used_bytes, 0))}"
        )
    if own_bytes + free_bytes < wanted_bytes:
        return (
            f"it needs {show_bytes(wanted_bytes - own_bytes)} more, and the disk has {show_bytes(max(free_bytes, 0))}"
        )
    for victim in victims:
        remove_entry(victim.path)
    return None


def remove_entry(path: Path) -> None:
    """Remove an entry, or what is left of one; who still has its files open keeps them until then."""
    (path / ABOUT).unlink(missing_ok=True)  # first: without it, the rest counts for nothing
    shutil.rmtree(path, ignore_errors=True)


def show_bytes(num_bytes: int) -> str:
    """`1.23 GB`, three digits."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} B"


def entry(path: Path) -> Entry:
    """An entry as far as it is there."""
    size_bytes = planned_bytes = used_ns = 0
    in_use = False
    try:
        size_bytes = os.stat(path / ROWS).st_blocks * 512
        used_ns = os.stat(path / ABOUT).st_mtime_ns
        planned_bytes = int(json.loads((path / ABOUT).read_bytes())["planned_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        descriptor = os.open(path / RECORDS, os.O_RDWR)
    except OSError:
        return Entry(path, size_bytes, planned_bytes, used_ns, in_use)
    try:
        in_use = not is_unused(descriptor)
    finally:
        os.close(descriptor)
    return Entry(path, size_bytes, planned_bytes, used_ns, in_use)
