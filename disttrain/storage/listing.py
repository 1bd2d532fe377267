"""The files that paths, URLs, patterns and directories name, in a stated order."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from disttrain.errors import UsageError
from disttrain.storage.base import PATIENCE
from disttrain.storage.local import local_path
from disttrain.storage.store_calls import StoreCalls

_HIDDEN = (".", "_")  # names that begin so are notes of the programs that wrote a directory: _SUCCESS, .part.crc


def list_files(places: Sequence[str]) -> list[str]:
    """Returns the paths and URLs of files: in the order of `places`, those of a pattern or directory sorted by name.

    A pattern is one of the shell's (`*`, `?`, `[0-9]`, and `**` for directories of any depth). A directory stands for
    all files in it and below it, but for those whose name, or whose directory's name, begins with '.' or '_'.

    Raises:
        UsageError: for a pattern or directory without files, and for a file that is named twice.
        StorageError: if a store does not answer.
    """
    assert not isinstance(places, str), "several places, not the characters of one"
    found = [file for place in places for file in _files_of(place)]
    seen: set[str] = set()
    for file in found:
        path = local_path(file)
        name = file if path is None else os.path.realpath(path)
        if name in seen:
            raise UsageError(f"{file}: is named twice; name each file once")
        seen.add(name)
    return found


def _files_of(place: str) -> list[str]:
    path = local_path(place)
    files = _local_files(place, path) if path is not None else _remote_files(place)
    if files is None:
        return [place]
    if not files:
        what = "no file has a name like this" if _is_pattern(place) else "is a directory without files"
        raise UsageError(f"{place}: {what}; name files, a pattern such as 'data/*.csv', or a directory")
    return files


def _local_files(place: str, path: Path) -> list[str] | None:
    """Returns the sorted files of a local pattern or directory; None for the path of a file."""
    if path.is_dir():
        below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        return sorted(str(file) for file in below if not _is_hidden(file.relative_to(path).as_posix()))
    if path.exists() or not _is_pattern(place):
        return None
    return sorted(file for file in glob.glob(str(path), recursive=True) if os.path.isfile(file))


def _remote_files(url: str) -> list[str] | None:
    """Returns the sorted files of a store's pattern or directory; None for the URL of a file."""
    protocol = url.split("://", 1)[0]
    if protocol in ("http", "https"):  # has no directories, and '?' begins a query
        if "*" in url.partition("?")[0]:
            raise UsageError(f"{url}: web servers do not tell which files they have; name each file")
        return None
    is_pattern, is_directory = _is_pattern(url), url.endswith("/")
    if not is_pattern and not is_directory and Path(url).suffix:
        return None
    calls = StoreCalls(url, PATIENCE)

    def attempt(timeout_s: float) -> Any:
        calls.fs.invalidate_cache()
        return calls.run("glob" if is_pattern else "find", timeout_s, calls.path)

    try:
        paths = [str(path) for path in calls.with_retries("list the files", attempt)]
    finally:
        calls.close()
    root = calls.path.rstrip("/")
    if not is_pattern:
        if paths in ([], [root]) and not is_directory:
            return None  # a file's URL, or one that is not there
        paths = [path for path in paths if not _is_hidden(path[len(root) + 1 :])]
    return sorted(str(calls.fs.unstrip_protocol(path)) for path in paths if not path.endswith("/"))


def _is_pattern(place: str) -> bool:
    return bool(set("*?[") & set(place))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(_HIDDEN) for part in name.split("/"))
