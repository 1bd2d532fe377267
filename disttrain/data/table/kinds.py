"""The kind of a column, by what it holds."""

from __future__ import annotations

import re

from disttrain.data.table.requests import Kind, Requests
from disttrain.data.table.statistics import ColumnStatistics, Statistics
from disttrain.data.table.values import GAP_WORDS

# Texts among so many numbers are faults; so are one or two distinct ones among as many numbers.
MOSTLY = 0.9
FEW = 50  # distinct texts that are categories, however few rows there are
REPEATED = 2  # a text column with fewer rows for each distinct text is no category

_OTHER_NUMBER = re.compile(r"[+-]?(\d+[.,]\d+|\d{1,3}([.,' ]\d{3})+([.,]\d+)?)")
_CODE_NAME = re.compile(r"(?:^|_)(?:id|code|zip|zipcode|postcode|plz|sku|key)$", re.IGNORECASE)


def has_odd_texts(own: ColumnStatistics) -> bool:
    """Returns whether a column holds texts that are faults, as all but a few of its fields are numbers."""
    others = own.numbers + own.times + own.not_finite
    return own.texts > 0 and others >= (MOSTLY if _num_texts(own) > 2 else 0.5) * own.count


def is_other_number(text: str) -> bool:
    """Returns whether a text is a number with a decimal comma, or with separators between its thousands."""
    return _OTHER_NUMBER.fullmatch(text.strip('" ')) is not None


def kind_of(own: ColumnStatistics) -> Kind:
    """Returns a column's kind; it has no odd texts."""
    numbers = own.numbers + own.not_finite
    if own.distinct <= 1 and own.is_exact and not own.not_finite and not (own.missing and own.count):
        return "constant"
    if own.texts or (own.times and numbers):
        is_category = own.values is not None and own.distinct <= max(FEW, own.count / REPEATED)
        return "category" if is_category else "text"
    return "time" if own.times else "number"


def gap_words(requests: Requests) -> tuple[str, ...]:
    """Returns the words that stand for nothing; where gaps are filled, these include the nan of NumPy and Python."""
    fills = requests.default_missing != "error" or bool(requests.missing)
    return (*GAP_WORDS, *requests.gaps, *(("nan",) if fills else ()))


def needs_texts(statistics: Statistics, requests: Requests) -> list[str]:
    """Returns the columns whose numbers are texts too, as they are categories, but were not counted as such."""
    return [
        own.name
        for own in statistics.columns
        if (own.texts or own.times)
        and (own.numbers or own.not_finite or (own.texts and own.times))
        and own.name not in requests.kinds
        and not has_odd_texts(own)
    ]


def looks_like_code(own: ColumnStatistics) -> bool:
    """Returns whether whole numbers may be codes: by the column's name, or since all have as many digits."""
    if not own.is_whole or own.min < 0:
        return False
    if _CODE_NAME.search(own.name):
        return True
    same_width = len(f"{own.min:.0f}") == len(f"{own.max:.0f}") >= 5
    return same_width and own.distinct * 10 <= own.count


def _num_texts(own: ColumnStatistics) -> int:
    """Returns how many distinct texts a column has, as far as they are counted."""
    return sum(isinstance(key, str) for key, _ in own.values) if own.values is not None else own.distinct
