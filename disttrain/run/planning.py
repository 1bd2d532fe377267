"""What a run would do, and about how long it would take, without training: for `disttrain plan` and `simulate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from disttrain.config import PlanConfig, TrainConfig, default_cache_dir
from disttrain.data.csv.headers import read_text
from disttrain.data.csv.kept_index import index_text
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.source import INDEX_BLOCK_BYTES
from disttrain.data.epoch import steps_per_superbatch
from disttrain.data.reads import Extent, ReadAhead, Reads, plan_reads
from disttrain.data.sharding import Sharding, shards_of_rank
from disttrain.data.shuffle import WINDOW_BYTES
from disttrain.errors import UsageError
from disttrain.run.shared_text import how_read
from disttrain.storage.local import local_path
from disttrain.storage.remote import PIECE_BYTES
from disttrain.threads import num_cores

SUPERBATCHES = 4  # made, waiting and in use


@dataclass(frozen=True, eq=False)
class Plan:
    """What an epoch would be.

    Attributes:
        label: what messages call the data.
        num_files: of it, also compressed ones.
        size_bytes: of the text that they hold.
        is_remote: whether any of them lies in a store.
        sharding: of the rows.
        world_size: workers.
        ahead: how each worker reads.
        reads: what each worker reads.
        buffer_bytes: what a worker's rows take in memory on their way, and the index.
    """

    label: str
    num_files: int
    size_bytes: int
    is_remote: bool
    sharding: Sharding
    world_size: int
    ahead: ReadAhead
    reads: Reads
    buffer_bytes: int

    @property
    def bytes_per_row(self) -> float:
        """The mean length of a row's text."""
        return self.size_bytes / max(self.sharding.num_rows, 1)

    @property
    def shards_held(self) -> int:
        """The most shards that a worker holds."""
        return len(shards_of_rank(self.sharding.num_shards, self.world_size, 0))

    def epoch_s(self, rows_per_s: float) -> float:
        """Returns how long an epoch takes if each worker trains at this speed, and the exchange costs nothing."""
        return self.shards_held * len(self.sharding.shard(0)) / rows_per_s


def plan_run(config: PlanConfig, environ: Mapping[str, str]) -> Plan:
    """Opens the data, loads or makes its index, and plans; raises what opening a training's data raises."""
    cache_dir = config.cache_dir or default_cache_dir(environ)
    how = how_read(config, cache_dir)
    if config.validation_data:
        read_text(config.validation_data, how).reader.close()
    text = read_text(config.data, how)
    with OpenCsv.choose(
        text,
        features=config.features or None,
        targets=config.targets or None,
        weight=config.weight,
        exclude=config.exclude,
    ) as opened:
        index = index_text(text, cache_dir, num_threads=num_cores(1))
        index.check_has_rows(text.info.url)
        extent = Extent(index.rows, index.offsets, index.num_rows, index.size_bytes, text.starts)
        is_remote = any(local_path(file.info.url) is None for file in text.files)
        num_columns = len(opened.feature_names) + len(opened.target_names)
        return plan_epoch(
            config,
            extent,
            label=text.info.url,
            num_columns=num_columns,
            block_bytes=text.reader.block_bytes,
            is_remote=is_remote,
        )


def plan_epoch(
    config: PlanConfig, extent: Extent, *, label: str, num_columns: int, block_bytes: int, is_remote: bool
) -> Plan:
    """Plans an epoch over rows of which the index is known; UsageError if some worker would have no shard or row."""
    used = _used(config, extent)
    num_replicas = config.world_size * (config.devices or 1)
    num_shards = config.num_shards or num_replicas
    if num_shards < num_replicas:
        raise UsageError(
            f"--num-shards {num_shards} leaves some of the {num_replicas:,} devices of the workers without a shard; "
            "give as many shards, or more"
        )
    if used.num_rows < num_shards:
        raise UsageError(f"{label}: has {used.num_rows:,} rows, fewer than {num_shards:,} shards; use fewer workers")
    sharding = Sharding(used.num_rows, num_shards, config.batch_size)
    held = len(shards_of_rank(num_shards, config.world_size, 0))
    ahead = ReadAhead.of(block_bytes, INDEX_BLOCK_BYTES, held, config.shuffle)
    reads = plan_reads(used, sharding, config.world_size, config.shuffle, ahead, PIECE_BYTES if is_remote else None)
    steps = steps_per_superbatch(num_columns, held, config.batch_size, config.steps_per_execution, config.sync_every)
    rows_bytes = steps * held * config.batch_size * num_columns * 4
    windows = 2 * WINDOW_BYTES * held // num_shards if config.shuffle != "none" else 0
    buffers = held * (ahead.num_ahead + 1) * ahead.block_bytes + SUPERBATCHES * rows_bytes + windows
    return Plan(
        label,
        len(extent.file_starts),
        used.size_bytes,
        is_remote,
        sharding,
        config.world_size,
        ahead,
        reads,
        buffers + 3 * extent.rows.nbytes,
    )


def _used(config: TrainConfig, extent: Extent) -> Extent:
    """Returns the rows that are trained on; with a share held out, as if the others were that much longer."""
    num_rows, size_bytes = extent.num_rows, extent.size_bytes
    if config.limit is not None and config.limit < num_rows:
        size_bytes = int(extent.offsets_of(np.array([config.limit]))[0])
        num_rows = config.limit
    kept = 1 - config.validation_split
    is_used = extent.rows < num_rows
    rows = (extent.rows[is_used] * kept).astype(np.int64) if kept < 1 else extent.rows[is_used]
    return Extent(rows, extent.offsets[is_used], int(num_rows * kept), size_bytes, extent.file_starts)
