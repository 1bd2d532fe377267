"""What a user asks to be done to the columns: kinds, scales, gaps, weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from disttrain.config.option_types import KindRequest
from disttrain.errors import UsageError

Kind = Literal["number", "category", "time", "constant", "text"]
Scale = Literal["auto", "standard", "minmax", "none"]
GAP_ACTIONS = ("error", "mean", "median", "indicator", "drop")


@dataclass(frozen=True)
class Requests:
    """What is asked for; `missing` and `kinds` by column, `default_missing` for all others.

    Attributes:
        scale: of numbers and times.
        default_missing: one of GAP_ACTIONS, or a value to put in.
        gaps: words that stand for nothing, besides GAP_WORDS.
        max_categories: of a vocabulary.
        weight: the column of the rows' weights.
        class_weights: None for no weights of classes, an empty mapping for balanced ones.
        skips_bad_rows: whether rows are left out that hold something else than the rest of their column.
    """

    kinds: Mapping[str, KindRequest] = field(default_factory=dict)
    scale: Scale = "none"
    default_missing: str = "error"
    missing: Mapping[str, str] = field(default_factory=dict)
    gaps: Sequence[str] = ()
    max_categories: int = 10_000
    weight: str | None = None
    class_weights: Mapping[str, float] | None = None
    skips_bad_rows: bool = False

    @property
    def ask_for_encoding(self) -> bool:
        """Whether anything but plain numbers is asked for."""
        plain = Requests(scale=self.scale, max_categories=self.max_categories, skips_bad_rows=self.skips_bad_rows)
        return self.scale in ("standard", "minmax") or self != plain

    def check_names(self, names: Iterable[str], where: str) -> None:
        """Raises UsageError for a column that is not among those of the file."""
        known = list(names)
        asked = [("--kinds", name) for name in self.kinds] + [("--missing", name) for name in self.missing]
        asked += [("--weight", self.weight)] if self.weight is not None else []
        for option, name in asked:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise UsageError(f"{option} {name}: {where} has no such column{hint}")
