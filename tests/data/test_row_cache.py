"""The epoch cache: rows parsed once are read from it bit for bit, or the cache is not used at all."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaming import FILES, assert_same_bits, epoch_rows, steps_of, stream_of, table

from disttrain.data.cache_eviction import ABOUT, RECORDS, ROWS, entries
from disttrain.data.csv import index, text
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range, RangeSet
from disttrain.data.row_cache import open_cache
from disttrain.data.shuffle import EpochOrder
from disttrain.errors import DataError, StorageError

NUM_ROWS = 3000


@pytest.fixture
def values():
    values = table(NUM_ROWS)
    values[5] = [np.nan, -np.inf]
    values[6] = [-0.0, 1e-42]
    return values


@pytest.fixture
def source(open_csv, values, monkeypatch):
    """A file with some 30 index blocks."""
    monkeypatch.setattr(text, "CHUNK_BYTES", 2048)
    monkeypatch.setattr(index, "SEEK_BYTES", 512)
    return open_csv(FILES["header"](values))


@pytest.mark.parametrize("mode", ["none", "shard", "global"])
@pytest.mark.parametrize(("num_shards", "world_size"), [(1, 1), (3, 1), (3, 2)])
def test_later_epochs_and_runs_read_no_byte_of_the_csv(source, kept, mode, num_shards, world_size):
    how = {"num_shards": num_shards, "world_size": world_size}
    first, second = EpochOrder(mode, 1, 1), EpochOrder(mode, 1, 2)
    plain = [epoch_rows(source, None, order=order, **how)[0] for order in (first, second)]
    with open_cache(kept, source) as cache:
        rows, read_bytes = epoch_rows(source, cache, order=first, **how)
        assert_same_bits(rows, plain[0])
        assert read_bytes > 0
        rows, read_bytes = epoch_rows(source, cache, order=second, **how)
        assert_same_bits(rows, plain[1])
        assert read_bytes == 0
    with open_cache(kept, source) as cache:
        assert cache.num_rows == NUM_ROWS
        for order, expected in zip((first, second), plain, strict=True):
            rows, read_bytes = epoch_rows(source, cache, order=order, **how)
            assert_same_bits(rows, expected)
            assert read_bytes == 0


def test_what_one_way_of_streaming_kept_serves_every_other(source, kept, values):
    with open_cache(kept, source) as cache:
        epoch_rows(source, cache, num_shards=4, world_size=3)
        for num_shards, mode in [(1, "none"), (7, "none"), (7, "shard"), (2, "global")]:
            order = EpochOrder(mode)
            plain, _ = epoch_rows(source, None, num_shards=num_shards, batch_size=33, order=order)
            rows, read_bytes = epoch_rows(source, cache, num_shards=num_shards, batch_size=33, order=order)
            assert_same_bits(rows, plain)
            assert read_bytes == 0


def test_other_columns_have_an_entry_of_their_own(open_csv, kept):
    values = table(100, 3)
    text = "a,b,c\n" + "".join(",".join(f"{value:.9g}" for value in row) + "\n" for row in values)
    for features, targets in [(None, None), (["a"], ["b"]), (["b"], ["a"]), (["a"], ["c"])]:
        source = open_csv(text, features=features, targets=targets)
        order = ["abc".index(name) for name in source.feature_names + source.target_names]
        for _ in range(2):
            with open_cache(kept, source) as cache:
                rows, _ = epoch_rows(source, cache)
                assert_same_bits(rows, np.ascontiguousarray(values[:, order]))
        os.utime(source.url, ns=(1, 1))  # so that the next `open_csv`, which writes the file again, is no change
    assert len(entries(kept)) == 4


def test_an_epoch_that_ended_early_is_completed(source, kept, values):
    with (
        open_cache(kept, source) as cache,
        stream_of(source, shards=range(1), num_shards=1, batch_size=100, steps_per_superbatch=2, cache=cache) as stream,
    ):
        next(stream)
    with open_cache(kept, source) as cache:
        there = cache.num_rows
        assert 200 <= there < NUM_ROWS
        rows, read_bytes = epoch_rows(source, cache)
        assert_same_bits(rows, values)
        assert read_bytes < source.text.info.size_bytes * (1 - there / NUM_ROWS) * 1.05 + 4096
    with open_cache(kept, source) as cache:
        assert cache.num_rows == NUM_ROWS


def test_an_epoch_may_begin_at_any_step(source, kept):
    order = EpochOrder("global", 2, 3)
    for start_step in (0, 3, 9):
        plain, _ = epoch_rows(source, None, num_shards=3, order=order, start_step=start_step)
        shutil.rmtree(kept, ignore_errors=True)
        with open_cache(kept, source) as cache:
            for _ in range(2):
                rows, _ = epoch_rows(source, cache, num_shards=3, order=order, start_step=start_step)
                assert_same_bits(rows, plain)


def test_a_lone_shard_in_file_order_is_handed_over_without_a_copy(source, kept, values):
    with open_cache(kept, source) as cache:
        epoch_rows(source, cache)
        how = {"shards": range(1), "num_shards": 1, "batch_size": 100, "steps_per_superbatch": 7}
        with stream_of(source, **how, cache=cache) as stream:
            given = [superbatch.data for superbatch in stream]
    shutil.rmtree(kept)
    assert [data.shape for data in given] == [(7, 100, 2)] * 4 + [(2, 100, 2)]
    assert not any(data.flags.writeable or data.flags.owndata for data in given)
    assert_same_bits(np.concatenate([data.reshape(-1, 2) for data in given]), values)  # the maps outlive cache and file


def test_faulty_rows_are_still_named(open_csv, kept):
    lines = ["x,y", *["1,2"] * 500]
    lines[300] = "1,abc"
    source = open_csv("\n".join(lines))
    for _ in range(2):
        with open_cache(kept, source) as cache, pytest.raises(DataError, match="line 301: column 'y' holds 'abc'"):
            epoch_rows(source, cache, batch_size=10)


def only_entry(kept):
    (entry,) = entries(kept)
    return entry.path


def cut(name, length):
    return lambda path: os.truncate(path / name, length)


def changed_about(**changes):
    def damage(path):
        about = json.loads((path / ABOUT).read_text())
        (path / ABOUT).write_text(json.dumps({**about, **changes}))

    return damage


def overwrite_record(path):
    with open(path / RECORDS, "r+b") as stream:
        stream.seek(8)
        stream.write(b"\1")


DAMAGES = {
    "rows cut short": cut(ROWS, 1000),
    "rows too long": cut(ROWS, NUM_ROWS * 8 + 4),
    "rows gone": lambda path: (path / ROWS).unlink(),
    "a torn record": cut(RECORDS, 20),
    "a record that nobody wrote": overwrite_record,
    "records gone": lambda path: (path / RECORDS).unlink(),
    "about gone": lambda path: (path / ABOUT).unlink(),
    "about empty": cut(ABOUT, 0),
    "about of another kind": lambda path: (path / ABOUT).write_text("[1]"),
    "another version of the file": changed_about(fingerprint="12-34"),
    "other columns": changed_about(columns=["y", "x"]),
    "another format": changed_about(format=0),
    "another machine's byte order": changed_about(byte_order="big"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_is_not_whole_is_made_anew(source, kept, values, damage):
    with open_cache(kept, source) as cache:
        epoch_rows(source, cache)
    path = only_entry(kept)
    with open(path / ROWS, "r+b") as stream:
        stream.write(b"\0" * 800)  # so that it shows if the old rows are served
    DAMAGES[damage](path)
    with open_cache(kept, source) as cache:
        assert cache.num_rows == 0
        for _ in range(2):
            rows, _ = epoch_rows(source, cache)
            assert_same_bits(rows, values)
    assert only_entry(kept) == path


def test_a_changed_csv_is_not_served_from_its_old_rows(open_csv, kept):
    for seed in (1, 2):
        values = np.random.default_rng(seed).integers(0, 10, (500, 2)).astype(np.float32)  # files of one size
        source = open_csv(FILES["header"](values))
        os.utime(source.url, ns=(seed, seed))
        source = open_csv(FILES["header"](values)) if seed == 1 else source
        with Source.open(source.url, cache_dir=kept / "index") as again, open_cache(kept, again) as cache:
            assert cache.num_rows == 0
            assert_same_bits(epoch_rows(again, cache)[0], values)
    assert len(entries(kept)) == 1


def test_an_entry_that_was_made_anew_stays_when_its_old_user_fails(open_csv, kept):
    old = open_csv(FILES["header"](table(500)))
    with open_cache(kept, old) as failing:
        new = open_csv(FILES["header"](table(600)))
        with open_cache(kept, new) as cache:
            assert cache.path == failing.path
            epoch_rows(new, cache)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # as if the disk were full
        failing.write(0, table(500))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not failing.usable
    with open_cache(kept, new) as cache:
        assert cache.num_rows == 600


def test_a_cache_file_that_is_cut_meanwhile_is_told(source, kept):
    with open_cache(kept, source) as cache:
        epoch_rows(source, cache)
        os.truncate(cache.path / ROWS, 8000)
        for num_shards in (1, 2):
            with pytest.raises(StorageError, match=r"is shorter than it was; remove .* and run again"):
                epoch_rows(source, cache, num_shards=num_shards)


PREAMBLE = """
import resource, sys, time
from pathlib import Path
import numpy as np
from disttrain.data import row_cache
from disttrain.data.row_cache import open_cache
from disttrain.data.csv.source import Source
sys.path.insert(0, sys.argv.pop(1))
from streaming import steps_of, stream_of
url, kept = sys.argv[1], Path(sys.argv[2])
"""


@pytest.fixture
def python():
    """Starts Python processes that can import the helpers of these tests."""
    with ExitStack() as stack:

        def start(code, *arguments):
            command = [
                sys.executable,
                "-c",
                PREAMBLE + code,
                os.path.dirname(os.path.dirname(__file__)),
                *map(str, arguments),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


STREAM = """
first_shard, stop_shard = int(sys.argv[3]), int(sys.argv[4])
with Source.open(url, cache_dir=kept / "index") as source, open_cache(kept, source) as cache:
    for _ in range(2):
        steps = steps_of(source, shards=range(first_shard, stop_shard), num_shards=4, batch_size=50, cache=cache)
        np.save(kept / f"{sys.argv[5]}.npy", np.concatenate(steps))
