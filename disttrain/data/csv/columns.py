"""Chooses a table's feature and target columns, and says what helps if they cannot be chosen."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.header import Header, HeaderMode
from disttrain.data.csv.parser import Layout
from disttrain.data.csv.sniff import DELIMITERS, RARE_DELIMITERS
from disttrain.errors import DataError, UsageError, listed


def choose_columns(
    header: Header,
    features: Sequence[str] | None,
    targets: Sequence[str] | None,
    weight: str | None = None,
    exclude: Sequence[str] = (),
    *,
    where: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the feature and target columns: each once in the file, none chosen twice, at least one of each.

    Features, targets and what is excluded from the features are names, patterns as in a shell, or ranges such as 3-20
    of columns counted from 0. The column `weight`, if there is one, is neither by default. Columns without a name are
    not features by default: most are an index, or come from a delimiter at the line's end.
    """
    names = header.names
    weights = () if weight is None else (weight,)
    if targets is not None:
        targets = _expanded(targets, names, weights, where)
    if targets is None and not names[-1] and len(names) > 1:
        raise UsageError(
            f"{where}: the last column has no name, as where each line ends in '{header.delimiter}'; "
            "name the target with --targets"
        )
    excluded = _expanded(exclude, names, (), where)
    if unknown := [name for name in excluded if name not in names]:
        hint = _close_name(unknown[0], names)
        raise UsageError(f"{where}: --exclude: has no column '{unknown[0]}'; its columns are {listed(names)}{hint}")
    left = tuple(name for name in names if name not in (*weights, *excluded))
    chosen_targets = tuple(targets) if targets is not None else left[-1:]
    others = tuple(name for name in left if name and name not in chosen_targets)
    chosen_features = others
    if features is not None:
        taken = (*chosen_targets, *weights, *excluded)
        chosen_features = tuple(n for n in _expanded(features, names, taken, where) if n not in excluded)
    chosen = chosen_features + chosen_targets + (() if weight is None else (weight,))
    counts = Counter(names)
    for name in chosen:
        if not counts[name]:
            hint = _close_name(name, names) or _other_delimiter(header)
            raise UsageError(f"{where}: has no column '{name}'; its columns are {listed(names)}{hint}")
        if counts[name] > 1:
            raise DataError(
                f"{where}, line {header.line}: column '{name}' is named more than once; choose others with --features "
                "and --targets, or give each its own name"
            )
    if repeated := [name for name, count in Counter(chosen).items() if count > 1]:
        raise UsageError(f"{where}: column '{repeated[0]}' is chosen twice; a column serves one purpose")
    if not chosen_features or not chosen_targets:
        missing = "target" if chosen_features else "feature"
        raise UsageError(
            f"{where}: no {missing} column is left; its columns are {listed(names)}{_other_delimiter(header)}"
        )
    return chosen_features, chosen_targets


def _expanded(words: Sequence[str], names: Sequence[str], taken: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns the columns that words mean; those of a pattern or a range that are taken are left out.

    Raises:
        UsageError: for a pattern that no column matches.
    """
    found: list[str] = []
    matched: set[str] = set()
    for word in words:
        bounds = re.fullmatch(r"(\d+)-(\d+)", word)
        if word in names or not (bounds or set(word) & set("*?[")):
            found += [word] if word not in matched else []
            continue
        if bounds:
            matching = [name for number, name in enumerate(names) if int(bounds[1]) <= number <= int(bounds[2])]
        else:
            matching = [name for name in names if name and fnmatch.fnmatchcase(name, word)]
        if not matching:
            raise UsageError(f"{where}: no column is meant by '{word}'; its columns are {listed(names)}")
        found += [name for name in matching if name not in (*taken, *found)]
        matched |= set(matching)
    return tuple(found)


def remarks(
    header: Header,
    mode: HeaderMode,
    features: Sequence[str] | None,
    targets: Sequence[str],
    *,
    finds_delimiter: bool = False,
) -> list[str]:
    """Returns what a user should know about how a file's columns were interpreted, one sentence each."""
    found = []
    if not header.has_header and mode == "auto":
        found.append("No header: the first line was taken as a row; the columns are called 0, 1, …")
    if finds_delimiter and header.dialect.shown != ",":
        found.append(f"Fields are delimited by {header.dialect.shown}")
    unnamed = [str(column + 1) for column, name in enumerate(header.names) if not name]
    if unnamed and not features and "" not in targets:
        index = " (an index, as pandas writes it?)" if not header.names[0] else ""
        number = f"Column {unnamed[0]} has" if len(unnamed) == 1 else f"Columns {listed(unnamed)} have"
        found.append(f"{number} no name{index}: left out")
    return found


def make_layout(header: Header, columns: Sequence[str]) -> Layout:
    """Returns the layout that turns a row's fields into the chosen columns, in the order in which they were chosen."""
    column_of = {name: column for column, name in enumerate(columns)}
    take = np.array([column_of.get(name, -1) for name in header.names], np.int32)
    return Layout(len(header.names), take, len(columns), ord(header.delimiter))


def _close_name(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _other_delimiter(header: Header) -> str:
    """Returns what to do if the only field of a line looks like several with another delimiter, else an empty text."""
    if len(header.names) > 1:
        return ""
    (name,) = header.names
    found = max((*DELIMITERS, *RARE_DELIMITERS, " "), key=name.count)
    hints = ["if its first lines are notes, leave them out with --skip-lines"]
    if found in name:
        shown = Dialect(found).shown
        hints.insert(0, f"if '{shown}' delimits the fields, add --delimiter '{shown}'")
    return "; " + "; ".join(hints)
