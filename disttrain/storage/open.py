"""From a path or URL to its reader or directory: a local one, or that of a store through fsspec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from disttrain.errors import FileChanged, UsageError
from disttrain.storage.base import PATIENCE, PATIENCE_AGAIN, Directory, FileInfo, Patience, Reader, stored_fingerprint
from disttrain.storage.compressed import compression_of, open_compressed
from disttrain.storage.kept_bytes import open_converted, open_copied
from disttrain.storage.local import LocalDirectory, LocalReader, atomic_write, local_info, local_path
from disttrain.storage.remote import RemoteDirectory, RemoteReader, put_object

ARCHIVES = (".lz4", ".zip", ".7z", ".br", ".snappy", ".tgz", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def stat(url: str, *, patience: Patience = PATIENCE) -> FileInfo:
    """Returns a file's size, as it is stored, and fingerprint.

    Raises:
        UsageError: if it is no readable file.
        StorageError: if no answer comes.
    """
    _refuse_archive(url)
    path = local_path(url)
    if path is not None:
        return local_info(url, path)
    with RemoteReader(url, patience) as reader:
        return reader.info


def open_reader(url: str, *, patience: Patience = PATIENCE) -> Reader:
    """Opens a path (with `~`) or any URL that fsspec knows, as it is stored; raises what `stat` raises."""
    _refuse_archive(url)
    path = local_path(url)
    return LocalReader(url, path) if path is not None else RemoteReader(url, patience)


def open_content(url: str, kept_in: Path, *, encoding: str = "utf-8", patience: Patience = PATIENCE) -> Reader:
    """Opens what a file holds: of a compressed one, what is compressed in it; of a text, its UTF-8.

    Args:
        url: a path or URL.
        kept_in: a local directory for what is found out about compressed files, and for converted ones.
        encoding: of the text, by Python's name.
        patience: with a store.

    Raises:
        DisttrainError: what `open_reader` and `open_compressed` raise.
        DataError: for bytes that are no text of this encoding.
    """
    reader = open_reader(url, patience=patience)
    if isinstance(reader, RemoteReader):
        reader = open_copied(reader, kept_in)
    if compression_of(url) is not None:
        reader = open_compressed(reader, kept_in)
    return reader if encoding == "utf-8" else open_converted(reader, encoding, kept_in)


def check_unchanged(info: FileInfo) -> None:
    """Raises FileChanged if the file is no longer the one that `info` describes."""
    try:
        now = stat(info.url, patience=PATIENCE_AGAIN)
    except UsageError as error:
        raise FileChanged(f"{error}, though it was there: put it back and run again") from error
    if now.fingerprint != stored_fingerprint(info):
        sizes = f" ({info.size_bytes} bytes before, {now.size_bytes} now)" if _is_read_as_stored(info) else ""
        raise FileChanged(
            f"{info.url}: the file changed while it was being read{sizes}; run again when nothing writes to it"
        )


def seen_here(info: FileInfo) -> FileInfo:
    """Returns what this machine sees of a file that another one may have looked at: of a local one, its own copy.

    Raises:
        UsageError: if it is not there.
    """
    if local_path(info.url) is None:
        return info
    own = stat(info.url)
    prefix = info.fingerprint.removesuffix(stored_fingerprint(info))
    size_bytes = own.size_bytes if _is_read_as_stored(info) else info.size_bytes
    return FileInfo(info.url, size_bytes, prefix + own.fingerprint)


def _is_read_as_stored(info: FileInfo) -> bool:
    return compression_of(info.url) is None and info.fingerprint == stored_fingerprint(info)


def _refuse_archive(url: str) -> None:
    if url.lower().endswith(ARCHIVES):
        raise UsageError(f"{url}: archives cannot be read by byte ranges; unpack it and name what was in it")


def read_whole(url: str, *, patience: Patience = PATIENCE) -> bytes:
    """Returns what a small file holds; raises what `open_reader` and reading raise."""
    with open_reader(url, patience=patience) as reader:
        content = bytearray(reader.info.size_bytes)
        reader.read_into(0, memoryview(content))
    return bytes(content)


def write_whole(url: str, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file of this machine or of a store, whole or not at all; `write` may be called more than once.

    Raises:
        UsageError: if it cannot be written there.
        StorageError: if the disk is full or the store fails.
    """
    path = local_path(url)
    if path is None:
        put_object(url, write, PATIENCE_AGAIN)
        return
    try:
        with atomic_write(path) as stream:
            write(stream)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{url}: cannot be written: {error.strerror}") from error


def exists(url: str) -> bool:
    """Returns whether there is a file; StorageError if a store does not answer."""
    try:
        stat(url)
    except UsageError:
        path = local_path(url)
        return path is not None and path.exists()
    return True


def open_directory(url: str, patience: Patience = PATIENCE_AGAIN, *, file_names: str | None = None) -> Directory:
    """Opens a directory of this machine or, with this patience, of a store; it need not exist.

    Before the first file is written to a local one, the parts of files named by the regular expression `file_names`
    that killed writers left there are removed.
    """
    path = local_path(url)
    return LocalDirectory(path, file_names) if path is not None else RemoteDirectory(url, patience)
