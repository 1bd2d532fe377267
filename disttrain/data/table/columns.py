"""What is done to each column of a dataset, and the table that describes it all."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from disttrain.config.option_types import PARTS
from disttrain.data.table import encoder
from disttrain.data.table.encoder import Plan, hash_table
from disttrain.data.table.requests import Kind
from disttrain.data.table.values import GAP, NUMBER, TEXT, TIME

Role = Literal["feature", "target", "weight"]

OUT_OF_VOCABULARY = 0  # the index of a category that the vocabulary does not have


@dataclass(frozen=True)
class Column:
    """What is done to one column.

    Attributes:
        name: the column's.
        kind: what it holds: number, time or category.
        role: what it is used for.
        offset, scale: a number or time x becomes (x - offset) / scale, computed in float64.
        unit: what a prediction of this target is multiplied by before it is compared; 1 for all but scaled targets.
        parts: of a time, each as sine and cosine.
        fill: what a number's gap is replaced by before it is scaled, or None.
        has_indicator: whether a further number is 1 where there is a gap, else 0.
        drops: whether rows with a gap get the weight 0.
        categories: the vocabulary: index 0 is for all others, then these, then gaps if `has_gaps`. Of a target: labels,
            counted from 0.
        bins: of a hashed category: the index is its hash modulo this; gaps then have the index `bins` if `has_gaps`.
        has_gaps: whether gaps are a category of their own.
        gap_as: the category that a gap is taken for, or None.
        is_text: whether a time is written as text (ISO 8601) rather than as a number.
    """

    name: str
    kind: Kind
    role: Role = "feature"
    offset: float = 0.0
    scale: float = 1.0
    unit: float = 1.0
    parts: tuple[str, ...] = ()
    fill: float | None = None
    has_indicator: bool = False
    drops: bool = False
    categories: tuple[str, ...] = ()
    bins: int = 0
    has_gaps: bool = False
    gap_as: str | None = None
    is_text: bool = False

    @property
    def is_raw(self) -> bool:
        """Whether its numbers become float32 as they are."""
        is_number = self.kind == "number" or (self.kind == "time" and not self.is_text and not self.parts)
        return is_number and self.offset == 0 and self.scale == 1

    @property
    def fills_gaps(self) -> bool:
        """Whether something stands for its gaps: a number, or an index."""
        return self.fill is not None or (self.kind == "category" and self.role == "feature")

    @property
    def num_tokens(self) -> int:
        """Indices that a category may have: what an Embedding needs as its `input_dim`; 0 for numbers."""
        if self.kind != "category":
            return 0
        if self.role == "target":
            return len(self.categories)
        return (self.bins or len(self.categories) + 1) + self.has_gaps

    @property
    def gap_index(self) -> int:
        """The index that a category's gap becomes."""
        if self.gap_as is not None and not self.bins:
            known = self.gap_as in self.categories
            return 1 + self.categories.index(self.gap_as) if known else OUT_OF_VOCABULARY
        return self.num_tokens - 1 if self.has_gaps else OUT_OF_VOCABULARY

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the float32 numbers that it becomes."""
        if self.role == "weight":
            return ()
        if self.parts:
            names = tuple(f"{self.name}:{part}:{wave}" for part in self.parts for wave in ("sin", "cos"))
        else:
            names = (self.name,)
        return (*names, f"{self.name}:missing") if self.has_indicator else names


@dataclass(frozen=True)
class LeftOut:
    """A column that is not used, and why."""

    name: str
    kind: Kind
    why: str


@dataclass(frozen=True)
class Table:
    """The description of a dataset's columns: which are used, as what, and what is done to each.

    Attributes:
        columns: the features, then the targets, then the weight if there is one.
        left_out: columns that are not used.
        gaps: words that stand for nothing.
        class_weights: by a target's encoded value.
        is_weighted: whether rows have weights: of a column, of classes, or 0 for dropped ones.
    """

    columns: tuple[Column, ...]
    left_out: tuple[LeftOut, ...] = ()
    gaps: tuple[str, ...] = ()
    class_weights: Mapping[float, float] | None = None
    is_weighted: bool = False

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that the model gets."""
        return tuple(column for column in self.columns if column.role == "feature")

    @property
    def targets(self) -> tuple[Column, ...]:
        """The columns that the loss compares."""
        return tuple(column for column in self.columns if column.role == "target")

    @property
    def feature_slots(self) -> tuple[str, ...]:
        """The names of the numbers that the features become."""
        return tuple(slot for column in self.features for slot in column.slots)

    @property
    def target_slots(self) -> tuple[str, ...]:
        """The names of the numbers that the targets become."""
        return tuple(slot for column in self.targets for slot in column.slots)

    @property
    def num_slots(self) -> int:
        """Numbers in an encoded row."""
        return len(self.feature_slots) + len(self.target_slots) + self.is_weighted

    @property
    def is_plain(self) -> bool:
        """Whether all columns become float32 as they are, so that nothing needs to be known of them."""
        is_plain = all(c.is_raw and c.unit == 1 and c.fill is None and not c.drops for c in self.columns)
        return is_plain and not self.is_weighted

    @property
    def digest(self) -> str:
        """What differs where encoded rows differ."""
        used = [asdict(column) for column in self.columns]
        weights = sorted((self.class_weights or {}).items())
        return hashlib.sha256(json.dumps([used, sorted(self.gaps), weights]).encode()).hexdigest()[:16]

    def first_slots(self) -> dict[str, int]:
        """Returns the first slot of each column; a weight's is the row's last."""
        found, slot = {}, 0
        for column in self.columns:
            found[column.name] = slot
            slot += len(column.slots)
        return found

    def plan(self, fingerprint_of: Callable[[str], int]) -> Plan:
        """Returns how rows are encoded, given the function by which the reader makes fingerprints of texts."""
        first = self.first_slots()
        weight_slot = self.num_slots - 1 if self.is_weighted else -1
        keys, indices, size = [np.zeros(0, np.uint64)], [np.zeros(0, np.float32)], 0
        words, reals, tags = [], [], []
        for column in self.columns:
            own = _Words(column, first[column.name])
            if column.kind == "category" and not column.bins:
                is_target = column.role == "target"
                entries = hash_table([fingerprint_of(text) for text in column.categories], int(not is_target))
                own = _Words(column, first[column.name], size, len(entries[0]) - 1)
                keys.append(entries[0])
                indices.append(entries[1])
                size += len(entries[0])
            words.append(own.words)
            reals.append((column.offset, column.scale, own.fill))
            tags.append(own.tags)
        weights = sorted((self.class_weights or {}).items())
        return Plan(
            np.array(words, np.int64).reshape(-1, 8),
            np.array(reals, np.float64).reshape(-1, 3),
            np.array(tags, np.uint8),
            np.concatenate(keys),
            np.concatenate(indices),
            weight_slot,
            np.array([value for value, _ in weights], np.float32),
            np.array([weight for _, weight in weights], np.float32),
            first[self.targets[0].name] if weights else -1,
            self.num_slots,
        )

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Table:
        """Reads what `to_json` returned; KeyError or a similar error if something else wrote it."""

        def column(own: Mapping[str, Any]) -> Column:
            words: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in own.items()
            }
            return Column(**words)

        weights = {float(value): float(weight) for value, weight in kept["class_weights"]}
        left_out = tuple(LeftOut(**own) for own in kept["left_out"])
        columns = tuple(column(own) for own in kept["columns"])
        return cls(columns, left_out, tuple(kept["gaps"]), weights or None, kept["is_weighted"])

    def to_json(self) -> dict[str, Any]:
        """Returns the table as JSON gives it back: with lists for tuples."""
        plain: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "columns": [asdict(column) for column in self.columns],
                    "left_out": [asdict(column) for column in self.left_out],
                    "gaps": list(self.gaps),
                    "class_weights": sorted((self.class_weights or {}).items()),
                    "is_weighted": self.is_weighted,
                }
            )
        )
        return plain


