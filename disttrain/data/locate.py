"""Finds the file lines of a batch's rows, for error messages."""

from __future__ import annotations

import numpy as np

from disttrain.data.epoch import EpochPlan
from disttrain.data.row_source import Floats, Int64s, RowSource
from disttrain.data.shuffle import permutation
from disttrain.errors import redacted

MOST_NAMED = 3  # values that are not finite


def step_rows(source: RowSource, plan: EpochPlan, step: int) -> Int64s:
    """Returns the numbers of the rows that a worker gives to a step, int64 [rows], in the batch's order."""
    return np.concatenate([_shard_rows(source, plan, shard, step) for shard in plan.shards] or [np.zeros(0, np.int64)])


def _shard_rows(source: RowSource, plan: EpochPlan, shard: int, step: int) -> Int64s:
    own = plan.sharding.shard_step(shard, step)
    if plan.order.mode == "none":
        return np.arange(own.start, own.stop)
    start = own.start - plan.sharding.shard(shard).start
    stop = start + len(own)
    rows = [np.zeros(0, np.int64)]
    for window in plan.windows(shard, source.block_bounds, source.num_columns, start):
        if window.first_row >= stop:
            break
        numbers = np.concatenate([np.arange(part.start, part.stop) for part in window.ranges])
        permuted = numbers[permutation(len(numbers), window.key)]
        rows.append(permuted[max(start - window.first_row, 0) : stop - window.first_row])
    return np.concatenate(rows)


def describe_batch(source: RowSource, plan: EpochPlan, step: int, batch: Floats) -> str:
    """Describes the lines of the file that a step's `batch`, float32 [rows, columns], consists of.

    Names the values in it that are not finite, each with its line and column.
    """
    numbers = step_rows(source, plan, step)
    if not len(numbers):
        return ""
    names = (*source.feature_names, *source.target_names)
    first = source.place_of(int(numbers.min()))
    odd = [
        f"; {source.place_of(int(numbers[row])).within(first)} holds {batch[row, column]} in column '{names[column]}'"
        for row, column in np.argwhere(~np.isfinite(batch))[:MOST_NAMED]
    ]
    return f"; the batch is {_line_ranges(source, plan, numbers)}{''.join(odd)}"


def _line_ranges(source: RowSource, plan: EpochPlan, numbers: Int64s) -> str:
    """Gives `of FILE, lines 2 to 251 and 1002 to 1251`; the first and last line of rows from all over the files."""
    ordered = np.sort(numbers)
    breaks = np.flatnonzero(np.diff(ordered) > 1)
    if len(breaks) >= MOST_NAMED:
        breaks = breaks[:0]
    starts = [0, *(breaks + 1)]
    stops = [*breaks, len(ordered) - 1]
    places = [
        (source.place_of(int(ordered[first])), source.place_of(int(ordered[last])))
        for first, last in zip(starts, stops, strict=True)
    ]
    drawn = "" if plan.order.mode == "none" else "drawn from "
    if len({place.url for bounds in places for place in bounds}) > 1:
        return f"of {drawn}{' and '.join(f'{first} to {last.within(first)}' for first, last in places)}"
    lines = " and ".join(f"{first.line} to {last.line}" for first, last in places)
    return f"of {redacted(places[0][0].url)}, {drawn}lines {lines}"
