"""The options about how files are read, and what is done to their columns."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from disttrain.config.settings import Settings, option
from disttrain.option_types import (
    BLANKS,
    Count,
    Delimiter,
    Encoding,
    Places,
    Words,
    check_one_byte,
    read_class_weights,
    read_kinds,
)


class ColumnSettings(Settings):
    """The options about a file's columns, and what is done to each."""

    data: Places = option(
        "data",
        "CSV files to train on, as one dataset: paths, URLs that fsspec opens (s3://, gs://, az://, http://), patterns "
        "('parts/*.csv') or directories, each sorted by name. Default: the built-in sample, y = x, 1,000,000 rows",
        (),
    )
    features: Words = option(
        "data",
        "feature columns: names, patterns ('x*') and ranges of columns counted from 0 (3-20). Default: every column "
        "that is not a target",
        (),
    )
    targets: Words = option("data", "target columns. Default: the last column", ())
    header: Literal["auto", "yes", "no"] = option(
        "data", "whether the first line is a header; without one the columns are called 0, 1, …", "auto"
    )
    exclude: Words = option("data", "columns that are no features, as with --features. Default: none", ())
    delimiter: Delimiter = option(
        "dialect",
        "the character between two fields; \\t for a tab, blanks for any number of spaces and tabs; auto is found "
        "among , ; tab | and blanks",
        "auto",
    )
    decimal: Literal[".", ","] = option("dialect", "what stands before a number's fraction", ".")
    thousands: str | None = option(
        "dialect", "what stands between a number's groups of three digits, such as , or '. Default: nothing", None
    )
    comment: str | None = option("dialect", "the character that begins a line to skip. Default: none does", None)
    skip_lines: int = option("dialect", "lines to skip at each file's beginning", 0, ge=0)
    quoted_newlines: bool = option("dialect", "let line breaks stand within quotes", False)
    encoding: Encoding = option("dialect", "the files' encoding, such as latin-1 or utf-16", "utf-8")
    by_name: bool = option(
        "data", "let files have their columns in other orders than the first one, and more of them", False
    )
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

    @field_validator("delimiter", "comment", "thousands")
    @classmethod
    def _is_one_plain_byte(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not (info.field_name == "delimiter" and value in ("auto", BLANKS)):
            allowed = ".'" if info.field_name == "thousands" else ""
            check_one_byte(value, allowed)
        return value

    @model_validator(mode="after")
    def _dialect_is_unambiguous(self) -> ColumnSettings:
        delimiters = " \t" if self.delimiter == BLANKS else self.delimiter
        if self.thousands == self.decimal or (self.comment and self.comment in (*delimiters, self.thousands)):
            raise ValueError("thousands must differ from decimal, and comment from delimiter and thousands")
        return self

    @model_validator(mode="after")
    def _columns_serve_one_purpose(self) -> ColumnSettings:
        both = sorted(set(self.features) & set(self.targets))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both a feature and a target")
        for name, words in (("features", self.features), ("targets", self.targets)):
            if len(set(words)) < len(words):
                raise ValueError(f"{name} names a column twice: {', '.join(words)}")
        return self
