"""The types of options: what a user types ("5m", "10GB", "a,b") as the value that it means."""

from __future__ import annotations

import ast
import codecs
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field


def split_commas(value: Any) -> Any:
    """Returns `"a,b"` and `["a,b", "c"]` as a list of words; anything else as it is."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [word.strip() for item in value for word in item.split(",") if word.strip()]
    return value


def split_lines(value: Any) -> Any:
    """Returns a text's lines as a list, as an environment variable names several files; anything else as it is."""
    return [line.strip() for line in value.splitlines() if line.strip()] if isinstance(value, str) else value


def whole_number(value: Any) -> Any:
    """Returns `"500e6"` and `5e8` as 500000000; anything else as it is, for pydantic to check."""
    if isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal()):
        return int(value)  # exactly, whatever its size
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    return int(number) if number.is_integer() else value


BLANKS = "blanks"  # the delimiter "one or more spaces and tabs"


def written_out(value: Any) -> Any:
    r"""Returns a tab for the two characters `\t`, which are easier to type; anything else as it is."""
    return {"\\t": "\t", "\\s+": BLANKS}.get(value, value) if isinstance(value, str) else value


def check_one_byte(value: str, allowed: str = "") -> None:
    """Raises ValueError unless a text is one character that numbers and quotes do not need, or one of `allowed`."""
    is_taken = value.isalnum() or value in "\"'\n\r+-."
    if len(value) != 1 or not value.isascii() or (is_taken and value not in allowed):
        raise ValueError("must be one ASCII character that does not occur in numbers, such as ',' ';' '|' or a tab")


def known_encoding(value: Any) -> Any:
    """Returns Python's own name of an encoding; ValueError for one that it does not know."""
    if not isinstance(value, str):
        return value
    try:
        "".encode(value)  # raises LookupError also for what is no encoding of text, as hex
        return codecs.lookup(value).name
    except LookupError:
        raise ValueError("must be the name of an encoding, such as utf-8, latin-1, cp1252 or utf-16") from None


def from_home(value: Any) -> Any:
    """Returns a path with a leading `~` or `~name` expanded, as a shell does; a URL and anything else as it is."""
    return os.path.expanduser(value) if isinstance(value, (str, Path)) else value


def byte_count(value: Any) -> Any:
    """Returns `"10GB"` as 10,000,000,000 and `"1.5 GiB"` as 1,610,612,736; a number without a unit is in bytes."""
    match = re.fullmatch(r"([0-9.e+]+)\s*(?:([kMGT])(i?))?B?", value.strip(), re.I) if isinstance(value, str) else None
    if match is None:
        return whole_number(value)
    number, prefix, binary = match.groups()
    size = (1024 if binary else 1000) ** ("kmgt".index(prefix.lower()) + 1 if prefix else 0)
    try:
        return int(float(number) * size)
    except (ValueError, OverflowError):
        return value


_UNIT_S = {"s": 1, "m": 60, "h": 3600}


def duration_s(value: Any) -> Any:
    """Returns `"90s"`, `"5m"` and `"1.5h"` in seconds; a number without a unit is in seconds."""
    match = re.fullmatch(r"([0-9.e+]+)\s*([smh])", value.strip(), re.I) if isinstance(value, str) else None
    try:
        return float(match[1]) * _UNIT_S[match[2].lower()] if match else value
    except ValueError:
        return value


@dataclass(frozen=True)
class Every:
    """How often something is done: every `steps` steps or `seconds` seconds; with neither, at the ends of epochs."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Every | None:
        """Reads `1000` (steps), `90s`, `5m`, `2h` or `epoch`; returns None for `never`.

        Raises:
            ValueError: for anything else.
        """
        if text in ("never", "epoch"):
            return cls() if text == "epoch" else None
        steps, seconds = whole_number(text), duration_s(text)
        if isinstance(steps, int) and steps > 0:
            return cls(steps=steps)
        if isinstance(seconds, float) and seconds > 0:
            return cls(seconds=seconds)
        raise ValueError("must be a number of steps (1000), a time (90s, 5m, 2h), epoch or never")


@dataclass(frozen=True)
class Named:
    """Something of Keras by name, with arguments; or, if `is_own`, the user's own as `package.module:function`."""

    name: str
    arguments: Mapping[str, Any]
    is_own: bool = False

    @classmethod
    def parse(cls, text: str) -> Named:
        """Reads `adam`, `adamw:weight_decay=0.01,clipnorm=1` or `package.module:function`.

        Raises:
            ValueError: for anything else.
        """
        name, colon, rest = text.strip().partition(":")
        is_path = all(part.isidentifier() for part in name.split("."))
        if is_path and colon and rest.isidentifier():
            return cls(text.strip(), {}, is_own=True)
        pairs = [pair.partition("=") for pair in _NEXT_ARGUMENT.split(rest)] if rest else []
        keys_are_names = all(key.strip().isidentifier() for key, _, _ in pairs)
        if not name.isidentifier() or (colon and not pairs) or not keys_are_names:
            raise ValueError(f"{text!r} must look like name, name:argument=value,… or package.module:function")
        return cls(name, {key.strip(): _as_value(value.strip()) for key, _, value in pairs})