@dataclass(frozen=True)
class _Words:
    """One column's numbers in a Plan."""

    column: Column
    slot: int
    start: int = 0
    size: int = 0

    @functools.cached_property
    def words(self) -> Sequence[int]:
        column, size = self.column, self.size
        how = encoder.NUMBERS
        if column.role == "weight":
            how = encoder.WEIGHT
        elif column.kind == "category":
            how, size = (encoder.HASH, column.bins) if column.bins else (encoder.VOCABULARY, size)
        elif column.parts:
            how, size = encoder.PARTS, 2 * len(column.parts)
        indicator = self.slot + len(column.slots) - 1 if column.has_indicator else -1
        on_gap = 2 if column.drops else int(column.fills_gaps)
        parts = sum(1 << PARTS.index(part) for part in column.parts)
        return (how, self.slot, indicator, on_gap, self.start, size, parts, int(column.role == "target"))

    @property
    def fill(self) -> float:
        column = self.column
        if column.kind == "category":
            return float(column.gap_index)
        return (column.fill - column.offset) / column.scale if column.fill is not None else 0.0

    @property
    def tags(self) -> int:
        allowed = {"number": (NUMBER,), "time": (NUMBER, TIME), "category": (TEXT,)}
        return sum(1 << tag for tag in (*allowed.get(self.column.kind, ()), GAP))
