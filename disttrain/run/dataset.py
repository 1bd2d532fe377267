"""A CSV as a dataset for your own program: its columns, its statistics, its rows by shards and batches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.config import InspectConfig, default_cache_dir
from disttrain.config.calling import checked
from disttrain.data.batches import batches, num_batches
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.header import HeaderMode
from disttrain.data.csv.source import Source
from disttrain.data.sharding import check_shard, shard_range
from disttrain.data.shuffle import ShuffleMode
from disttrain.data.table.statistics import ColumnStatistics
from disttrain.errors import UsageError
from disttrain.run.inspection import look_at

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def open_csv(
    path: str | Path | Sequence[str | Path],
    *,
    features: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    header: HeaderMode = "auto",
    delimiter: str | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Opens CSV files as one dataset, whose rows are counted at the first time and then known.

    Args:
        path: a path or any URL that fsspec opens, a pattern or a directory, or several of them.
        features, target: the columns that `batches` gives; by default the last is the target, and all others features.
        header: whether the first line names the columns.
        delimiter: the character between two fields; by default it is found.
        cache_dir: where what is found out is kept.

    Raises:
        UsageError: for a file or a column that is not there.
        DataError: for a file without rows.
    """
    paths = (path,) if isinstance(path, str | Path) else path
    how: dict[str, Any] = {"header": header, "delimiter": delimiter, "cache_dir": cache_dir}
    chosen = {"features": _listed(features), "target": _listed(target)}
    where = default_cache_dir(os.environ) if cache_dir is None else Path(cache_dir).expanduser()
    with Source.open(
        [str(one) for one in paths], features=chosen["features"], targets=chosen["target"], header=header,
        dialect=None if delimiter is None else Dialect(delimiter), cache_dir=where,
    ) as source:  # fmt: skip
        names = source.header.names, source.feature_names, source.target_names
        return Dataset(tuple(map(str, paths)), *names, source.num_rows, how, chosen)


def _listed(names: str | Sequence[str] | None) -> Sequence[str] | None:
    return [names] if isinstance(names, str) else names


@dataclass(frozen=True)
class Dataset:
    """CSV files as one dataset, or a shard of it; `len` is its number of rows.

    Attributes:
        paths: as they were named.
        columns: the names of all columns, in their order.
        features, targets: the columns of a batch's `x` and `y`.
        num_rows: of the whole dataset.
        index, num_shards: which part of how many this is.
    """

    paths: tuple[str, ...]
    columns: tuple[str, ...]
    features: tuple[str, ...]
    targets: tuple[str, ...]
    num_rows: int
    _how: Mapping[str, Any]
    _chosen: Mapping[str, Sequence[str] | None]
    index: int = 0
    num_shards: int = 1

    def __len__(self) -> int:
        """Returns how many rows this shard has."""
        return len(shard_range(self.num_rows, self.num_shards, self.index))

    @property
    def stats(self) -> dict[str, ColumnStatistics]:
        """What each column of the whole dataset holds, by name: gathered in one pass at the first time, then kept."""
        values = {name: value for name, value in self._how.items() if value is not None}
        found = look_at(checked(InspectConfig, {"data": self.paths, **values}, "open_csv"), os.environ)
        return {own.name: own for own in found.statistics.columns}

    def shard(self, index: int, num_shards: int) -> Dataset:
        """Returns part `index` of `num_shards` contiguous parts of the rows, whose sizes differ by one row at most."""
        if self.num_shards > 1:
            raise UsageError(f"shard {self.index} of {self.num_shards} is cut already: cut the whole dataset")
        check_shard(index, num_shards)
        return replace(self, index=index, num_shards=num_shards)

    def batches(
        self, batch_size: int, *, epochs: int | None = 1, shuffle: ShuffleMode = "none", seed: int = 0
    ) -> Iterator[Batch]:
        """Yields `(x [rows, features], y [rows, targets])`, float32, as `disttrain.batches` does."""
        return batches(
            list(self.paths), batch_size, features=self._chosen["features"], target=self._chosen["target"],
            shard=self.index, num_shards=self.num_shards, epochs=epochs, shuffle=shuffle, seed=seed, **self._how,
        )  # fmt: skip

    def to_tf_dataset(self, batch_size: int, *, shuffle: ShuffleMode = "none", seed: int = 0) -> Any:
        """Returns a `tf.data.Dataset` of one pass over the rows, whose cardinality is the exact number of batches.

        Each iteration over it is an epoch; `shuffle` draws a new order in each. It fits `model.fit`, and
        `tf.distribute` cuts its batches among the replicas.
        """
        import tensorflow as tf

        epoch = itertools.count()

        def rows() -> Iterator[Batch]:
            return self.batches(batch_size, shuffle=shuffle, seed=(seed + next(epoch)) % 2**32)

        specs = tuple(tf.TensorSpec([None, len(names)], tf.float32) for names in (self.features, self.targets))
        found = tf.data.Dataset.from_generator(rows, output_signature=specs)
        steps = num_batches(list(self.paths), batch_size, shard=self.index, num_shards=self.num_shards, **self._how)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return found.apply(tf.data.experimental.assert_cardinality(steps)).with_options(options)
