"""Where an exported model goes: a file or a directory, of this machine or of a store, whole or absent."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from disttrain.activity import activity
from disttrain.checkpoints.file import position_of
from disttrain.errors import StorageError, UsageError
from disttrain.storage.local import FULL, copier_of, local_path
from disttrain.storage.open import exists, open_directory, write_whole
from disttrain.storage.remote import check_no_web_server

SUFFIXES = {"savedmodel": ".savedmodel", "onnx": ".onnx", "tflite": ".tflite"}
_LAST = "saved_model.pb"  # by which one knows a SavedModel


def place_of(model: str, output: str | None, format_: str) -> str:
    """Returns where a model goes: to `output`, else beside the model.

    Raises:
        UsageError: for a name that is another format's.
    """
    suffix = SUFFIXES[format_]
    if output is not None:
        other = next((name for name, own in SUFFIXES.items() if own != suffix and output.endswith(own)), None)
        if other is not None:
            raise UsageError(f"--output {output}: is a name for --format {other}, not {format_}")
        return output.rstrip("/")
    if "?" in model and "://" in model:
        raise UsageError("--output is required, as the model's URL has a query")
    plain = model.rstrip("/")
    name = plain.rpartition("/")[2]
    if position_of(name) is not None or name.endswith(".keras"):
        return f"{plain.rpartition('.')[0]}{suffix}"
    return f"{plain}/model{suffix}"


def check_free(url: str, format_: str, *, overwrite: bool) -> None:
    """Raises UsageError if something is there that is not to be replaced, or nothing can be written there."""
    check_no_web_server(url)
    path = local_path(url)
    is_directory = format_ == "savedmodel"
    if path is not None and path.exists() and (path.is_dir() != is_directory or _is_other_directory(path)):
        what = "a directory that is no SavedModel" if path.is_dir() else "a file"
        raise UsageError(f"--output {url}: is {what}; name another place")
    if not overwrite and exists(f"{url}/{_LAST}" if is_directory else url):
        raise UsageError(f"--output {url}: is there already; name another place or add --overwrite")


def _is_other_directory(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir()) and not (path / _LAST).is_file()


def put(made: Path, url: str) -> int:
    """Puts a file or a directory in its place, and returns its size in bytes.

    Raises:
        UsageError: if it cannot be written there.
        StorageError: if the disk is full or the store fails.
    """
    files = sorted((path for path in made.rglob("*") if path.is_file()), key=lambda path: path.name == _LAST)
    with activity("writing {}", url):
        if made.is_file():
            write_whole(url, copier_of(made))
            files = [made]
        elif (path := local_path(url)) is not None:
            _put_directory(made, files, path.resolve())
        else:
            _put_in_store(made, files, url)
    return sum(path.stat().st_size for path in files)


def _put_in_store(made: Path, files: Sequence[Path], url: str) -> None:
    """Writes a directory's files, that by which one knows a SavedModel last; an earlier one is none meanwhile."""
    directory = open_directory(url)
    try:
        directory.remove(_LAST)
    finally:
        directory.close()
    for path in files:
        write_whole(f"{url}/{path.relative_to(made).as_posix()}", copier_of(path))


def _put_directory(made: Path, files: Sequence[Path], path: Path) -> None:
    """Writes a directory beside its place, and moves it there; what stood there stays if that fails."""
    unique = f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    part, old = path.with_name(f"{unique}.part"), path.with_name(f"{unique}.old")
    try:
        for file in files:
            target = part / file.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        if path.exists():
            os.rename(path, old)
        os.rename(part, path)
    except OSError as error:
        kind = StorageError if error.errno in FULL else UsageError
        raise kind(f"--output {path}: cannot be written: {error.strerror}") from error
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
