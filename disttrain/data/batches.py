"""The public generator, for custom training loops: a file's batches as `(x, y)` arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from disttrain.config import default_cache_dir
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.header import HeaderMode
from disttrain.data.csv.source import Source
from disttrain.data.epoch import EpochPlan
from disttrain.data.row_cache import RowCache, open_cache
from disttrain.data.sharding import Sharding, check_shard, shard_range
from disttrain.data.shuffle import EpochOrder, ShuffleMode
from disttrain.data.superbatches import superbatches
from disttrain.errors import UsageError

PARSED_BYTES = 1 << 20  # parsed at a time: handing over this much costs nothing, and it fits into a core's cache

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def batches(
    path: str | Path | Sequence[str | Path],
    batch_size: int,
    *,
    features: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    shard: int = 0,
    num_shards: int = 1,
    epochs: int | None = 1,
    shuffle: ShuffleMode = "none",
    seed: int = 0,
    cache: str | Path | None = None,
    header: HeaderMode = "auto",
    delimiter: str | None = None,
    cache_dir: str | Path | None = None,
    strict: bool = False,
) -> Iterator[Batch]:
    """Yields `(x [batch_size, num_features], y [batch_size, num_targets])`, float32, each row once per epoch.

    `path` is a path or any URL that fsspec opens, a pattern or a directory (see `disttrain.storage.listing`), or
    several of them. The default target is the last column, the default features are all
    others. It yields part `shard` of `num_shards` equal, contiguous parts of the rows; only an epoch's last batch may
    be shorter. It makes `epochs` passes over the rows, or passes without end if that is None. It is a plain generator,
    from which Keras keeps drawing across epochs, so ask for as many epochs as are trained, and take the number of steps
    in each from `num_batches`:

        steps = num_batches(path, 250)
        model.fit(batches(path, 250, epochs=10), steps_per_epoch=steps, epochs=10, shuffle=False)

    Rows come in the file's order, or in a new order in each epoch, as `shuffle` says (see `disttrain.data.shuffle`): a
    sorted file needs `"global"`. All shards must then have the same `seed`. If `cache` is given, parsed rows are kept
    in that directory, from which later epochs and runs read them.

    A whole number that float32 rounds to another is warned of, once a column; with `strict` it is a faulty row.

    Raises UsageError for arguments that cannot be met; iterating raises DataError for a faulty row, StorageError, and
    UsageError for a file or column that is not there.
    """
    _check(batch_size, shard, num_shards)
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs is {epochs}, expected at least 1, or None for no end")
    if shuffle not in get_args(ShuffleMode):
        raise UsageError(f"shuffle is {shuffle!r}, expected one of {', '.join(get_args(ShuffleMode))}")

    def generate() -> Iterator[Batch]:
        with ExitStack() as stack:
            source = stack.enter_context(_open(path, features, target, header, delimiter, cache_dir, strict=strict))
            rows = open_cache(Path(cache).expanduser(), source) if cache is not None else None
            if rows is not None:
                stack.enter_context(rows)
            for epoch in count(1) if epochs is None else range(1, epochs + 1):
                yield from _epoch(source, batch_size, shard, num_shards, EpochOrder(shuffle, seed, epoch), rows)

    return generate()


def num_batches(
    path: str | Path | Sequence[str | Path],
    batch_size: int,
    *,
    shard: int = 0,
    num_shards: int = 1,
    header: HeaderMode = "auto",
    delimiter: str | None = None,
    cache_dir: str | Path | None = None,
) -> int:
    """Returns how many batches `batches` yields in an epoch, Keras's `steps_per_epoch`; shards may differ by one.

    The first call reads the whole file to count its rows; the count is saved.
    """
    _check(batch_size, shard, num_shards)
    with _open(path, None, None, header, delimiter, cache_dir) as source:
        return -(-len(shard_range(source.num_rows, num_shards, shard)) // batch_size)


def _epoch(
    source: Source, batch_size: int, shard: int, num_shards: int, order: EpochOrder, cache: RowCache | None
) -> Iterator[Batch]:
    sharding = Sharding(source.num_rows, num_shards, batch_size)
    num_steps = max(PARSED_BYTES // (4 * batch_size * source.num_columns), 1)
    plan = EpochPlan(sharding, range(shard, shard + 1), num_steps, order)
    num_features = len(source.feature_names)
    with superbatches(source, plan, cache=cache) as stream:
        for superbatch in stream:
            for loss in source.digit_losses.mark_reported(source.digit_losses.unreported()):
                warnings.warn(loss.describe(), stacklevel=3)
            for rows in superbatch.data:  # [rows, columns]
                if len(rows):
                    yield rows[:, :num_features].copy(), rows[:, num_features:].copy()


def _open(
    path: str | Path | Sequence[str | Path],
    features: str | Sequence[str] | None,
    target: str | Sequence[str] | None,
    header: HeaderMode,
    delimiter: str | None,
    cache_dir: str | Path | None,
    *,
    strict: bool = False,
) -> Source:
    return Source.open(
        str(path) if isinstance(path, (str, Path)) else [str(one) for one in path],
        features=[features] if isinstance(features, str) else features,
        targets=[target] if isinstance(target, str) else target,
        header=header,
        dialect=None if delimiter is None else Dialect(delimiter),
        cache_dir=default_cache_dir(os.environ) if cache_dir is None else Path(cache_dir).expanduser(),
        strict=strict,
    )


def _check(batch_size: int, shard: int, num_shards: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}, expected at least 1")
    check_shard(shard, num_shards)
