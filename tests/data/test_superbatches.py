"""What superbatches hold: each row of the file once, in order; and the errors for files that are not as expected."""

import os
import threading
import time
import tracemalloc
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from streaming import FILES, RecordingReader, as_csv, assert_threads_end, steps_of, stream_of, table

from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.source import Source
from disttrain.data.sharding import Sharding, shards_of_rank
from disttrain.data.shuffle import EpochOrder
from disttrain.errors import DataError, FileChanged, UsageError
from disttrain.threads import DaemonPool, Handover


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("num_rows", [1, 7, 200])
def test_the_union_of_the_shards_is_the_file(open_csv, how, num_rows):
    values = table(num_rows)
    source = open_csv(FILES[how](values))
    assert source.num_rows == num_rows
    source.text.reader.block_bytes = 101  # so that lines lie across the blocks that are read
    for num_shards in range(1, 17):
        for batch_size in (3, 50):
            parts = [
                steps_of(source, shards=range(shard, shard + 1), num_shards=num_shards, batch_size=batch_size)
                for shard in range(num_shards)
            ]
            assert {len(steps) for steps in parts} == {Sharding(num_rows, num_shards, batch_size).num_steps}
            np.testing.assert_array_equal(np.concatenate([rows for steps in parts for rows in steps]), values)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("num_rows", "num_shards", "batch_size"), [(100, 4, 7), (101, 4, 5), (103, 6, 4), (5, 6, 2)])
def test_a_step_joins_the_held_shards_in_order(open_csv, world_size, num_rows, num_shards, batch_size):
    values = table(num_rows)
    source = open_csv(FILES["header"](values))
    for rank in range(world_size):
        shards = shards_of_rank(num_shards, world_size, rank)
        sharding, expected = Sharding(num_rows, num_shards, batch_size), []
        for step in range(sharding.num_steps):
            parts = [sharding.shard_step(shard, step) for shard in shards]
            expected.append(np.concatenate([values[:0], *(values[part.start : part.stop] for part in parts)]))
            assert len(expected[-1]) == sharding.rows_of(shards, step)
        for start_step in (0, 1, len(expected) - 1, len(expected)):
            steps = steps_of(source, shards=shards, num_shards=num_shards, batch_size=batch_size, start_step=start_step)
            assert len(steps) == len(expected) - start_step
            for rows, wanted in zip(steps, expected[start_step:], strict=True):
                np.testing.assert_array_equal(rows, wanted)


def test_ranks_pack_the_same_steps(open_csv):
    source = open_csv(FILES["header"](table(101)))  # 4 shards of 26, 25, 25, 25 rows: the last step has one row
    packs = []
    for rank in range(3):
        shards = shards_of_rank(4, 3, rank)
        with stream_of(source, shards=shards, num_shards=4, batch_size=5, steps_per_superbatch=2) as stream:
            packs.append([(superbatch.first_step, superbatch.num_steps) for superbatch in stream])
    assert packs == [[(0, 2), (2, 2), (4, 1), (5, 1)]] * 3


def test_columns_come_in_the_order_in_which_they_were_chosen(open_csv):
    values = table(10, 4)
    text = "a,b,c,d\n" + as_csv(values)
    for features, targets, order in [
        (None, None, [0, 1, 2, 3]),  # the last is the target
        (None, ["b"], [0, 2, 3, 1]),
        (["d", "a"], ["c", "b"], [3, 0, 2, 1]),
        (["c"], None, [2, 3]),
    ]:
        source = open_csv(text, features=features, targets=targets)
        names = source.feature_names + source.target_names
        assert names == tuple("abcd"[place] for place in order)
        (rows,) = steps_of(source, shards=range(1), num_shards=1, batch_size=10)
        np.testing.assert_array_equal(rows, values[:, order])


def test_columns_that_are_not_wanted_may_hold_anything(open_csv):
    source = open_csv('id,x,y\n"a b",1,2\n,3,4\n', features=["x"])
    (rows,) = steps_of(source, shards=range(1), num_shards=1, batch_size=2)
    assert rows.tolist() == [[1, 2], [3, 4]]


def test_a_blank_delimiter_keeps_a_first_field_that_is_empty(open_csv):
    text = "id\tx\ty\n" + "".join(f"\t{row}\t{-row}\n" for row in range(1, 21))
    source = open_csv(text, features=["x"], dialect=Dialect("\t"))
    for num_shards in (1, 3, 20):
        parts = [
            steps_of(source, shards=range(shard, shard + 1), num_shards=num_shards, batch_size=4)
            for shard in range(num_shards)
        ]
        rows = np.concatenate([rows for steps in parts for rows in steps])
        assert rows.tolist() == [[row, -row] for row in range(1, 21)]


