"""Where in the file a step's rows stand: what an error about a batch names."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import numpy.typing as npt

from disttrain.errors import DataError
from disttrain.plan import Pass
from disttrain.refusals import refused_row
from disttrain.sharding import shard_range, shard_step
from disttrain.shuffle import block_bounds, permutation, shard_windows, window_blocks
from disttrain.source import Source

Int64s = npt.NDArray[np.int64]
MOST_NAMED = 3  # values that are not finite


def step_rows(training: Pass, shards: range, epoch: int, step: int) -> Int64s:
    """The numbers in the file of the rows that these shards give to a step, int64 [rows], in the batch's order."""
    return np.concatenate([_shard_rows(training, shard, epoch, step) for shard in shards] or [np.zeros(0, np.int64)])


def _shard_rows(training: Pass, shard: int, epoch: int, step: int) -> Int64s:
    source, num_shards = training.source, training.num_shards
    places = shard_step(source.num_rows, num_shards, training.batch_size, shard, step)
    if training.order.mode == "none":
        return np.arange(places.start, places.stop)
    order = replace(training.order, epoch=epoch)
    bounds = block_bounds(source.index.rows, source.num_rows)
    num_blocks = window_blocks(bounds, num_shards, source.num_columns)
    start = places.start - shard_range(source.num_rows, num_shards, shard).start
    stop = start + len(places)
    rows = [np.zeros(0, np.int64)]
    for window in shard_windows(order, bounds, num_shards, shard, num_blocks, start):
        if window.first_row >= stop:
            break
        numbers = np.concatenate([np.arange(part.start, part.stop) for part in window.ranges])
        permuted = numbers[permutation(len(numbers), window.key)]
        rows.append(permuted[max(start - window.first_row, 0) : stop - window.first_row])
    return np.concatenate(rows)


def describe_batch(training: Pass, shards: range, epoch: int, step: int, batch: npt.NDArray[np.float32]) -> str:
    """In words: the lines of the file that a step's `batch`, float32 [rows, columns], is made of.

    Names the values in it that are not finite, each with its line and column.
    """
    source = training.source
    numbers = step_rows(training, shards, epoch, step)
    if not len(numbers):
        return ""
    names = (*source.feature_names, *source.target_names)
    odd = [
        f"line {line_of(training.source, int(numbers[row]))} holds {batch[row, column]} in column '{names[column]}'"
        for row, column in np.argwhere(~np.isfinite(batch))[:MOST_NAMED]
    ]
    return f"; the batch is of {source.url}, {_line_ranges(training, numbers)}{''.join(f'; {text}' for text in odd)}"


def refuse_row(
    training: Pass, shards: range, epoch: int, step: int, batch: npt.NDArray[np.float32], model: keras.Model
) -> None:
    """Raises DataError, with line and column, for a row of a step's `batch` that the model refuses, if it does one."""
    source = training.source
    refusal = refused_row(model, batch, len(source.feature_names))
    if refusal is not None:
        row = int(step_rows(training, shards, epoch, step)[refusal.row])
        names = (*source.feature_names, *source.target_names)
        column = "" if refusal.column is None else f"column '{names[refusal.column]}' "
        raise DataError(f"{source.url}, line {line_of(source, row)}: {column}{refusal.what}")


def _line_ranges(training: Pass, numbers: Int64s) -> str:
    """`lines 2 to 251 and 1002 to 1251`, or from the first to the last where rows were drawn from many places."""
    ordered = np.sort(numbers)
    breaks = np.flatnonzero(np.diff(ordered) > 1)
    if len(breaks) >= MOST_NAMED:
        breaks = breaks[:0]
    starts = [0, *(breaks + 1)]
    stops = [*breaks, len(ordered) - 1]
    parts = [
        f"{line_of(training.source, int(ordered[first]))} to {line_of(training.source, int(ordered[last]))}"
        for first, last in zip(starts, stops, strict=True)
    ]
    drawn = "" if training.order.mode == "none" else "drawn from "
    return f"{drawn}lines {' and '.join(parts)}"


def line_of(source: Source, row: int) -> int:
    """The physical line, from 1, on which a row stands."""
    return source.index.line_number(source.reader, source.row_offset(row))
