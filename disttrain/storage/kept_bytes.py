"""Files that cannot be read by ranges of their bytes, made readable once: what they hold is kept on a local disk."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from disttrain.activity import activity, touch
from disttrain.storage.base import UNVERSIONED, FileInfo, Reader
from disttrain.storage.local import LocalReader, absolute, atomic_write, remove_parts
from disttrain.storage.remote import RemoteReader
from disttrain.storage.unpacking import converted_blocks

WHOLE = "whole"  # how a copy is kept
UNUSED_S = 30 * 86_400.0


class KeptReader(LocalReader):
    """The bytes that a file holds, from the local disk that they were written to once.

    `was_copied`: whether its server gives the file only whole.
    """

    def __init__(self, raw: Reader, path: Path, fingerprint: str, how: str) -> None:
        super().__init__(raw.info.url, path)
        self.was_copied = how == WHOLE or was_copied(raw)
        self.info = replace(self.info, fingerprint=fingerprint)
        raw.close()


def open_kept(
    raw: Reader, kept_in: Path, how: str, write: Callable[[BinaryIO], None], *, prefix: str = ""
) -> KeptReader:
    """Opens what a file holds from the local disk, after it was written there unless that was done; closes the file.

    Args:
        raw: the open file; on an error it stays open.
        kept_in: directory of a local disk.
        how: what is done to the file; the same file may be kept in several ways.
        write: writes what it holds to a stream.
        prefix: of the fingerprint, which is otherwise the file's own.
    """
    path = kept_path(kept_in / "unpacked", raw.info, how)
    about = path.with_suffix(".json")
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(about.read_bytes())
        if is_of(kept, raw.info) and path.stat().st_size == kept["size_bytes"]:
            with suppress(OSError):  # it may be another user's
                os.utime(about)  # it is in use
            return KeptReader(raw, path, prefix + raw.info.fingerprint, how)
    remove_parts(path.parent, r"[0-9a-f]{20}\..+", with_living_writers=True)
    _remove_unused(path.parent)
    with atomic_write(path) as stream:
        write(stream)
        size_bytes = stream.tell()
    with atomic_write(about) as stream:
        stream.write(json.dumps({"fingerprint": raw.info.fingerprint, "size_bytes": size_bytes}).encode())
    return KeptReader(raw, path, prefix + raw.info.fingerprint, how)


def _remove_unused(folder: Path) -> None:
    """Removes what no run has opened for UNUSED_S: the files that it is of may be gone."""
    for about in folder.glob("*.json"):
        with suppress(OSError):
            if time.time() - about.stat().st_mtime > UNUSED_S:
                about.with_suffix(".bytes").unlink(missing_ok=True)
                about.unlink()


def was_copied(reader: Reader) -> bool:
    """Returns whether a reader's file had to be copied, as its server gives it only whole."""
    return bool(getattr(reader, "was_copied", False))


def blocks_written(raw: Reader, blocks: Iterable[bytes]) -> Callable[[BinaryIO], None]:
    """Returns what writes the blocks that are made of a file, which are made only then, to a stream."""

    def write(stream: BinaryIO) -> None:
        with activity("unpacking {}", raw.info.url):
            for block in blocks:
                stream.write(block)
                touch()

    return write


def open_converted(raw: Reader, encoding: str, kept_in: Path) -> Reader:
    """Opens the UTF-8 of a text in another encoding, converted once onto the local disk; closes the text."""
    try:
        write = blocks_written(raw, converted_blocks(raw, encoding))
        return open_kept(raw, kept_in, encoding, write, prefix=f"{encoding}|")
    except BaseException:
        raw.close()
        raise


def open_copied(raw: RemoteReader, kept_in: Path) -> Reader:
    """Opens a copy on the local disk of an object that its web server only gives whole; of any other, the object."""
    try:
        if raw.serves_ranges():
            return raw
        with activity("copying {}", raw.info.url):
            return open_kept(raw, kept_in, WHOLE, raw.copy_to)
    except BaseException:
        raw.close()
        raise


def is_of(kept: Mapping[str, Any], info: FileInfo) -> bool:
    """Returns whether what was kept is of this very file."""
    return bool(kept["fingerprint"] == info.fingerprint) and not info.fingerprint.endswith(UNVERSIONED)


def kept_path(folder: Path, info: FileInfo, how: str = "") -> Path:
    """Returns where something about a file is kept."""
    key = hashlib.sha256(f"{absolute(info.url)}\n{how}".encode()).hexdigest()[:20]
    return folder / f"{key}.bytes"
