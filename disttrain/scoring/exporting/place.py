"""Where an exported model goes: a file or a directory, of this machine or of a store, whole or absent."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from disttrain.activity import activity
from disttrain.checkpoints.file import position_of
from disttrain.errors import UsageError
from disttrain.storage.local import local_path
from disttrain.storage.open import exists, write_whole

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


def check_free(url: str, *, overwrite: bool) -> None:
    """Raises UsageError if something is there already that is not to be replaced."""
    if not overwrite and (exists(url) or exists(f"{url}/{_LAST}")):
        raise UsageError(f"--output {url}: is there already; name another place or add --overwrite")


def put(made: Path, url: str) -> int:
    """Puts a file or a directory in its place, and returns its size in bytes.

    Raises:
        UsageError: if it cannot be written there.
        StorageError: if the disk is full or the store fails.
    """
    files = sorted((path for path in made.rglob("*") if path.is_file()), key=lambda path: path.name == _LAST)
    with activity("writing {}", url):
        if made.is_file():
            write_whole(url, _copier(made))
            files = [made]
        elif (local := local_path(url)) is not None:
            _put_directory(made, local)
        else:
            for path in files:
                write_whole(f"{url}/{path.relative_to(made).as_posix()}", _copier(path))
    return sum(path.stat().st_size for path in files)


def _put_directory(made: Path, path: Path) -> None:
    part, old = (
        path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{what}") for what in ("part", "old")
    )
    try:
        shutil.copytree(made, part)
        if path.is_dir():
            os.rename(path, old)
        elif path.exists():
            path.unlink()
        os.rename(part, path)
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _copier(path: Path) -> Callable[[BinaryIO], None]:
    def write(stream: BinaryIO) -> None:
        with path.open("rb") as content:
            shutil.copyfileobj(content, stream)

    return write
