"""The files that a run reads, opened and indexed by all workers together."""

from __future__ import annotations

import time

from disttrain.activity import activity
from disttrain.data.csv.parser import compile_kernels
from disttrain.data.csv.row_scanner import count_rows, find_row
from disttrain.data.csv.source import OpenCsv, Source
from disttrain.data.ranges import Range
from disttrain.data.row_source import RowSource
from disttrain.data.sharding import shard_range
from disttrain.data.shuffle import compile_permutation
from disttrain.distributed.backend import together
from disttrain.run.context import RunContext
from disttrain.run.shared_index import shared_index
from disttrain.synthetic.regression import SAMPLE_ROWS, make_sample
from disttrain.threads import DaemonPool

SLOW_COMPILE_S = 3.0  # loading what was compiled before takes one or two, numba's own start among them
SLOW_INDEX_S = 2.0
FIRST_BLOCK_BYTES = 1 << 16
FIRST_ROWS = 1000  # of each worker's part of a file: what is wrong with them is said before the model is made


class Files:
    """Opens the files of one run, on all workers together; what it opens, the context's stack closes."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._backend = context.backend

    def training_data(self) -> str:
        """Returns the file to train on; if none is named, the sample, which one worker of each machine makes."""
        if self._context.config.data is not None:
            return self._context.config.data
        is_maker = self._backend.world.local_rank == 0
        made = together(self._backend, lambda: make_sample(self._context.cache_dir) if is_maker else None)
        sample = made or make_sample(self._context.cache_dir)
        self._context.console.print(f"No --data: training on the built-in sample, y = x, {SAMPLE_ROWS:,} rows")
        return str(sample)

    def open(self, url: str, like: Source | None = None) -> Source:
        """Opens and indexes a file; a validation file must have the columns of the training file."""
        opened = together(self._backend, lambda: self._open(url, like))
        self._compile()
        begun_s = time.monotonic()
        index = shared_index(self._backend, opened.reader, opened.header, self._context.cache_dir)
        source = together(self._backend, lambda: opened.indexed(index, is_strict=self._context.config.strict))
        together(self._backend, lambda: self._check_first_rows(source))
        seconds = time.monotonic() - begun_s
        if seconds > SLOW_INDEX_S:
            self._context.console.print(
                f"Indexed {url}: {source.num_rows:,} rows in {seconds:.1f} s; kept for the next run"
            )
        return source

    def _check_first_rows(self, source: RowSource) -> None:
        """Parses the first rows of this worker's part, so that a file that cannot be used is refused at once."""
        part = shard_range(source.num_rows, self._backend.world.size, self._backend.world.rank)
        rows = Range(part.start, min(part.start + FIRST_ROWS, part.stop))
        pool = DaemonPool(1, "first-rows")
        try:
            source.rows([rows], pool, block_bytes=FIRST_BLOCK_BYTES).take(len(rows))
        finally:
            pool.close()

    def _open(self, url: str, like: Source | None) -> OpenCsv:
        config = self._context.config
        opened = OpenCsv.open(
            url,
            features=like.feature_names if like else config.features or None,
            targets=like.target_names if like else config.targets or None,
            header=config.header,
            delimiter=config.delimiter,
        )
        self._context.stack.enter_context(opened.reader)
        return opened

    def _compile(self) -> None:
        """Compiles what finds and parses rows, or loads what an earlier run compiled; a second call takes no time."""
        begun_s = time.monotonic()
        with activity("compiling"):
            count_rows()
            find_row()
            compile_kernels()
            if self._context.config.shuffle != "none":
                compile_permutation()
        seconds = time.monotonic() - begun_s
        if seconds > SLOW_COMPILE_S:
            self._context.console.print(f"Compiled the parser in {seconds:.1f} s; kept for the next run")