"""


@pytest.mark.slow
@pytest.mark.parametrize("parts", [[(0, 4), (0, 4)], [(0, 2), (2, 4)]], ids=["the same rows", "other rows"])
def test_two_processes_may_write_at_once(python, open_csv, kept, values, parts):
    source = open_csv(FILES["header"](values))
    processes = [python(STREAM, source.url, kept, *part, number) for number, part in enumerate(parts)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors == ""
    plain = {part: np.concatenate(steps_of(source, shards=range(*part), num_shards=4, batch_size=50)) for part in parts}
    for number, part in enumerate(parts):
        assert_same_bits(np.load(kept / f"{number}.npy"), plain[part])
    with open_cache(kept, source) as cache:
        rows, read_bytes = epoch_rows(source, cache)
        assert_same_bits(rows, values)
        assert read_bytes == 0


FULL_DISK = """
with Source.open(url, cache_dir=kept / "index") as source, open_cache(kept, source) as cache:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))  # as if the disk were full
    for _ in range(2):
        rows = np.concatenate(steps_of(source, shards=range(2), num_shards=2, batch_size=100, cache=cache))
        print(rows[np.isfinite(rows)].sum(dtype=np.float64))
    assert list(kept.glob("*/rows")) == []
"""


def test_a_full_disk_ends_the_cache_and_not_the_run(python, open_csv, kept, values):
    source = open_csv(FILES["header"](values))
    process = python(FULL_DISK, source.url, kept)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(errors.splitlines()) == 1
    assert "cannot be written, going on without it: File too large" in errors
    np.testing.assert_allclose(np.array(output.split(), float), [values[np.isfinite(values)].sum(dtype=float)] * 2)


KILLED = """
row_cache.SYNC_BYTES = 800
with Source.open(url, cache_dir=kept / "index") as source, open_cache(kept, source) as cache:
    with stream_of(source, shards=range(1), num_shards=1, batch_size=10, steps_per_superbatch=1, cache=cache) as s:
        for number, _ in enumerate(s):
            if number == 200:
                print("now", flush=True)
                time.sleep(60)
