"""Shuffled epochs of real files: every row once, on any world size, from any step, from the bytes that are needed."""

import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from streaming import FILES, RecordingReader, assert_threads_end, steps_of, stream_of, table

from disttrain.data import shuffle
from disttrain.data.csv import text
from disttrain.data.sharding import Sharding, shards_of_rank
from disttrain.data.shuffle import EpochOrder
from disttrain.errors import DataError

SMALL_CHUNK_BYTES = 1024


@pytest.fixture
def small_blocks(monkeypatch):
    """Index blocks of 1 KiB (some 40 rows) and windows of a few of them, so that a small file has many."""
    monkeypatch.setattr(text, "CHUNK_BYTES", SMALL_CHUNK_BYTES)
    monkeypatch.setattr(shuffle, "WINDOW_BYTES", 4000)


@pytest.mark.parametrize("mode", ["shard", "global"])
@pytest.mark.parametrize("how", ["header", "CRLF, no final newline", "blank lines"])
def test_a_shuffled_epoch_has_every_row_once_from_any_step_on_any_world(open_csv, small_blocks, mode, how):
    values = table(1003)
    source = open_csv(FILES[how](values))
    assert len(source.index.rows) > 10
    order = EpochOrder(mode, seed=4, epoch=2)
    num_steps_ = Sharding(1003, 4, 30).num_steps
    whole = steps_of(source, shards=range(4), num_shards=4, batch_size=30, order=order)
    rows = np.concatenate(whole)
    assert len(rows) == len(values)
    assert not np.array_equal(rows, values)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], values[np.lexsort(values.T)])
    for world_size in (1, 2, 3, 4):
        for start_step in (0, 1, 4, num_steps_ - 1, num_steps_):
            ranks = [
                steps_of(
                    source,
                    shards=shards_of_rank(4, world_size, rank),
                    num_shards=4,
                    batch_size=30,
                    start_step=start_step,
                    order=order,
                )
                for rank in range(world_size)
            ]
            for parts, expected in zip(zip(*ranks, strict=True), whole[start_step:], strict=True):
                np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_a_sorted_file_is_mixed_by_global_alone(open_csv, small_blocks):
    values = np.stack([np.arange(4000), np.arange(4000)], 1).astype(np.float32)
    source = open_csv(FILES["header"](values))
    spread = {}
    for mode in ("none", "shard", "global"):
        steps = steps_of(source, shards=range(1), num_shards=4, batch_size=100, order=EpochOrder(mode))
        spread[mode] = np.mean([rows[:, 0].mean() for rows in steps])
    assert spread["none"] == spread["shard"] == 499.5  # the first quarter
    assert 1000 < spread["global"] < 3000


@pytest.mark.parametrize("mode", ["shard", "global"])
def test_a_shuffling_worker_reads_the_bytes_of_its_blocks_only(open_csv, monkeypatch, mode):
    monkeypatch.setattr(text, "CHUNK_BYTES", 64 << 10)
    opened = open_csv(FILES["header"](table(200_000)))
    own_bytes = opened.text.info.size_bytes / 4
    with RecordingReader(opened.text.info) as reader:
        source = replace(opened, text=replace(opened.text, reader=reader))
        steps_of(source, shards=range(2, 3), num_shards=4, batch_size=1000, order=EpochOrder(mode))
    read_bytes = sum(last - first for first, last in reader.ranges)
    assert own_bytes * 0.99 < read_bytes < own_bytes * 1.01 + 4 * (64 << 10)  # two searches for where the shard cuts
    assert len(reader.ranges) < own_bytes / (64 << 10) + 8


@pytest.mark.parametrize("line", ["1,abc", "1", ""])
def test_a_faulty_row_is_named_in_a_shuffled_epoch_too(open_csv, small_blocks, line):
    lines = ["x,y", *["1,2"] * 9000]
    lines[4999] = line or "1,2"
    source = open_csv("\n".join(lines))
    if not line:  # the row is gone, though size and time stay
        found = os.stat(source.url)
        with open(source.url, "r+b") as stream:
            stream.seek(4 + 4 * 4998)
            stream.write(b"   ")
        os.utime(source.url, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(DataError, match="line 5000" if line else "are fewer"):
        steps_of(source, shards=range(3), num_shards=3, batch_size=100, order=EpochOrder("global"))
    assert_threads_end()


def num_steps_of(source, order):
    """Steps of an epoch, none of which is kept."""
    how = {"shards": range(1), "num_shards": 1, "batch_size": 250, "steps_per_superbatch": 100}
    with stream_of(source, **how, order=order) as stream:
        return sum(superbatch.num_steps for superbatch in stream)


def test_memory_does_not_grow_with_the_file(open_csv, monkeypatch):
    monkeypatch.setattr(shuffle, "WINDOW_BYTES", 4 << 20)
    peaks = []
    for num_rows in (1_000_000, 3_000_000):
        source = open_csv("x,y\n" + "1.25,2.5\n" * num_rows)
        tracemalloc.start()
        assert num_steps_of(source, EpochOrder("global")) == num_rows // 250
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 14 << 20  # two windows of 4 MiB, two blocks of 1 MiB, and four superbatches of 200 KB
    assert peaks[1] < peaks[0] + (1 << 20)
