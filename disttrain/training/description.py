"""What a saved model is told to be, in a member of its own of the `.keras` file: its columns, loss and metrics."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from disttrain.config import FileSettings, TrainConfig
from disttrain.data.row_source import RowSource
from disttrain.data.table.columns import Table
from disttrain.errors import redacted
from disttrain.training.tasks import task_of
from disttrain.training.user_code import GIVEN_MODEL

MEMBER = "disttrain.json"  # Keras reads the members that it knows, and leaves this one alone
_FORMAT = 1
_DATE = (1980, 1, 1, 0, 0, 0)  # the same for every file, so that equal models give equal bytes


@dataclass(frozen=True)
class Description:
    """What a trained model takes and gives.

    Attributes:
        features: the columns of the file that it takes, in the order of the trained network's inputs.
        targets: the columns that it was trained to give.
        table: what is done to each column; None where all become float32 as they are.
        by_name: whether the trained network takes columns by name.
        task: "regression", "binary" or "multiclass".
        loss: as the options name it; empty for a loss of a model that the user compiled.
        metrics: as the options name them.
        function: the user's own that made the network, as `package.module:function`; empty for the dense network.
        data: the files that it was trained on, as they were named; none for the built-in sample, None where that is not
            known.
        reading: the options by which they were read, as far as they were given.
    """

    features: tuple[str, ...]
    targets: tuple[str, ...]
    table: Table | None
    by_name: bool
    task: str
    loss: str
    metrics: tuple[str, ...]
    function: str = ""
    data: tuple[str, ...] | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: TrainConfig, source: RowSource, model: keras.Model, *, by_name: bool) -> Description:
        """Describes the compiled model of a run."""
        table = source.table
        features = source.feature_names if table is None else tuple(column.name for column in table.features)
        targets = source.target_names if table is None else tuple(column.name for column in table.targets)
        loss, metrics = (config.loss, config.metrics) if config.model is None else compiled_with(model)
        function = "" if config.model == GIVEN_MODEL else config.model or ""
        words = (task_of(config, table), loss, metrics, function)
        return cls(features, targets, table, by_name, *words, *trained_on(config))

    def labels(self, num_outputs: int) -> tuple[str, ...]:
        """Returns the labels of a classification by one target, else none; those that are numbers count from 0.

        `num_outputs` is how many numbers the model gives for a row.
        """
        if self.task == "regression" or len(self.targets) != 1:
            return ()
        known = self.table.targets[0].categories if self.table is not None else ()
        return known or tuple(map(str, range(max(num_outputs, 2))))

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Description:
        """Reads what `to_json` returned; KeyError or a similar error if something else wrote it."""
        table = Table.from_json(kept["table"]) if kept["table"] else None
        words: dict[str, Any] = {name: tuple(kept[name]) for name in ("features", "targets", "metrics")}
        own = {name: kept[name] for name in ("by_name", "task", "loss", "function")}
        data = kept.get("data")  # an older disttrain did not tell it
        return cls(
            table=table, **own, **words, data=None if data is None else tuple(data), reading=kept.get("reading", {})
        )

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        table = self.table.to_json() if self.table is not None else {}
        return {**vars(self), "table": table, "format": _FORMAT}

    def add_to(self, path: Path) -> None:
        """Adds it to a saved model's file."""
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo(MEMBER, _DATE), json.dumps(self.to_json(), indent=1))

    @classmethod
    def read(cls, path: Path) -> Description | None:
        """Returns what a `.keras` file is described as; None if disttrain did not write it.

        Raises:
            ValueError: for a format of a newer disttrain, or a file that is no `.keras` file.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                if MEMBER not in archive.namelist():
                    return None
                kept = json.loads(archive.read(MEMBER))
        except zipfile.BadZipFile as error:
            raise ValueError("is no .keras file, or a damaged one") from error
        if kept.get("format", _FORMAT) > _FORMAT:
            raise ValueError("was written by a newer disttrain: update this one")
        return cls.from_json(kept)


def trained_on(config: TrainConfig) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    """Returns `data` and `reading` of a description; URLs that hold secrets are not told."""
    reading = {
        name: getattr(config, name)
        for name, field_ in FileSettings.model_fields.items()
        if name != "data" and getattr(config, name) != field_.default
    }
    is_secret = any(redacted(url) != url or "***" in url for url in config.data)
    return None if is_secret else tuple(config.data), reading


def compiled_with(model: keras.Model) -> tuple[str, tuple[str, ...]]:
    """Returns the loss and the metrics that a model was compiled with, as far as they are names."""
    asked = model.get_compile_config() or {}
    loss = asked.get("loss")
    metrics = [*(asked.get("metrics") or ()), *(asked.get("weighted_metrics") or ())]
    return loss if isinstance(loss, str) else "", tuple(one for one in metrics if isinstance(one, str))
