"""The files that a run reads, opened and indexed by all workers together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import together
from disttrain.run.bad_rows import bad_rows_of
from disttrain.run.compiling import compile_readers
from disttrain.run.first_look import needs_statistics
from disttrain.run.shared_index import shared_index
from disttrain.run.shared_text import shared_text
from disttrain.run.table import understand
from disttrain.synthetic.regression import SAMPLE_ROWS, make_sample
from disttrain.threads import DaemonPool

if TYPE_CHECKING:
    from disttrain.data.csv.text import CsvText
    from disttrain.data.row_source import RowSource
    from disttrain.run.context import RunContext

SLOW_INDEX_S = 2.0
FIRST_BLOCK_BYTES = 1 << 16
FIRST_ROWS = 1000  # of each worker's part of a file: what is wrong with them is said before the model is made


class Files:
    """Opens the files of one run, on all workers together; what it opens, the context's stack closes."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._backend = context.backend

    def training_data(self) -> tuple[str, ...]:
        """Returns the files to train on; if none is named, the sample, which one worker of each machine makes."""
        if self._context.config.data:
            return self._context.config.data
        is_maker = self._backend.world.local_rank == 0
        made = together(self._backend, lambda: make_sample(self._context.cache_dir) if is_maker else None)
        sample = made or make_sample(self._context.cache_dir)
        self._context.console.print(f"No --data: training on the built-in sample, y = x, {SAMPLE_ROWS:,} rows")
        return (str(sample),)

    def open(self, places: Sequence[str], like: Source | None = None) -> Source:
        """Opens and indexes a dataset; one to validate with must have the columns of the training data."""
        text = shared_text(self._context, places)
        opened = together(self._backend, lambda: self._choose(text, like))
        url = text.info.url
        known = like.table if like is not None else None
        encodes = needs_statistics(self._context, opened) if like is None else known is not None
        compile_readers(self._context, text.header.dialect, encodes=encodes)
        begun_s = time.monotonic()
        if encodes:
            index, table = understand(self._context, opened, url, known)
        else:
            index, table = shared_index(self._backend, text, self._context.cache_dir), None

        def finish() -> Source:
            config = self._context.config
            bad_rows = bad_rows_of(config, index.num_rows)
            source = Source.of(opened, index, is_strict=config.strict, bad_rows=bad_rows)
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
            if source.bad_rows is not None:
                source.bad_rows.take()  # the first epoch finds them again
        finally:
            pool.close()

    def _choose(self, text: CsvText, like: Source | None) -> OpenCsv:
        config = self._context.config
        return OpenCsv.choose(
            text,
            features=like.chosen_features if like else config.features or None,
            targets=like.chosen_targets if like else config.targets or None,
            weight=config.weight,
            exclude=() if like else config.exclude,
        )
