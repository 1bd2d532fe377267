"""The rule of `--scale auto`: which numbers train as well as they are."""

from __future__ import annotations

# The rule of `--scale auto`: a table is left as it is if all its numbers are of ordinary size. A column is, if no value
# is larger than ORDINARY_SIZE, its standard deviation lies in ORDINARY_SPREAD and it is not far from 0.
# `python -m benchmarks.scaling` compares both ways around these bounds.
ORDINARY_SIZE = 10.0
ORDINARY_SPREAD = (0.1, 4.0)
ORDINARY_OFFSET = 4.0  # means are at most this many standard deviations from 0


def is_ordinary(low: float, high: float, mean: float, std: float) -> bool:
    """Returns whether numbers like these train as well as scaled ones."""
    is_small = max(abs(low), abs(high)) <= ORDINARY_SIZE
    return is_small and ORDINARY_SPREAD[0] <= std <= ORDINARY_SPREAD[1] and abs(mean) <= ORDINARY_OFFSET * std