def test_rows_may_be_longer_than_a_block(open_csv):
    values = table(7, 20_000)  # 200 KB a row
    source = open_csv(as_csv(values))
    source.text.reader.block_bytes = 50_000
    rows = np.concatenate(steps_of(source, shards=range(2), num_shards=2, batch_size=2))
    np.testing.assert_array_equal(rows, values[[0, 1, 4, 5, 2, 3, 6]])


def test_a_file_without_line_ends_is_refused(open_csv):
    source = open_csv("x,y\n1," + "2" * (20 << 20))
    with pytest.raises(DataError, match="a line of more than"):
        steps_of(source, shards=range(1), num_shards=1, batch_size=1)


def test_a_worker_reads_its_own_bytes_only(open_csv):
    values = table(300_000)
    opened = open_csv(FILES["header"](values))
    assert opened.text.info.size_bytes > 6 << 20
    for num_shards in (1, 4):
        for shard in range(num_shards):
            with RecordingReader(opened.text.info) as reader:
                source = replace(opened, text=replace(opened.text, reader=reader))
                rows = Sharding(source.num_rows, num_shards, source.num_rows).shard_step(shard, 0)
                start, stop = source.row_offset(rows.start), source.row_offset(rows.stop)
                reader.ranges.clear()
                steps_of(source, shards=range(shard, shard + 1), num_shards=num_shards, batch_size=1000)
                own = [(first, last) for first, last in reader.ranges if start <= first and last <= stop]
                seeks = [(first, last) for first, last in reader.ranges if (first, last) not in own]
                assert sum(last - first for first, last in own) >= stop - start
                assert sum(last - first for first, last in reader.ranges) <= stop - start + 2 * (1 << 20)
                assert all(first >= start - (1 << 20) and last <= stop + (1 << 20) for first, last in seeks)


def test_an_object_of_s3_is_streamed(s3, cache_dir):
    values = table(400_000)
    url = s3.put("stream.csv", FILES["header"](values).encode())  # 9 MB: more than one block
    with Source.open(url, cache_dir=cache_dir) as source:
        parts = [steps_of(source, shards=range(k, k + 1), num_shards=2, batch_size=1000) for k in range(2)]
    np.testing.assert_array_equal(np.concatenate([rows for steps in parts for rows in steps]), values)


FAULTS = [
    # what stands on line 5000, what the message says after the file and line
    ("1", "the row has 1 field, expected 2: '1'"),
    ("1,2,3", "the row has 3 fields, expected 2: '1,2,3'"),
    ("1,abc", "column 'y' holds 'abc', expected a number"),
    ("1.2.3,4", "column 'x' holds '1.2.3', expected a number"),
    ("1,", "column 'y' is empty, expected a number"),
    ('1,"2', "column 'y' holds"),  # a quote that does not end on its line
]


@pytest.mark.parametrize(("line", "says"), FAULTS)
@pytest.mark.parametrize("num_shards", [1, 3, 16])
def test_a_faulty_row_is_named(open_csv, line, says, num_shards):
    lines = ["x,y", "", *["1,2"] * 9000]
    lines[4999] = line
    source = open_csv("\r\n".join(lines))
    with pytest.raises(DataError) as caught:
        steps_of(source, shards=range(num_shards), num_shards=num_shards, batch_size=100)
    assert str(caught.value).startswith(f"{source.url}, line 5000: {says}")
    assert "\n" not in str(caught.value)


def test_what_comes_before_a_faulty_row_is_given_first(open_csv):
    source = open_csv("x,y\n" + "1,2\n" * 10 + "1,a\n")
    with stream_of(source, shards=range(1), num_shards=1, batch_size=2, steps_per_superbatch=2, depth=1) as stream:
        assert [superbatch.data.shape for superbatch, _ in zip(stream, range(2), strict=False)] == [(2, 2, 2)] * 2
        for _ in range(2):
            with pytest.raises(DataError, match="line 12"):
                next(stream)


def test_what_a_superbatch_becomes_on_devices_is_made_while_the_one_before_is_in_use(open_csv):
    source = open_csv("x,y\n" + "1,2\n" * 8)
    how = {"shards": range(1), "num_shards": 1, "batch_size": 2, "steps_per_superbatch": 1}
    second_is_copied = threading.Event()

    def copy(superbatch):
        if superbatch.first_step == 1:
            second_is_copied.set()
        if superbatch.first_step == 3:
            raise MemoryError("the device is full")
        return threading.current_thread(), superbatch.data.sum()

    with stream_of(source, **how, copy=copy) as stream:
        thread, total = next(stream).on_devices
        assert thread is not threading.current_thread()
        assert total == 6.0
        assert second_is_copied.wait(10)
        with pytest.raises(MemoryError, match="the device is full"):
            list(stream)


