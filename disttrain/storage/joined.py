"""Several files as one: read by ranges of the bytes that they have one after the other."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType

import numpy as np

from disttrain.errors import FileChanged, StorageError
from disttrain.storage.base import UNVERSIONED, FileInfo, Reader
from disttrain.storage.local import LOCAL_BLOCK_BYTES, absolute, local_path
from disttrain.storage.open import check_unchanged
from disttrain.storage.remote import REMOTE_BLOCK_BYTES
from disttrain.threads import DaemonPool

MOST_OPEN = 64  # files at a time
_AT_ONCE = 16  # small files of a store that one read fetches at the same time


class JoinedReader:
    """Some files' bytes, each from an offset of its own to its end, with a line feed after each; a `Reader`.

    Files are opened when they are read, and no more than MOST_OPEN stay open.
    """

    def __init__(
        self, label: str, files: Sequence[FileInfo], skips: Sequence[int], open_file: Callable[[str], Reader]
    ) -> None:
        """
        Args:
            label: what messages call all files together.
            files: as they were when they were first looked at.
            skips: bytes at the beginning of each file that are not part of the whole.
            open_file: opens the file of a path or URL.
        """
        self._files = files
        self._skips = skips
        self._open_file = open_file
        sizes = [file.size_bytes - skip + 1 for file, skip in zip(files, skips, strict=True)]
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])  # [files + 1]
        self.info = FileInfo(label, int(self.starts[-1]), _joint_fingerprint(files))
        is_remote = any(local_path(file.url) is None for file in files)
        self.block_bytes = REMOTE_BLOCK_BYTES if is_remote else LOCAL_BLOCK_BYTES
        self._pool = DaemonPool(_AT_ONCE, "read-files") if is_remote else None
        self._open: OrderedDict[int, Reader] = OrderedDict()  # the least recently used one first
        self._users: dict[int, int] = {}  # how many threads read from a file now
        self._read: set[int] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills the buffer; StorageError or FileChanged if it cannot."""
        parts = list(self._parts(offset, len(buffer)))
        if self._pool is None or len(parts) == 1:
            for part in parts:
                self._read_part(*part, offset, buffer)
            return
        for job in [self._pool.submit(partial(self._read_part, *part, offset, buffer)) for part in parts]:
            job.result()

    def check_unchanged(self) -> None:
        """Raises FileChanged if a file that was read is no longer as it was."""
        with self._lock:
            numbers = sorted(self._read)
        for number in numbers:
            check_unchanged(self._files[number])

    def close(self) -> None:
        """Closes all files; a second call does nothing."""
        if self._pool is not None:
            self._pool.close()
        with self._lock:
            self._is_closed = True  # what a thread is opening now, it closes itself
            readers = list(self._open.values())
            self._open.clear()
        for reader in readers:
            reader.close()

    def _parts(self, offset: int, num_bytes: int) -> Iterator[tuple[int, int, int]]:
        """Yields (file, start, stop), in bytes of the whole, of each file's part of a range."""
        stop = offset + num_bytes
        number = int(np.searchsorted(self.starts, offset, side="right")) - 1
        while offset < stop:
            end = min(int(self.starts[number + 1]), stop)
            yield number, offset, end
            number, offset = number + 1, end

    def _read_part(self, number: int, start: int, stop: int, base: int, buffer: memoryview) -> None:
        begin, end = int(self.starts[number]), int(self.starts[number + 1]) - 1  # the line feed stands at `end`
        if stop > end:
            buffer[end - base] = ord("\n")
            stop = end
        if start < stop:
            with self._opened(number) as reader:
                reader.read_into(start - begin + self._skips[number], buffer[start - base : stop - base])

    @contextmanager
    def _opened(self, number: int) -> Iterator[Reader]:
        with self._lock:
            reader = self._open.get(number)
            if reader is not None:
                self._open.move_to_end(number)
                self._users[number] = self._users.get(number, 0) + 1
        if reader is None:
            reader = self._opened_anew(number)
        try:
            yield reader
        finally:
            with self._lock:
                self._users[number] -= 1

    def _opened_anew(self, number: int) -> Reader:
        known = self._files[number]
        reader = self._open_file(known.url)
        if reader.info.fingerprint != known.fingerprint:
            reader.close()
            raise FileChanged(f"{known.url}: the file changed while it was being read; run again when nothing writes")
        superfluous: list[Reader] = []
        with self._lock:
            if self._is_closed:
                reader.close()
                raise StorageError(f"{known.url}: was closed while it was being read")
            self._read.add(number)
            if number in self._open:  # another thread was faster
                superfluous.append(reader)
                reader = self._open[number]
            self._open[number] = reader
            self._users[number] = self._users.get(number, 0) + 1
            idle = [one for one in self._open if not self._users.get(one)]
            superfluous += [self._open.pop(one) for one in idle[: max(len(self._open) - MOST_OPEN, 0)]]
        for one in superfluous:
            one.close()
        return reader

    def __enter__(self) -> JoinedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _joint_fingerprint(files: Sequence[FileInfo]) -> str:
    told = "\n".join(f"{absolute(file.url)} {file.fingerprint}" for file in files)
    digest = hashlib.sha256(told.encode()).hexdigest()[:32]
    return f"{digest}-{UNVERSIONED}" if any(file.fingerprint.endswith(UNVERSIONED) for file in files) else digest
