"""Decides from the statistics what each column is and what is done to it; says so, and refuses what cannot be used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from disttrain.config.option_types import KindRequest
from disttrain.data.place import Place
from disttrain.data.table.checks import show_rows
from disttrain.data.table.columns import Column, LeftOut, Table
from disttrain.data.table.gathering import Key
from disttrain.data.table.kinds import gap_words, has_odd_texts, is_other_number, kind_of, looks_like_code
from disttrain.data.table.requests import GAP_ACTIONS, Kind, Requests
from disttrain.data.table.scaling import is_ordinary
from disttrain.data.table.statistics import ColumnStatistics, Statistics
from disttrain.errors import DataError, UsageError, listed

MAX_NAMED = 8  # columns that a sentence names


@dataclass(frozen=True)
class TargetUse:
    """What the loss makes of targets.

    It takes up to `max_labels` labels if it `takes_classes`; `may_scale` and `may_shift` say what it does not notice.
    """

    takes_classes: bool = False
    max_labels: int = 65_536
    may_scale: bool = False
    may_shift: bool = False


@dataclass(frozen=True)
class Decided:
    """The table, and what the user should know about it, a sentence each."""

    table: Table
    remarks: tuple[str, ...]


class Decider:
    """Decides about the columns of one dataset."""

    def __init__(
        self,
        statistics: Statistics,
        requests: Requests,
        where: str,
        place_of: Callable[[int], Place],
        text_at: Callable[[int, str], str],
        *,
        is_explicit: bool,
    ) -> None:
        """
        Args:
            statistics: of all columns that are used.
            requests: the user's.
            where: the dataset, as messages name it.
            place_of: returns the file and line of an offset.
            text_at: returns what a column holds in the row at an offset.
            is_explicit: whether the user chose the features: then none is left out, unless asked for.
        """
        self._statistics = statistics
        self._requests = requests
        self._where = where
        self._place_of = place_of
        self._text_at = text_at
        self._is_explicit = is_explicit
        self._remarks: list[str] = []
        self._gaps: list[ColumnStatistics] = []

    def decide(self, features: Sequence[str], targets: Sequence[str], use: TargetUse) -> Decided:
        """Returns the table, with what the user should know about it.

        Raises:
            DataError: for columns with gaps about which nothing was said, and for a column with texts among numbers.
            UsageError: for a request that does not fit its column.
        """
        columns, left_out = [], []
        for name in features:
            column = self._feature(name)
            if isinstance(column, Column):
                columns.append(column)
            else:
                left_out.append(column)
        columns += [self._target(name, use) for name in targets]
        if len(targets) > 1 and (labels := [c.name for c in columns if c.role == "target" and c.kind == "category"]):
            raise UsageError(f"{self._where}: the target '{labels[0]}' holds labels, and can only be the single target")
        if self._requests.weight is not None:
            columns.append(self._weight(self._requests.weight))
        if not self._requests.skips_bad_rows:
            self._refuse_gaps(targets)
        if not any(column.role == "feature" for column in columns):
            constants = [column.name for column in left_out if self._is_number(column)]
            columns = [*(Column(name, "number") for name in constants), *columns]
            left_out = [column for column in left_out if column.name not in constants]
        if not any(column.role == "feature" for column in columns):
            why = "; ".join(f"'{column.name}' {column.why}" for column in left_out)
            raise DataError(f"{self._where}: no feature column is left: {why}")
        columns = self._scaled(columns, use)
        weights = self._class_weights([column for column in columns if column.role == "target"])
        drops = any(column.drops for column in columns)
        is_weighted = self._requests.weight is not None or weights is not None or drops
        table = Table(tuple(columns), tuple(left_out), gap_words(self._requests), weights, is_weighted)
        self._remark(table)
        return Decided(table, tuple(self._remarks))

    def _is_number(self, column: LeftOut) -> bool:
        """Returns whether a column that is left out always holds the same number."""
        return column.kind == "constant" and self._statistics.of(column.name).numbers > 0

    def _kind(self, own: ColumnStatistics) -> Kind:
        if has_odd_texts(own):
            if self._requests.skips_bad_rows:
                return "time" if own.times > own.numbers else "number"
            raise self._mixed(own)
        kind = kind_of(own)
        if kind in ("category", "text") and own.first_text is not None:
            self._refuse_other_numbers(own, own.first_text)
        return kind

    def _refuse_other_numbers(self, own: ColumnStatistics, first_text: int) -> None:
        """Raises DataError if all texts of a column are numbers as other countries write them."""
        first = self._text_at(first_text, own.name)
        texts = [text for text, _ in own.values or () if isinstance(text, str)] or [first]
        if all(is_other_number(text) for text in texts):
            raise DataError(
                f"{self._place_of(first_text)}: column '{own.name}' holds numbers such as '{first}': say how they are "
                f"written, with --decimal and --thousands, or, if they are texts, add --kinds {own.name}=category"
            )

    def _mixed(self, own: ColumnStatistics) -> DataError:
        assert own.first_text is not None
        return DataError(
            f"{self._place_of(own.first_text)}: column '{own.name}' holds "
            f"'{self._text_at(own.first_text, own.name)}', expected a number, as in {own.numbers + own.times:,} of its "
            f"{own.count:,} fields; correct the line, or say that the text stands for nothing with --missing-values, "
            f"that all are categories with --kinds {own.name}=category, or leave the column out with --features"
        )

    def _feature(self, name: str) -> Column | LeftOut:
        own, request = self._statistics.of(name), self._requests.kinds.get(name)
        kind: Kind = request.kind if request is not None else self._kind(own)
        if request is None and self._is_explicit and kind in ("constant", "text"):
            kind = "category" if own.texts else "time" if own.times else "number"
        if kind == "constant":
            held = "holds nothing" if not own.count else "always holds the same"
            return LeftOut(name, kind, f"{held}: left out")
        if kind == "text":
            return LeftOut(name, kind, self._why_text(own))
        if kind == "category":
            return self._category(own, request)
        self._check_numbers(own, kind)
        if request is None and looks_like_code(own):
            self._remarks.append(f"'{name}' was taken for numbers; if these are codes, add --kinds {name}=category")
        return self._with_gaps(Column(name, kind, parts=request.parts if request else (), is_text=own.times > 0), own)

    def _why_text(self, own: ColumnStatistics) -> str:
        if own.values is None:
            return f"has some {own.distinct:,} different texts: left out; to use it, add --kinds {own.name}=hash:10000"
        return (
            f"holds a different text in as good as every row ({own.distinct:,} in {own.count:,}): left out; "
            f"to use it, add --kinds {own.name}=category"
        )

    def _category(self, own: ColumnStatistics, request: KindRequest | None) -> Column:
        action = self._requests.missing.get(own.name)
        drops = (action or self._requests.default_missing) == "drop"
        if action is not None and action in GAP_ACTIONS and action not in ("error", "drop"):
            raise UsageError(
                f"--missing {own.name}={action}: the column is a category, whose gaps are a category of their own; "
                "leave this out, or give drop or the category to take them for"
            )
        gap_as = action if action is not None and action not in GAP_ACTIONS else None
        has_gaps = own.missing > 0 and not drops and gap_as is None
        bins = request.bins if request is not None else 0
        if bins and gap_as is not None:
            raise UsageError(f"--missing {own.name}={action}: a hashed category has no words; give drop, or nothing")
        if bins:
            return Column(own.name, "category", bins=bins, has_gaps=not drops, drops=drops)
        if own.values is None:
            raise DataError(
                f"{self._where}: column '{own.name}' has some {own.distinct:,} different values, too many to list; add "
                f"--kinds {own.name}=hash:10000"
            )
        texts = [str(text) for text, _ in own.values if isinstance(text, str)]
        self._check_utf_8(own.name, texts)
        if gap_as is not None and gap_as not in texts:
            raise UsageError(f"--missing {own.name}={action}: the column has no such category")
        most = self._requests.max_categories
        if len(texts) > most:
            cut = sum(count for _, count in own.values[most:])
            self._remarks.append(
                f"'{own.name}' has {len(texts):,} categories, of which the {most:,} most frequent are kept; the rest, "
                f"in {cut:,} rows, count as one (--max-categories)"
            )
        categories = tuple(texts[:most])
        return Column(own.name, "category", categories=categories, has_gaps=has_gaps, drops=drops, gap_as=gap_as)

    def _check_utf_8(self, name: str, texts: Sequence[str]) -> None:
        """Raises DataError for a text that is not UTF-8."""
        for text in texts:
            if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
                shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                raise DataError(
                    f"{self._where}: column '{name}' holds '{shown}', which is not UTF-8; save the file as UTF-8"
                )

    def _check_numbers(self, own: ColumnStatistics, kind: Kind) -> None:
        """Raises DataError if a column that is asked to be numbers or times holds texts."""
        if own.texts and not self._requests.skips_bad_rows:
            assert own.first_text is not None
            raise DataError(
                f"{self._place_of(own.first_text)}: column '{own.name}' holds "
                f"'{self._text_at(own.first_text, own.name)}', expected a {kind}; correct the line, or say that the "
                "text stands for nothing with --missing-values"
            )
        if own.times and kind == "number":
            raise UsageError(f"--kinds {own.name}=number: the column holds dates and times: leave it out")

    def _with_gaps(self, column: Column, own: ColumnStatistics) -> Column:
        """Returns a column of numbers with what is done about its gaps; notes gaps about which nothing was said."""
        action = self._requests.missing.get(own.name, self._requests.default_missing)
        if action == "drop":
            return replace(column, drops=True)
        if column.parts and action != "error":  # a gap has neither sine nor cosine
            return replace(column, fill=0.0, has_indicator=action == "indicator")
        if action in ("mean", "median", "indicator"):
            value = own.median if action == "median" else own.mean
            return replace(column, fill=0.0 if math.isnan(value) else value, has_indicator=action == "indicator")
        if action == "error":
            if own.missing:
                self._gaps.append(own)
            return column
        try:
            return replace(column, fill=float(action))
        except ValueError:
            if own.name not in self._requests.missing and not own.missing:
                return column
            raise UsageError(
                f"--missing {own.name}={action}: the column holds numbers; give one of {', '.join(GAP_ACTIONS)}, or a "
                "number"
            ) from None

    def _target(self, name: str, use: TargetUse) -> Column:
        own, request = self._statistics.of(name), self._requests.kinds.get(name)
        kind: Kind = request.kind if request is not None else self._kind(own)
        if kind == "text" or (kind == "constant" and own.texts):
            kind = "category"
        action = self._requests.missing.get(name, self._requests.default_missing)
        if own.missing and action != "drop":
            self._gaps.append(own)
        drops = action == "drop"
        if kind != "category":
            self._check_numbers(own, kind)
            return Column(name, "time" if own.times else "number", "target", drops=drops)
        if not use.takes_classes:
            raise UsageError(
                f"{self._where}: the target '{name}' holds texts, which are labels: leave out --task regression, "
                "or add --loss sparse_categorical_crossentropy, which takes labels"
            )
        if own.values is None or own.distinct > use.max_labels:
            raise DataError(
                f"{self._where}: the target '{name}' has {own.distinct:,} different labels, and the task and its "
                f"loss take up to {use.max_labels:,}; for more, there is --task multiclass"
            )
        self._check_utf_8(name, [str(text) for text, _ in own.values])
        labels = sorted((str(text) for text, _ in own.values), key=_by_size)
        return Column(name, "category", "target", categories=tuple(labels), drops=drops)

    def _weight(self, name: str) -> Column:
        own = self._statistics.of(name)
        if own.texts or own.times or own.not_finite or own.min < 0:
            raise DataError(f"{self._where}: column '{name}' holds something else than weights, numbers of 0 or more")
        if own.missing and self._requests.missing.get(name, self._requests.default_missing) != "drop":
            self._gaps.append(own)
        return Column(name, "number", "weight", drops=True)

    def _refuse_gaps(self, targets: Sequence[str]) -> None:
        """Raises DataError that names every column with gaps about which nothing was said."""
        if not self._gaps:
            return
        places = [self._place_of(own.first_missing or 0) for own in self._gaps[:MAX_NAMED]]
        others = [
            f", nor in '{own.name}' ({show_rows(own.missing)}, first in {place.within(places[0])})"
            for own, place in zip(self._gaps[1:MAX_NAMED], places[1:], strict=True)
        ]
        more = f" and {len(self._gaps) - MAX_NAMED} more columns" if len(self._gaps) > MAX_NAMED else ""
        dropped = [f"{own.name}=drop" for own in self._gaps if own.name in (*targets, self._requests.weight)]
        asked = ["median"] if len(dropped) < len(self._gaps) else []
        or_else = ", or mean, indicator, drop or a value, also for one column alone (age=median)" if asked else ""
        first = self._gaps[0]
        raise DataError(
            f"{places[0]}: nothing stands in '{first.name}' ({show_rows(first.missing)})"
            f"{''.join(others)}{more}; say what to do with --missing {','.join([*asked, *dropped])}{or_else}"
        )

    def _scaled(self, columns: Sequence[Column], use: TargetUse) -> list[Column]:
        """Returns the columns with their scales, and notes what was done."""
        scale = self._requests.scale
        numbers = [c for c in columns if c.kind in ("number", "time") and c.role != "weight" and not c.parts]
        scalable = [c for c in numbers if c.role == "feature" or use.may_scale]
        if scale == "auto":
            scalable = self._needing_scale(scalable)
            scale = "standard" if scalable else "none"
        if scale == "none":
            return list(columns)
        return [self._scale(c, scale, use) if c in scalable else c for c in columns]

    def _needing_scale(self, columns: Sequence[Column]) -> list[Column]:
        """Returns which of these have to be scaled: all features or none, and each target by itself; says so."""
        odd = [c for c in columns if not self._is_ordinary(c)]
        has_odd_feature = any(c.role == "feature" for c in odd)
        found = [c for c in columns if c in odd or (c.role == "feature" and has_odd_feature)]
        if found:
            own = self._statistics.of(odd[0].name)
            self._remarks.append(
                f"Scaled to mean 0 and standard deviation 1, as '{own.name}' goes from {own.min:.6g} to {own.max:.6g}: "
                f"{listed([c.name for c in found], MAX_NAMED)} (--scale none leaves them as they are)"
            )
        return found

    def _is_ordinary(self, column: Column) -> bool:
        own = self._statistics.of(column.name)
        if not own.std or math.isnan(own.std):
            return True
        # A few large values of a target are no matter of its scale.
        low, high = (own.min, own.max) if column.role == "feature" else (own.mean, own.mean)
        return is_ordinary(low, high, own.mean, own.std)

    def _scale(self, column: Column, how: str, use: TargetUse) -> Column:
        own = self._statistics.of(column.name)
        offset, size = (own.mean, own.std) if how == "standard" else (own.min, own.max - own.min)
        if not size or not math.isfinite(size):
            return column
        if column.role == "feature":
            return replace(column, offset=offset, scale=size)
        return replace(column, offset=offset if use.may_shift else 0.0, unit=size)

    def _class_weights(self, targets: Sequence[Column]) -> dict[float, float] | None:
        asked = self._requests.class_weights
        if asked is None:
            return None
        if len(targets) != 1:
            raise UsageError("--class-weights needs a single target")
        own = self._statistics.of(targets[0].name)
        if own.values is None or own.distinct > len(own.values) or targets[0].unit != 1 or targets[0].offset:
            raise UsageError(f"--class-weights: the target '{own.name}' holds no classes")
        counts = {_shown(key): count for key, count in own.values}
        if unknown := sorted(set(asked) - set(counts)):
            raise UsageError(
                f"--class-weights {unknown[0]}: the target '{own.name}' has no such class; it has "
                f"{listed(list(counts), MAX_NAMED)}"
            )
        total = sum(counts.values())
        balanced = {name: total / (len(counts) * count) for name, count in counts.items()}
        weights = balanced if not asked else {name: asked.get(name, 1.0) for name in counts}
        labels = targets[0].categories
        return {float(labels.index(name)) if labels else float(name): weight for name, weight in weights.items()}

    def _remark(self, table: Table) -> None:
        """Notes what else the user should know."""
        for column in table.left_out:
            self._remarks.append(f"'{column.name}' {column.why}")
        categories = [c for c in table.features if c.kind == "category"]
        if categories:
            shown = [
                f"{c.name} ({f'hashed to {c.bins:,}' if c.bins else f'{len(c.categories):,}'})" for c in categories
            ]
            self._remarks.append(f"Categories: {listed(shown, MAX_NAMED)}")
        if times := [c.name for c in table.features if c.kind == "time"]:
            self._remarks.append(f"Times: {listed(times, MAX_NAMED)}")
        filled = [c for c in table.features if c.fill is not None and self._statistics.of(c.name).missing]
        if filled:
            shown = [f"{c.name} by {c.fill:.6g}" for c in filled]
            self._remarks.append(f"Gaps filled: {listed(shown, MAX_NAMED)}")
        if dropped := [c for c in table.columns if c.drops and self._statistics.of(c.name).missing]:
            shown = [f"{c.name} ({self._statistics.of(c.name).missing:,})" for c in dropped]
            self._remarks.append(f"Rows with gaps get the weight 0: {listed(shown, MAX_NAMED)}")


def _by_size(label: str) -> tuple[float, str]:
    """Sorts labels that are numbers by size, and before all others."""
    try:
        return float(label), label
    except ValueError:
        return math.inf, label


def _shown(key: Key) -> str:
    """Returns a class as a user writes it."""
    if isinstance(key, str):
        return key
    return str(int(key)) if key.is_integer() else repr(key)