REQUESTS = [
    # content, options, error, what the message says
    ("x,y\n1,2\n", {"features": ["z"]}, UsageError, "no column 'z'; its columns are x, y"),
    ("x,y\n1,2\n", {"targets": ["z"]}, UsageError, "no column 'z'; its columns are x, y"),
    ("1,2\n", {"features": ["x"]}, UsageError, "no column 'x'; its columns are 0, 1"),
    ("x,y\n1,2\n", {"features": ["y"]}, UsageError, "'y' is chosen twice"),
    ("x,y,z\n1,2,3\n", {"features": ["x", "x"]}, UsageError, "'x' is chosen twice"),
    ("y\n1\n", {}, UsageError, "no feature column is left"),
    ("x:y\n1:2\n", {}, UsageError, "if ':' delimits the fields, add --delimiter ':'"),
    ("Notes\nx,y\n1,2\n", {}, UsageError, "leave them out with --skip-lines"),
    ("x,y\n1,2\n", {"targets": []}, UsageError, "no target column is left"),
    ("x,y\n", {}, DataError, "header line but no rows"),
    ("x,y\n\n \r\n", {}, DataError, "header line but no rows"),
    ("", {}, DataError, "is empty"),
]


@pytest.mark.parametrize(("content", "options", "error", "says"), REQUESTS)
def test_a_file_that_cannot_be_streamed_is_named(open_csv, content, options, error, says):
    with pytest.raises(error, match=says):
        open_csv(content, **options)


def test_a_file_that_changes_during_an_epoch_is_noticed(open_csv):
    source = open_csv("x,y\n" + "1,2\n" * 1000)
    os.utime(source.url, ns=(1, 1))
    with pytest.raises(FileChanged, match="changed while it was being read"):
        steps_of(source, shards=range(1), num_shards=1, batch_size=100)


@pytest.mark.parametrize("row", [1000, 1333, 3999])  # within a shard, a shard's last row, the file's last
@pytest.mark.parametrize("change", [b"1,2\n1,2\n", b"1,22222,"], ids=["more rows", "fewer rows"])
def test_rows_that_the_index_does_not_know_are_noticed(open_csv, row, change):
    source = open_csv("x,y\n" + "1,22222\n" * 4000)
    found = os.stat(source.url)
    with open(source.url, "r+b") as stream:  # the size and the time stay, so that only the rows tell
        stream.seek(4 + 8 * row)
        stream.write(change if b"\n" in change else b" " * 8)
    os.utime(source.url, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(FileChanged, match="are more" if b"\n" in change else "are fewer"):
        steps_of(source, shards=range(3), num_shards=3, batch_size=100)


def test_closing_early_stops_at_once(open_csv):
    source = open_csv("x,y\n" + "1,2\n" * 100_000)
    for taken, mode in product((0, 1, 5), ("none", "global")):
        with stream_of(
            source,
            shards=range(2),
            num_shards=2,
            batch_size=10,
            steps_per_superbatch=5,
            order=EpochOrder(mode),
        ) as stream:
            for _ in range(taken):
                next(stream)
            started = time.monotonic()
        assert time.monotonic() - started < 1
        stream.close()  # a second time does nothing
        with pytest.raises(StopIteration):
            next(stream)
    assert_threads_end()


def test_no_thread_is_left_after_an_epoch_or_an_error(open_csv):
    steps_of(open_csv("x,y\n" + "1,2\n" * 100), shards=range(3), num_shards=3, batch_size=10)
    with pytest.raises(DataError):
        steps_of(open_csv("x,y\n" + "1,2\n" * 100 + "1\n"), shards=range(3), num_shards=3, batch_size=10)
    assert_threads_end()


def test_memory_does_not_grow_with_the_file(open_csv):
    peaks = []
    for num_rows in (500_000, 2_000_000):
        source = open_csv("x,y\n" + "1.25,2.5\n" * num_rows)
        tracemalloc.start()
        with stream_of(source, shards=range(1), num_shards=1, batch_size=250, steps_per_superbatch=100) as stream:
            assert sum(len(superbatch.data) for superbatch in stream) == num_rows // 250
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 8 << 20  # two blocks of 1 MiB, and four superbatches of 200 KB
    assert peaks[1] < peaks[0] + (1 << 20)


def test_a_bounded_queue_waits_for_its_reader():
    handover, put = Handover(2), []

    def fill():
        for item in range(5):
            handover.put(item)
            put.append(item)
        handover.end(ValueError("after them"))

    thread = threading.Thread(target=fill)
    thread.start()
    time.sleep(0.2)
    assert put == [0, 1]
    assert [handover.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="after them"):
        handover.get()
    thread.join()
    handover.close()
    assert not handover.put(5)


def test_a_closed_pool_cancels_what_has_not_begun():
    pool, begun, go_on = DaemonPool(1, "read"), threading.Event(), threading.Event()
    running = pool.submit(lambda: (begun.set(), go_on.wait(10)))
    waiting = pool.submit(dict)
    begun.wait(10)
    pool.close()
    go_on.set()
    assert running.result(10) == (None, True)
    assert waiting.cancelled()
    assert_threads_end()
