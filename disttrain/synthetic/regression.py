"""Makes synthetic regression data: a CSV of any size, written at disk speed, always the same for the same recipe."""

from __future__ import annotations

import collections
import concurrent.futures
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from disttrain.errors import StorageError, UsageError
from disttrain.storage.local import atomic_write, local_path
from disttrain.synthetic import number_text
from disttrain.threads import num_cores

BLOCK_BYTES = 2 << 20  # text that a thread makes at a time: large enough to hand over cheaply, small beside memory
SAMPLE_ROWS = 1_000_000

Progress = Callable[[int, int], None]  # rows written so far, bytes written so far
_Block = tuple[int, int]  # rows [start, stop)


@dataclass(frozen=True)
class Recipe:
    """What is in the file: the same recipe gives the same bytes.

    With one feature, the columns are `x,y` and y = x. With more, they are `x0,x1,…,y`, and y is a fixed smooth
    nonlinear function of all features, with a standard deviation of about 0.8. Features are uniform in [0, 1) with
    eight decimals; `noise` is the standard deviation of the Gaussian noise added to y.
    """

    num_rows: int
    num_features: int = 1
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a number out of its range."""
        _require(self.num_rows >= 1, f"the number of rows is {self.num_rows}, expected 1 or more")
        _require(1 <= self.num_features <= 10_000, f"features is {self.num_features}, expected 1 to 10,000")
        _require(
            math.isfinite(self.noise) and 0 <= self.noise <= number_text.MAX_NOISE,
            f"noise is {self.noise}, expected a standard deviation from 0 to {number_text.MAX_NOISE:,.0f}",
        )
        _require(0 <= self.seed < 2**64, f"the seed is {self.seed}, expected a number from 0 to 2^64 - 1")

    @property
    def header(self) -> bytes:
        """The file's first line."""
        names = ["x"] if self.num_features == 1 else [f"x{j}" for j in range(self.num_features)]
        return ",".join([*names, "y"]).encode() + b"\n"

    @property
    def size_bytes(self) -> int:
        """The file's size: exact for y = x, else an estimate from its first thousand rows."""
        rows = min(self.num_rows, 1000)
        text_bytes = len(_format(self, (0, rows)))
        return len(self.header) + math.ceil(text_bytes * self.num_rows / rows)


def make_data(
    path: str | Path,
    recipe: Recipe,
    *,
    overwrite: bool = False,
    num_threads: int | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Writes the recipe's CSV and returns its size in bytes.

    The rows are made by `num_threads` threads (default: one per core) and written in order. The file appears under its
    name only when it is whole. Raises UsageError if it cannot be made, StorageError if writing it fails.
    """
    target = _check_target(path, overwrite)
    _check_space(target, recipe)
    written = 0
    try:
        with atomic_write(target) as file:
            written = file.write(recipe.header)
            for (_, rows_done), text in _blocks_in_order(recipe, num_threads or num_cores()):
                _write_all(file, text)
                written += len(text)
                if on_progress is not None:
                    on_progress(rows_done, written)
    except OSError as error:
        raise StorageError(f"{target}: writing stopped after {written:,} bytes: {error.strerror or error}") from error
    return written


def make_sample(cache_dir: Path, on_progress: Progress | None = None) -> Path:
    """Returns the path of the built-in sample (y = x, a million rows) in `cache_dir`; makes it on first use."""
    recipe = Recipe(num_rows=SAMPLE_ROWS)
    path = cache_dir / f"sample-{SAMPLE_ROWS}.csv"
    if path.is_file() and path.stat().st_size == recipe.size_bytes:
        return path
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{cache_dir}: cannot make the cache directory: {error.strerror}; name another") from error
    make_data(path, recipe, overwrite=True, on_progress=on_progress)
    return path


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(f"make-data: {message}")


def _check_target(path: str | Path, overwrite: bool) -> Path:
    """Returns the local path to write to; raises UsageError if the file cannot be written there."""
    target = local_path(str(path))
    if target is None:
        raise UsageError(f"{path}: make-data writes to local files only; make it here, then copy it to the store")
    if target.is_dir():
        raise UsageError(f"{target} is a directory, expected a file name")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; remove it, name another file, or add --overwrite")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: there is no directory {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{target}: the directory {target.parent} is not writable")
    return target


def _check_space(target: Path, recipe: Recipe) -> None:
    needed, free = recipe.size_bytes, shutil.disk_usage(target.parent).free
    if needed > free:
        raise UsageError(
            f"{target}: {recipe.num_rows:,} rows take {needed / 1e9:,.1f} GB, but only {free / 1e9:,.1f} GB are free; "
            "ask for fewer rows or name another disk"
        )


def _write_all(file: BinaryIO, text: memoryview) -> None:
    """Writes all of `text`, even if `file` is unbuffered and takes only a part of it at a time."""
    while text:
        text = text[file.write(text) :]


def _blocks_in_order(recipe: Recipe, num_threads: int) -> Iterator[tuple[_Block, memoryview]]:
    """Yields every row once, in order: (rows [start, stop), their text); holds at most two blocks per thread."""
    step = max(1, BLOCK_BYTES // number_text.max_row_bytes(recipe.num_features))
    blocks = ((start, min(start + step, recipe.num_rows)) for start in range(0, recipe.num_rows, step))
    pending: collections.deque[tuple[_Block, concurrent.futures.Future[memoryview]]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix="make-data")
    try:
        for block in blocks:
            pending.append((block, pool.submit(_format, recipe, block)))
            if len(pending) == 2 * num_threads:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _format(recipe: Recipe, block: _Block) -> memoryview:
    num_rows = block[1] - block[0]
    buffer = np.empty(num_rows * number_text.max_row_bytes(recipe.num_features), dtype=np.uint8)
    size = number_text.format_rows(buffer, block[0], num_rows, recipe.num_features, recipe.noise, recipe.seed)
    return buffer[:size].data