"""


def num_kept(kept, source):
    with open_cache(kept, source) as cache:
        return cache.num_rows


def test_a_killed_run_leaves_only_whole_rows(python, open_csv, kept, values):
    source = open_csv(FILES["header"](values))
    process = python(KILLED, source.url, kept)
    assert process.stdout.readline() == "now\n"
    deadline_s = time.monotonic() + 50
    while not num_kept(kept, source) and time.monotonic() < deadline_s:
        time.sleep(0.05)  # they are synced in a thread, and only then noted
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    with open_cache(kept, source) as cache:
        assert 0 < cache.num_rows < NUM_ROWS
        assert_same_bits(epoch_rows(source, cache)[0], values)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12))), st.integers(0, 60), st.integers(0, 30))
def test_a_set_of_ranges_is_the_set_of_their_rows(added, start, length):
    kept, rows = RangeSet(), set()
    for first, count in added:
        kept.add(Range(first, first + count))
        rows |= set(range(first, first + count))
    assert len(kept) == len(rows)
    ranges = kept.ranges()
    assert all(a.stop < b.start for a, b in pairwise(ranges))
    parts = kept.split(Range(start, start + length))
    assert [row for part, _ in parts for row in range(part.start, part.stop)] == list(range(start, start + length))
    assert all(len(part) for part, _ in parts)
    assert all((row in rows) == there for part, there in parts for row in range(part.start, part.stop))
    assert all(a[1] != b[1] for a, b in pairwise(parts))
