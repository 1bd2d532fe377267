"""The options about a file's columns, and what is done to each."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from disttrain.config.files import FileSettings
from disttrain.config.option_types import Count, Words, read_class_weights, read_kinds
from disttrain.config.settings import option


class ColumnSettings(FileSettings):
    """The options about a file's columns, and what is done to each."""

    features: Words = option(
        "data",
        "feature columns: names, patterns ('x*') and ranges of columns counted from 0 (3-20). Default: every column "
        "that is not a target",
        (),
    )
    targets: Words = option("data", "target columns. Default: the last column", ())
    exclude: Words = option("data", "columns that are no features, as with --features. Default: none", ())
    kinds: Words = option(
        "columns",
        "what columns hold, if not what they seem to: zip=category, user=hash:1000000 (that many bins), when=time, "
        "when=time:hour,weekday (also month, day, minute), x=number, note=text (left out). Default: found in the data",
        (),
    )
    scale: Literal["auto", "standard", "minmax", "none"] = option(
        "columns",
        "how numbers are scaled, while they are read: to mean 0 and standard deviation 1, or to 0 to 1; auto is "
        "standard for the dense network where numbers are not of ordinary size, else none",
        "auto",
    )
    missing: Words = option(
        "columns",
        "what to do about gaps in columns of numbers: error, mean, median, a value, indicator (the mean, and a further "
        "column that says so) or drop (the row's weight is 0); also for one column, as in median,age=drop",
        ("error",),
    )
    missing_values: Words = option(
        "columns", "words that stand for nothing, besides NA, N/A, #N/A, null, NULL, NaN, ?, -, None", ()
    )
    max_categories: Count = option("columns", "most categories of a column; the rarest others count as one", 10_000)
    weight: str | None = option("columns", "the column that holds the rows' weights. Default: none", None)
    class_weights: Words = option(
        "columns", "weights of the target's classes, as in a=1,b=5, or balanced. Default: all weigh 1", ()
    )

    @field_validator("kinds")
    @classmethod
    def _kinds_can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        read_kinds(value)
        return value

    @field_validator("class_weights")
    @classmethod
    def _class_weights_can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        read_class_weights(value)
        return value

    @model_validator(mode="after")
    def _columns_serve_one_purpose(self) -> ColumnSettings:
        both = sorted(set(self.features) & set(self.targets))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both a feature and a target")
        for name, words in (("features", self.features), ("targets", self.targets)):
            if len(set(words)) < len(words):
                raise ValueError(f"{name} names a column twice: {', '.join(words)}")
        return self
