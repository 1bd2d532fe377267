"""The files that a run reads, opened and indexed by all workers together."""

from __future__ import annotations

import time

from disttrain.data.csv.source import OpenCsv, Source
from disttrain.data.ranges import Range
from disttrain.data.row_source import RowSource
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import together
from disttrain.run.compiling import compile_readers
from disttrain.run.context import RunContext
from disttrain.run.first_look import needs_statistics
from disttrain.run.shared_index import shared_index
from disttrain.run.table import understand
from disttrain.synthetic.regression import SAMPLE_ROWS, make_sample
from disttrain.threads import DaemonPool

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
        known = like.table if like is not None else None
        encodes = needs_statistics(self._context, opened) if like is None else known is not None
        compile_readers(self._context, encodes=encodes)
        begun_s = time.monotonic()
        if encodes:
            index, table = understand(self._context, opened, url, known)
        else:
            index, table = shared_index(self._backend, opened.reader, opened.header, self._context.cache_dir), None

        def finish() -> Source:
            source = opened.indexed(index, is_strict=self._context.config.strict)
            return source if table is None else source.encoded(table)

        source = together(self._backend, finish)
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
            features=like.chosen_features if like else config.features or None,
            targets=like.chosen_targets if like else config.targets or None,
            weight=config.weight,
            header=config.header,
            delimiter=config.delimiter,
        )
        self._context.stack.enter_context(opened.reader)
        return opened