_NEXT_ARGUMENT = re.compile(r",(?=\s*\w+\s*=)")


def _as_value(text: str) -> Any:
    """Returns what a text is in Python, with true and false in small letters too; what is nothing there is a text."""
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    return text


def split_names(value: Any) -> Any:
    """Returns `"mse,AUC:curve=PR,name=pr"` as `["mse", "AUC:curve=PR,name=pr"]`; all else as `split_commas` does."""
    words = split_commas(value)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return words
    found: list[str] = []
    for word in words:
        is_argument = "=" in word and ":" not in word.partition("=")[0]
        is_open = bool(found) and sum(map(found[-1].count, "[(")) > sum(map(found[-1].count, "])"))
        if is_open or (found and is_argument and ":" in found[-1]):
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def number_or_text(value: Any) -> Any:
    """Returns a text that is a number as that number; anything else as it is."""
    with suppress(TypeError, ValueError):
        return float(value) if isinstance(value, str) else value
    return value


PARTS = ("month", "day", "weekday", "hour", "minute")  # of a time, in the order of the numbers that they become
MAX_BINS = 1 << 24  # indices up to this are exact as float32


@dataclass(frozen=True)
class KindRequest:
    """A kind that is asked for: a category may have hashed `bins` instead of a vocabulary, a time may have `parts`."""

    kind: Literal["number", "category", "time", "text"]
    bins: int = 0
    parts: tuple[str, ...] = ()


def read_kinds(words: Sequence[str]) -> dict[str, KindRequest]:
    """Reads `zip=category`, `user=hash:1000000` and `when=time:hour`, `weekday`; ValueError for anything else."""
    kinds: dict[str, KindRequest] = {}
    for name, text in _pairs(words, PARTS, "column=kind"):
        kind, _, rest = text.partition(":")
        if kind == "hash":
            bins = whole_number(rest)
            if not isinstance(bins, int) or not 1 < bins <= MAX_BINS:
                raise ValueError(f"{name}={text}: expected hash:BINS with 2 to {MAX_BINS:,} bins, such as hash:1000000")
            kinds[name] = KindRequest("category", bins=bins)
        elif kind == "time":
            parts = set(filter(None, rest.split(",")))
            if unknown := parts - set(PARTS):
                raise ValueError(f"{name}: a time has no part {min(unknown)}; the parts are {', '.join(PARTS)}")
            kinds[name] = KindRequest("time", parts=tuple(part for part in PARTS if part in parts))
        elif kind in ("number", "category", "text") and not rest:
            kinds[name] = KindRequest(kind)  # type: ignore[arg-type]
        else:
            raise ValueError(f"{name}={text}: the kinds are number, category, hash:BINS, time, time:PARTS and text")
    return kinds


def read_missing(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Reads `median` and `age=mean`: returns the action for all columns, and those of single ones."""
    default, own = "error", {}
    for word in words:
        name, equals, action = word.rpartition("=")
        if equals:
            own[name] = action
        else:
            default = word
    return default, own


def read_class_weights(words: Sequence[str]) -> dict[str, float] | None:
    """Reads `balanced` as an empty mapping, `a=1`, `b=5`, and nothing as None; ValueError for anything else."""
    if not words:
        return None
    if tuple(words) == ("balanced",):
        return {}
    weights = {}
    for name, text in _pairs(words, (), "class=weight, or balanced"):
        try:
            weights[name] = float(text)
        except ValueError:
            weights[name] = -1.0
        if not 0 <= weights[name] < float("inf"):
            raise ValueError(f"{name}={text}: expected a weight of 0 or more")
    return weights


def _pairs(words: Sequence[str], continuing: Sequence[str], form: str) -> list[tuple[str, str]]:
    """Returns (name, value) of each word; a word of `continuing` belongs to the one before it."""
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, equals, value = word.rpartition("=")
        if equals:
            pairs.append((name, value))
        elif pairs and word in continuing:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{word}")
        else:
            raise ValueError(f"{word}: expected {form}")
    return pairs


Words = Annotated[tuple[str, ...], BeforeValidator(split_commas)]


Places = Annotated[tuple[str, ...], BeforeValidator(split_lines)]  # paths, URLs, patterns, directories


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]  # of what Keras has, with arguments


Rate = Annotated[float | str, BeforeValidator(number_or_text)]


Widths = Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], BeforeValidator(split_commas)]


Delimiter = Annotated[str, BeforeValidator(written_out)]


Count = Annotated[int, BeforeValidator(whole_number), Field(ge=1, lt=2**63)]


Seconds = Annotated[float, BeforeValidator(duration_s), Field(ge=0, allow_inf_nan=False)]


Encoding = Annotated[str, BeforeValidator(known_encoding)]


Directory = Annotated[Path, BeforeValidator(from_home)]


Location = Annotated[str, BeforeValidator(from_home)]  # a path or a URL


Bytes = Annotated[int, BeforeValidator(byte_count), Field(ge=1, lt=2**63)]
