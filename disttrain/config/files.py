"""The options about how files are read."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from disttrain.config.option_types import BLANKS, Delimiter, Encoding, Places, check_one_byte
from disttrain.config.settings import Settings, option


class FileSettings(Settings):
    """Which files are read, and how their text is."""

    data: Places = option(
        "data",
        "CSV files to train on, as one dataset: paths, URLs that fsspec opens (s3://, gs://, az://, http://), patterns "
        "('parts/*.csv') or directories, each sorted by name. Default: the built-in sample, y = x, 1,000,000 rows",
        (),
    )
    header: Literal["auto", "yes", "no"] = option(
        "data", "whether the first line is a header; without one the columns are called 0, 1, …", "auto"
    )
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

    @field_validator("delimiter", "comment", "thousands")
    @classmethod
    def _is_one_plain_byte(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not (info.field_name == "delimiter" and value in ("auto", BLANKS)):
            allowed = ".'" if info.field_name == "thousands" else ""
            check_one_byte(value, allowed)
        return value

    @model_validator(mode="after")
    def _dialect_is_unambiguous(self) -> FileSettings:
        delimiters = " \t" if self.delimiter == BLANKS else self.delimiter
        if self.thousands == self.decimal or (self.comment and self.comment in (*delimiters, self.thousands)):
            raise ValueError("thousands must differ from decimal, and comment from delimiter and thousands")
        return self


class BadRowSettings(FileSettings):
    """What is done about rows that cannot be read."""

    on_bad_row: Literal["error", "skip"] = option(
        "data",
        "what to do about a row that cannot be read: error ends the command; skip gives it the weight 0 and no "
        "prediction, counts it, and names it, of a training in bad-rows.csv",
        "error",
    )
    max_bad_fraction: float = option("data", "most rows that may be skipped, as a share of all", 0.01, ge=0, le=1)
