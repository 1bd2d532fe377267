"""The directory of an epoch cache: its entries, which are in use, and which are removed when room is needed."""

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
_ENTRY = re.compile(r"[0-9a-f]{20}")  # files of other names in the directory are never touched


@dataclass(frozen=True)
class Entry:
    """One entry: its size now and its planned size, in bytes, and when it was last opened or closed."""

    path: Path
    size_bytes: int
    planned_bytes: int
    used_ns: int
    in_use: bool

    @property
    def growth_bytes(self) -> int:
        """The bytes that its users are still going to add."""
        return max(self.planned_bytes - self.size_bytes, 0) if self.in_use else 0


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory's lock, which every process holds while it opens or removes entries."""
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_unused(records: int) -> bool:
    """Returns whether an entry has no user other than the owner of `records`, a descriptor of its records."""
    try:
        fcntl.flock(records, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def entries(directory: Path) -> list[Entry]:
    """Returns all entries, the least recently used one first."""
    found = [entry(path) for path in directory.iterdir() if _ENTRY.fullmatch(path.name)]
    return sorted(found, key=lambda found: (found.used_ns, found.path.name))


def make_room(directory: Path, path: Path, planned_bytes: int, limit_bytes: int | None) -> str | None:
    """Removes the least recently used entries until the entry `path` can grow to `planned_bytes`.

    All entries together may then use at most `limit_bytes`, and the disk has room for the growth. An entry in use is
    never removed. If there cannot be enough room, removes nothing and returns the reason, else returns None. The
    caller must hold the directory's lock.
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
    """Removes an entry, or what is left of one; a process that has its files open keeps them until it closes them."""
    (path / ABOUT).unlink(missing_ok=True)  # first: without it, the other files are not used
    shutil.rmtree(path, ignore_errors=True)


def show_bytes(num_bytes: int) -> str:
    """Returns a size as text with three digits, such as `1.23 GB`."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} B"


def entry(path: Path) -> Entry:
    """Returns the entry at `path`; what is missing of it counts as 0."""
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
