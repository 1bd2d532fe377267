"""The files of a run, opened by all workers together: if one worker fails, all end with an error of their own."""

import io
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count

import pytest
from rich.console import Console

from disttrain.config import TrainConfig
from disttrain.data.ranges import Range
from disttrain.data.shuffle import FILE_ORDER
from disttrain.distributed.backend import World
from disttrain.elastic.continuity import FixedRun
from disttrain.errors import DataError, PeerError, StorageError
from disttrain.run import compiling, files
from disttrain.run.context import RunContext
from disttrain.run.feeds import machine_rows, open_feed
from disttrain.run.files import Files
from disttrain.storage.local import LocalReader

ROWS = b"x,y\n" + b"1,2\n" * 1000
MEETING_S = 20


class ThreadBackend:
    """A worker that is a thread of this process; workers gather values through `told`, between two `barriers`."""

    def __init__(self, rank, told, barriers):
        self.world = World(rank, len(told), rank, len(told))
        self._told = told
        self._barriers = barriers

    def gather(self, value):
        self._told[self.world.rank] = value
        self._barriers[0].wait(MEETING_S)
        values = list(self._told)
        self._barriers[1].wait(MEETING_S)
        return values


def opened_by_all(paths, cache_dir, stream=None):
    """Opens a file on each rank, each by its own path; returns the number of rows, or the error, of each rank."""
    told, barriers = [None] * len(paths), [threading.Barrier(len(paths)) for _ in range(2)]

    def work(rank):
        with ExitStack() as stack:
            backend = ThreadBackend(rank, told, barriers)
            console = Console(file=stream or io.StringIO(), soft_wrap=True)
            try:
                context = RunContext(TrainConfig(), backend, cache_dir, console, stack, FixedRun())
                return Files(context).open([str(paths[rank])]).num_rows
            except Exception as error:
                return error

    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(work, range(len(paths))))


@pytest.fixture
def paths(tmp_path):
    """A file for each of two workers; neither has an index yet."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(ROWS)
    return [tmp_path / "a.csv", tmp_path / "b.csv"]


def test_whichever_read_fails_on_one_worker_all_end_with_its_error(paths, tmp_path, monkeypatch):
    read_into, reads = LocalReader.read_into, 0

    def fail_at(number):
        def read(reader, offset, buffer):
            nonlocal reads
            reads += reader.info.url == str(paths[1])
            if reader.info.url == str(paths[1]) and reads == number:
                raise StorageError("the disk is gone")
            read_into(reader, offset, buffer)

        return read

    for number in count(1):
        reads = 0
        monkeypatch.setattr(LocalReader, "read_into", fail_at(number))
        ended = opened_by_all(paths, tmp_path / f"cache{number}")
        if reads < number:
            break
        assert [type(error) for error in ended] == [PeerError, StorageError]
        assert ended[0].exit_code == StorageError.exit_code
    assert number > 3  # of the header, of the rows, and of the lines before them
    assert ended == [1000, 1000]


def test_workers_that_see_different_files_end_with_one_message(paths, cache_dir):
    paths[1].write_bytes(ROWS + b"1,2\n")
    first, second = opened_by_all(paths, cache_dir)
    assert isinstance(first, DataError)
    assert "the workers see different files (rank 0: 4,004 bytes, rank 1: 4,008 bytes)" in str(first)
    assert (type(second), second.exit_code) == (PeerError, DataError.exit_code)


def test_a_file_without_rows_is_told_by_one_worker(paths, cache_dir):
    for path in paths:
        path.write_bytes(b"x,y\n")
    first, second = opened_by_all(paths, cache_dir)
    assert isinstance(first, DataError)
    assert "has a header line but no rows" in str(first)
    assert (type(second), second.exit_code) == (PeerError, DataError.exit_code)


def test_compiling_is_told_and_no_part_of_the_indexing(paths, cache_dir, monkeypatch):
    monkeypatch.setattr(compiling, "compile_kernels", lambda: time.sleep(1))  # as long as if nothing were compiled yet
    monkeypatch.setattr(compiling, "SLOW_COMPILE_S", 0.9)
    monkeypatch.setattr(files, "SLOW_INDEX_S", 0)
    output = io.StringIO()
    assert opened_by_all(paths[:1], cache_dir, output) == [1000]
    compiled, indexed = output.getvalue().splitlines()
    assert re.fullmatch(r"Compiled the parser in [1-9]\d*\.\d s; kept for the next run", compiled)
    assert re.fullmatch(r"Indexed .*: 1,000 rows in 0\.\d s; kept for the next run", indexed)


@pytest.mark.parametrize(("cores", "num_parsers"), [(1, 1), (3, 1), (8, 4), (64, 6)])
def test_a_worker_parses_as_many_shards_at_once_as_it_has_cores(paths, cache_dir, monkeypatch, cores, num_parsers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores))
    backend = ThreadBackend(0, [None], [threading.Barrier(1)] * 2)
    backend.world = World(size=1, local_size=2)
    with ExitStack() as stack:
        context = RunContext(TrainConfig(), backend, cache_dir, Console(quiet=True), stack, FixedRun())
        feed = open_feed(context, Files(context).open([str(paths[0])]), 6, FILE_ORDER)
        before = set(threading.enumerate())
        stack.enter_context(feed.stream())
        begun = [thread.name for thread in set(threading.enumerate()) - before]
    assert len([name for name in begun if re.fullmatch(r"parse-\d", name)]) == num_parsers


MACHINES = [
    (World(), 1, (0, 100)),
    (World(rank=1, size=4, local_rank=1, local_size=2), 4, (0, 50)),
    (World(rank=2, size=4, local_rank=0, local_size=2), 4, (50, 100)),
    (World(rank=3, size=4, local_rank=0, local_size=1), 4, (75, 100)),
    (World(rank=2, size=3, local_rank=0, local_size=1), 4, (75, 100)),  # the first rank holds two shards
    (World(rank=3, size=4, local_rank=1, local_size=2), 2, (0, 0)),  # more workers than shards
]


@pytest.mark.parametrize(("world", "num_shards", "rows"), MACHINES)
def test_a_machine_keeps_the_rows_of_its_workers_shards(world, num_shards, rows):
    assert machine_rows(world, 100, num_shards) == Range(*rows)
