"""From a path or URL to its reader or directory: a local one, or that of a store through fsspec."""

from __future__ import annotations

from disttrain.errors import FileChanged, UsageError
from disttrain.storage.base import PATIENCE, PATIENCE_AGAIN, Directory, FileInfo, Patience, Reader
from disttrain.storage.local import LocalDirectory, LocalReader, local_info, local_path
from disttrain.storage.remote import RemoteDirectory, RemoteReader

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".7z", ".br", ".snappy", ".tgz")


def stat(url: str, *, patience: Patience = PATIENCE) -> FileInfo:
    """Returns a file's size and fingerprint; UsageError if it is no readable file, StorageError if no answer comes."""
    _refuse_compressed(url)
    path = local_path(url)
    if path is not None:
        return local_info(url, path)
    with RemoteReader(url, patience) as reader:
        return reader.info


def open_reader(url: str, *, patience: Patience = PATIENCE) -> Reader:
    """Opens a path (with `~`) or any URL that fsspec knows; raises what `stat` raises."""
    _refuse_compressed(url)
    path = local_path(url)
    return LocalReader(url, path) if path is not None else RemoteReader(url, patience)


def check_unchanged(info: FileInfo) -> None:
    """Raises FileChanged if the file is no longer the one that `info` describes."""
    try:
        now = stat(info.url, patience=PATIENCE_AGAIN)
    except UsageError as error:
        raise FileChanged(f"{error}, though it was there: put it back and run again") from error
    if now.fingerprint != info.fingerprint:
        raise FileChanged(
            f"{info.url}: the file changed while it was being read "
            f"({info.size_bytes} bytes before, {now.size_bytes} now); run again when nothing writes to it"
        )


def _refuse_compressed(url: str) -> None:
    if url.lower().endswith(COMPRESSED):
        raise UsageError(f"{url}: a compressed file cannot be read by byte ranges; decompress it and name the result")


def open_directory(url: str, patience: Patience = PATIENCE_AGAIN, *, file_names: str | None = None) -> Directory:
    """Opens a directory of this machine or, with this patience, of a store; it need not exist.

    Before the first file is written to a local one, the parts of files named by the regular expression `file_names`
    that killed writers left there are removed.
    """
    path = local_path(url)
    return LocalDirectory(path, file_names) if path is not None else RemoteDirectory(url, patience)
