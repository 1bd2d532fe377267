"""What a run reads: its files opened and indexed by all workers together, their passes planned, their rows cached."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from disttrain.activity import activity
from disttrain.config import TrainConfig
from disttrain.data.cache_eviction import show_bytes
from disttrain.data.csv.parser import compile_kernels
from disttrain.data.csv.row_scanner import count_rows, find_row
from disttrain.data.csv.source import OpenCsv, Source
from disttrain.data.epoch import EpochPlan, steps_per_superbatch
from disttrain.data.ranges import Range
from disttrain.data.row_cache import RowCache, open_cache
from disttrain.data.row_source import RowSource
from disttrain.data.sharding import Sharding, shard_range, shards_of_rank
from disttrain.data.shuffle import EpochOrder, compile_permutation
from disttrain.data.superbatches import Feed
from disttrain.distributed.backend import Backend, World, together
from disttrain.run.shared_index import shared_index
from disttrain.synthetic.regression import SAMPLE_ROWS, make_sample
from disttrain.threads import DaemonPool, num_cores

SLOW_COMPILE_S = 3.0  # loading what was compiled before takes one or two, numba's own start among them
SLOW_INDEX_S = 2.0
FIRST_BLOCK_BYTES = 1 << 16
FIRST_ROWS = 1000  # of each worker's part of a file: what is wrong with them is said before the model is made


class Inputs:
    """The files of one run; what they hold open, `stack` closes."""

    def __init__(
        self, config: TrainConfig, backend: Backend, cache_dir: Path, console: Console, stack: ExitStack
    ) -> None:
        self.config = config
        self.backend = backend
        self.cache_dir = cache_dir
        self.console = console
        self.stack = stack

    def training_data(self) -> str:
        """The file to train on; the sample, made by one worker a machine, where none is named."""
        if self.config.data is not None:
            return self.config.data
        is_maker = self.backend.world.local_rank == 0
        made = together(self.backend, lambda: make_sample(self.cache_dir) if is_maker else None)
        sample = made or make_sample(self.cache_dir)
        self.console.print(f"No --data: training on the built-in sample, y = x, {SAMPLE_ROWS:,} rows")
        return str(sample)

    def open(self, url: str, like: Source | None = None) -> Source:
        """Opens and indexes a file; a validation file must have the columns of the training file."""
        opened = together(self.backend, lambda: self._open(url, like))
        self._compile()
        begun_s = time.monotonic()
        index = shared_index(self.backend, opened.reader, opened.header, self.cache_dir)
        source = together(self.backend, lambda: opened.indexed(index, is_strict=self.config.strict))
        together(self.backend, lambda: self._check_first_rows(source))
        seconds = time.monotonic() - begun_s
        if seconds > SLOW_INDEX_S:
            self.console.print(f"Indexed {url}: {source.num_rows:,} rows in {seconds:.1f} s; kept for the next run")
        return source

    def _check_first_rows(self, source: RowSource) -> None:
        """Parses the first rows of this worker's part, so that a file that cannot be used is refused at once."""
        part = shard_range(source.num_rows, self.backend.world.size, self.backend.world.rank)
        rows = Range(part.start, min(part.start + FIRST_ROWS, part.stop))
        pool = DaemonPool(1, "first-rows")
        try:
            source.rows([rows], pool, block_bytes=FIRST_BLOCK_BYTES).take(len(rows))
        finally:
            pool.close()

    def _open(self, url: str, like: Source | None) -> OpenCsv:
        config = self.config
        opened = OpenCsv.open(
            url,
            features=like.feature_names if like else config.features or None,
            targets=like.target_names if like else config.targets or None,
            header=config.header,
            delimiter=config.delimiter,
        )
        self.stack.enter_context(opened.reader)
        return opened

    def _compile(self) -> None:
        """Compiles what finds and parses rows, or loads what an earlier run compiled; a second call takes no time."""
        begun_s = time.monotonic()
        with activity("compiling"):
            count_rows()
            find_row()
            compile_kernels()
            if self.config.shuffle != "none":
                compile_permutation()
        seconds = time.monotonic() - begun_s
        if seconds > SLOW_COMPILE_S:
            self.console.print(f"Compiled the parser in {seconds:.1f} s; kept for the next run")

    def feed(self, source: RowSource, num_shards: int, order: EpochOrder) -> Feed:
        """What feeds this worker with the rows of its shards, in this order."""
        config, world = self.config, self.backend.world
        most_held = len(shards_of_rank(num_shards, world.size, 0))
        steps = steps_per_superbatch(
            source.num_columns, most_held, config.batch_size, config.steps_per_execution, multiple=config.sync_every
        )
        plan = EpochPlan(
            Sharding(source.num_rows, num_shards, config.batch_size),
            shards_of_rank(num_shards, world.size, world.rank),
            steps,
            order,
            num_replicas=world.num_devices,
        )
        return Feed(source, plan, self._cache(source, num_shards, order), num_cores(world.local_size))

    def _cache(self, source: RowSource, num_shards: int, order: EpochOrder) -> RowCache | None:
        config, world = self.config, self.backend.world
        if config.cache is None:
            return None
        everything = Range(0, source.num_rows)
        planned = everything if order.mode == "global" else machine_rows(world, source.num_rows, num_shards)
        cache = open_cache(
            config.cache,
            source,
            limit_bytes=config.cache_limit,
            planned=planned,
            warns=world.local_rank == 0,
        )
        if cache is not None:
            self.stack.enter_context(cache)
            there = sum(len(rows) for rows, is_there in cache.split(planned) if is_there)
            self.console.print(
                f"Cache {cache.path}: {show_bytes(len(planned) * source.num_columns * 4)} for {len(planned):,} rows, "
                f"of which {there:,} are there"
            )
        return cache


def machine_rows(world: World, num_rows: int, num_shards: int) -> Range:
    """The rows of all shards that the workers of this machine hold, whose ranks follow each other."""
    first = world.rank - world.local_rank
    last = min(first + world.local_size, world.size) - 1
    shards = range(
        shards_of_rank(num_shards, world.size, first).start, shards_of_rank(num_shards, world.size, last).stop
    )
    if not shards:
        return Range(0, 0)
    return Range(shard_range(num_rows, num_shards, shards[0]).start, shard_range(num_rows, num_shards, shards[-1]).stop)
