"""Files of this machine: read at any offset, written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat as stat_module
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from disttrain.errors import FileChanged, StorageError, UsageError
from disttrain.storage.base import FileInfo

LOCAL_BLOCK_BYTES = 1 << 20  # stays in a core's cache between the read and the parse
FULL = (errno.ENOSPC, errno.EDQUOT)  # the errors of a full disk and of a used-up quota
ABANDONED_S = 3600.0  # a part file that was not written to for this long has no writer any more


def local_path(url: str) -> Path | None:
    """Returns the local path that a path or file URL names, or None for the URL of any other store."""
    for prefix in ("file://", "local://"):
        if url.startswith(prefix):
            return Path(url[len(prefix) :]).expanduser()
    return None if "://" in url or "::" in url else Path(url).expanduser()


def absolute(url: str) -> str:
    """Returns the absolute path that a path or file URL names; the URL of any other store as it is."""
    path = local_path(url)
    return url if path is None else os.path.abspath(path)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Writes `path` whole or not at all: under another name, then synced and renamed; removed if the block raises."""
    part = part_of(path)
    try:  # begins before the part is created: a signal may arrive between its creation and the next line
        with _create(path, part) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EFBIG, errno.EIO):
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        raise


def copier_of(path: Path) -> Callable[[BinaryIO], None]:
    """Returns what writes a file's content to a stream."""

    def write(stream: BinaryIO) -> None:
        with path.open("rb") as content:
            shutil.copyfileobj(content, stream)

    return write


def part_of(path: Path) -> Path:
    """Returns a new path beside `path`, under which the file is written before it is renamed."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def remove_parts(directory: Path, names: str, *, with_living_writers: bool) -> None:
    """Removes the part files that killed writers left in a directory.

    Args:
        directory: may be missing.
        names: a regular expression for the names of the files that were being written.
        with_living_writers: whether other runs, on any host, may be writing there: then only parts that were not
            touched for ABANDONED_S are removed.
    """
    with suppress(OSError):
        for path in list(directory.iterdir()):
            match = re.fullmatch(rf"\.(?:{names})\.(\d+)-[0-9a-f]+\.part", path.name)
            if match and not _is_being_written(path, None if with_living_writers else int(match[1])):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_being_written(path: Path, writer: int | None) -> bool:
    """Returns whether the process that began a part may still be writing it.

    In a container, a killed writer often had the number that this process has.
    """
    if writer is not None:
        if writer == os.getpid():
            return False
        try:
            os.kill(writer, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # another user's process
    with suppress(OSError):
        return time.time() - path.stat().st_mtime < ABANDONED_S
    return False


def _create(path: Path, part: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(part, "xb")
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UsageError(f"{path}: cannot be written: {error.strerror}; name a path that is writable") from error


class LocalReader:
    """A local file, read by `preadv` directly into the caller's buffer."""

    def __init__(self, url: str, path: Path) -> None:
        self.info = local_info(url, path)
        self.block_bytes = LOCAL_BLOCK_BYTES
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        except PermissionError as error:
            raise UsageError(f"{url}: permission denied; make it readable for this user") from error
        except OSError as error:
            raise UsageError(f"{url}: cannot be opened: {error.strerror}") from error

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills the buffer; FileChanged if the file has become shorter."""
        filled = 0
        while filled < len(buffer):
            try:
                count = os.preadv(self._file.fileno(), [buffer[filled:]], offset + filled)
            except (OSError, ValueError) as error:
                raise StorageError(f"{self.info.url}: reading at byte {offset + filled} failed: {error}") from error
            if count == 0:
                raise FileChanged(
                    f"{self.info.url}: ended at byte {offset + filled}, expected {self.info.size_bytes} bytes: "
                    "the file became shorter while it was being read; run again when nothing writes to it"
                )
            filled += count

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> LocalReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def local_info(url: str, path: Path) -> FileInfo:
    """Returns size and fingerprint of a file; raises UsageError if it cannot be read."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{url}: no such file") from error
    except PermissionError as error:
        raise UsageError(f"{url}: permission denied; make it readable for this user") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{url}: cannot be opened: {error}") from error
    if stat_module.S_ISDIR(found.st_mode):
        raise UsageError(f"{url}: is a directory, expected a file")
    if not stat_module.S_ISREG(found.st_mode):
        raise UsageError(f"{url}: is not a regular file; byte ranges cannot be read from a pipe or a device")
    return FileInfo(url, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


class LocalDirectory:
    """A directory of this machine; see `Directory`."""

    def __init__(self, path: Path, file_names: str | None = None) -> None:
        """Before the first `put`, the parts of files of these names that killed writers left are removed."""
        self._path = path
        self._to_clean = file_names

    def names(self) -> list[str]:
        """Returns the names of all files; none if the directory does not exist."""
        try:
            return os.listdir(self._path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(f"{self._path}: cannot be listed: {error.strerror}; name another directory") from error

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Writes a file whole or not at all, and has it outlive a power cut."""
        try:
            if self._to_clean is not None:
                self.names()  # raises if the path is not a directory
                remove_parts(self._path, self._to_clean, with_living_writers=False)
                self._to_clean = None
            with atomic_write(self._path / name) as stream:
                write(stream)
            self._sync()
        except UsageError as error:
            raise StorageError(str(error)) from error
        except OSError as error:
            raise StorageError(f"{self._path / name}: cannot be written: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._path / name}: cannot be removed: {error.strerror}") from error

    def close(self) -> None:
        """Has nothing open."""

    def _sync(self) -> None:
        """Makes the directory's new entry survive a power cut too."""
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync a directory
                raise
        finally:
            os.close(descriptor)
