"""What is planned of an epoch's reads is what the workers then read; a simulated epoch lasts as long as a real one."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from disttrain.config import PlanConfig
from disttrain.data.epoch import EpochPlan
from disttrain.data.read_simulation import StoreModel, simulate_reads
from disttrain.data.reads import Extent, ReadAhead, Reads, plan_reads
from disttrain.data.sharding import Sharding, shards_of_rank
from disttrain.data.shuffle import EpochOrder
from disttrain.data.superbatches import superbatches
from disttrain.errors import UsageError
from disttrain.run.planning import plan_epoch


class Watched:
    """A reader that notes what is read, and may be as slow as a store."""

    def __init__(self, reader, latency_s=0.0, bytes_per_s=0.0):
        self.reader, self.info, self.block_bytes = reader, reader.info, reader.block_bytes
        self.latency_s, self.bytes_per_s = latency_s, bytes_per_s
        self.read, self.lock = [], threading.Lock()

    def read_into(self, offset, buffer):
        with self.lock:
            self.read.append((offset, len(buffer)))
        if self.latency_s:
            time.sleep(self.latency_s)
        if self.bytes_per_s:
            time.sleep(len(buffer) / self.bytes_per_s)
        self.reader.read_into(offset, buffer)

    def close(self):
        self.reader.close()


def content(num_rows):
    return "x,y\n" + "".join(f"{row:09d}.25,{row % 7}\n" for row in range(num_rows))


@pytest.fixture
def watched(open_csv):
    """Opens a CSV of several chunks whose reads are noted; returns the source and its reader."""

    def make(num_rows, **options):
        source = open_csv(content(num_rows))
        reader = Watched(source.text.reader, **options)
        return dataclasses.replace(source, text=dataclasses.replace(source.text, reader=reader)), reader

    return make


def extent_of(source):
    index = source.index
    return Extent(index.rows, index.offsets, index.num_rows, index.size_bytes, source.text.starts)


@pytest.mark.parametrize("mode", ["none", "shard", "global"])
@pytest.mark.parametrize(("world_size", "num_shards"), [(1, 1), (3, 3), (2, 5)])
def test_the_workers_read_what_was_planned(watched, mode, world_size, num_shards):
    source, reader = watched(400_000)
    sharding = Sharding(source.num_rows, num_shards, 512)
    held = len(shards_of_rank(num_shards, world_size, 0))
    ahead = ReadAhead.of(source.block_bytes, source.max_block_bytes, held, mode)
    reads = plan_reads(extent_of(source), sharding, world_size, mode, ahead, None)
    assert reads.rows.sum() == source.num_rows
    assert reads.shards.sum() == num_shards
    for rank in range(world_size):
        reader.read.clear()
        plan = EpochPlan(sharding, shards_of_rank(num_shards, world_size, rank), 8, EpochOrder(mode, 1))
        with superbatches(source, plan) as stream:
            assert sum(superbatch.num_steps for superbatch in stream) == sharding.num_steps
        blocks = [(offset, size) for offset, size in reader.read if size > 1 << 17]  # others look for a shard's rows
        num_bytes = sum(size for _, size in reader.read)
        assert abs(num_bytes - reads.num_bytes[rank]) < 3 * (1 << 20) * max(len(plan.shards), 1)
        assert len(blocks) == pytest.approx(reads.blocks[rank], abs=2 * len(plan.shards))
        if mode == "global":
            assert reads.starts[rank] == -1
            assert reads.files[rank] == -1
        else:
            assert min(offset for offset, _ in blocks) == pytest.approx(reads.starts[rank], abs=1 << 20)
            assert max(map(sum, blocks)) == pytest.approx(reads.stops[rank], abs=1 << 20)
            assert reads.files[rank] == 1


def test_files_and_requests_are_counted():
    starts = np.array([0, 30 << 20, 60 << 20])
    extent = Extent(np.arange(90) * 1000, np.arange(90) << 20, 90_000, 90 << 20, starts)
    ahead = ReadAhead.of(8 << 20, 1 << 20, 1, "none")
    reads = plan_reads(extent, Sharding(90_000, 2, 10), 2, "none", ahead, 2 << 20)
    assert reads.starts.tolist() == [0, 45 << 20]
    assert reads.stops.tolist() == [45 << 20, 90 << 20]
    assert reads.files.tolist() == [2, 2]
    assert reads.blocks.tolist() == [6, 6]
    assert all(24 <= requests <= 25 for requests in reads.requests)  # one more, for the second file


def test_an_epoch_of_4096_workers_and_a_million_million_rows_is_planned_in_a_second():
    chunks = 19_000_000  # 20 TB
    extent = Extent(np.arange(chunks) * 52_632, np.arange(chunks) << 20, 10**12, chunks << 20, np.zeros(1, np.int64))
    config = PlanConfig(data=("s3://bucket/a.csv",), world_size=4096, batch_size=1000)
    seconds = []
    for _ in range(3):
        begun_s = time.process_time()  # other tests may have the processor meanwhile
        plan = plan_epoch(config, extent, label="a", num_columns=2, block_bytes=8 << 20, is_remote=True)
        seconds.append(time.process_time() - begun_s)
    assert min(seconds) < 1
    assert plan.sharding.num_steps == -(-(10**12) // (4096 * 1000))
    assert plan.reads.rows.sum() == 10**12
    assert plan.reads.num_bytes.sum() == pytest.approx(chunks << 20, rel=1e-6)
    assert plan.reads.requests.sum() == pytest.approx((chunks << 20) / (2 << 20), rel=0.01)
    assert plan.epoch_s(1e6) == pytest.approx(10**12 / 4096 / 1e6, rel=1e-3)


def test_a_worker_without_a_shard_or_a_row_is_a_usage_error():
    extent = Extent(np.zeros(1, np.int64), np.zeros(1, np.int64), 10, 100, np.zeros(1, np.int64))
    too_few_shards, too_many_workers = {"world_size": 3, "num_shards": 2}, {"world_size": 11}
    for options, says in [(too_few_shards, "without a shard"), (too_many_workers, "fewer than 11")]:
        with pytest.raises(UsageError, match=says):
            plan_epoch(
                PlanConfig(data=("a.csv",), **options), extent, label="a.csv", num_columns=2, block_bytes=1 << 20,
                is_remote=False,
            )  # fmt: skip


# -- simulated


def reads_of(world_size, num_bytes, num_blocks):
    each = np.full(world_size, num_bytes // world_size, np.int64)
    blocks = np.full(world_size, num_blocks // world_size, np.int64)
    ones = np.ones(world_size, np.int64)
    return Reads(ones, ones, 0 * ones, each, each, ones, blocks, blocks)


BLOCK = 8 << 20
ONE_AHEAD = ReadAhead(BLOCK, 1, 1)


@pytest.mark.parametrize(
    ("store", "speed", "expected_s"),
    [
        (StoreModel(1e9, 1e9, 0.0), 1e12, 100 * BLOCK / 1e9),  # the store's bandwidth
        (StoreModel(1e12, 1e12, 0.05), 1e12, 25 * 0.05),  # the latency of one read after the other
        (StoreModel(1e12, 1e12, 0.05), 1e8, 25 * BLOCK / 1e8 + 0.05),  # the training, after the first block
        (StoreModel(1e12, 1e8, 0.05), 1e12, 25 * (BLOCK / 1e8 + 0.05)),  # what one worker gets
    ],
)
def test_an_epoch_lasts_as_long_as_what_limits_it(store, speed, expected_s):
    found = simulate_reads(reads_of(4, 100 * BLOCK, 100), ONE_AHEAD, store, speed)
    assert found.seconds == pytest.approx(expected_s, rel=0.01)
    assert found.waited_s <= found.seconds
    assert found.simulated == 1


def test_the_slowest_worker_holds_up_all():
    reads = reads_of(4, 100 * BLOCK, 100)
    twice = np.array([1, 1, 1, 2])
    late = dataclasses.replace(reads, num_bytes=reads.num_bytes * twice, blocks=reads.blocks * twice)
    store = StoreModel(1e12, 1e9, 0.01)
    alone, together = (simulate_reads(one, ONE_AHEAD, store, 1e12).seconds for one in (reads, late))
    assert together == pytest.approx(2 * alone, rel=0.1)


@pytest.mark.parametrize("mode", ["none", "global"])
def test_a_simulated_epoch_lasts_as_long_as_a_real_one(watched, mode):
    """Where a store's latency and bandwidth leave the processor idle."""
    latency_s, bytes_per_s = 0.05, 40e6
    source, _ = watched(1_000_000, latency_s=latency_s, bytes_per_s=bytes_per_s)
    sharding = Sharding(source.num_rows, 2, 512)
    ahead = ReadAhead.of(source.block_bytes, source.max_block_bytes, 1, mode)
    reads = plan_reads(extent_of(source), sharding, 2, mode, ahead, None)
    store = StoreModel(1e12, bytes_per_s * ahead.threads, latency_s)
    expected_s = simulate_reads(reads, ahead, store, 2e9).seconds
    plan = EpochPlan(sharding, range(1), 8, EpochOrder(mode, 1))
    seconds = []
    for _ in range(3):  # of which a busy machine makes some longer
        begun_s = time.perf_counter()
        with superbatches(source, plan) as stream:
            for _ in stream:
                pass
        seconds.append(time.perf_counter() - begun_s)
    assert min(seconds) == pytest.approx(expected_s, rel=0.4)
