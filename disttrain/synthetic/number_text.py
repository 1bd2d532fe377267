"""Writes the rows of a synthetic regression file as text: compiled, without the GIL, any range of rows on its own.

Every number is a pure function of (seed, row, column), so ranges made by different threads join into the same file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types

from disttrain.native import compiled

DECIMALS = 8
SCALE = 10**DECIMALS
FEATURE_BYTES = DECIMALS + 3  # "0.", the digits, a comma
MAX_NOISE = 1e6  # keeps a target within eight digits before the point: the noise stays below 9 standard deviations
MAX_TARGET_BYTES = 1 + 8 + 1 + DECIMALS + 1  # sign, digits, point, digits, newline

_PAIRS = np.frombuffer("".join(f"{i:02d}" for i in range(100)).encode(), dtype=np.uint8).copy()


def max_row_bytes(num_features: int) -> int:
    """Returns the length of the longest text that one row can have, newline included."""
    return num_features * FEATURE_BYTES + MAX_TARGET_BYTES


def format_rows(
    out: np.ndarray[Any, Any], first_row: int, num_rows: int, num_features: int, noise: float, seed: int
) -> int:
    """Writes `num_rows` rows from row `first_row` on into `out` (uint8) as text; returns the number of bytes.

    `out` has room for `num_rows * max_row_bytes(num_features)` bytes. Features are uniform in [0, 1). The target is the
    feature itself if there is only one, else `_smooth` of them, plus Gaussian noise of standard deviation `noise`.
    """
    assert out.dtype == np.uint8
    assert len(out) >= num_rows * max_row_bytes(num_features)
    return int(_compiled()(out, first_row, num_rows, num_features, float(noise), np.uint64(seed), _PAIRS))


@numba.njit(inline="always")
def _mix(value: Any) -> Any:
    """Returns SplitMix64's 64 well-mixed bits for a counter (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(inline="always")
def _bits(key: Any, counter: Any) -> Any:
    return _mix(key + counter * np.uint64(0x9E3779B97F4A7C15))


@numba.njit
def _gauss(bits: Any) -> Any:
    """Returns a standard normal number: the inverse distribution function (Wichura, AS 241, PPND7; 1e-7 relative)."""
    p = (float(bits >> np.uint64(12)) + 0.5) * 2.0**-52  # in (0, 1), never its ends
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        top = ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
        return q * top / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0)
    r = math.sqrt(-math.log(min(p, 1.0 - p)))
    if r <= 5.0:
        r -= 1.6
        top = ((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777
        z = top / ((0.12021132975 * r + 0.73700164250) * r + 1.0)
    else:
        r -= 5.0
        top = ((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.6579051150
        z = top / ((0.012258202635 * r + 0.24197894225) * r + 1.0)
    return z if q > 0.0 else -z


@numba.njit
def _smooth(features: Any) -> Any:
    """Returns the target for several features: each times its neighbour, plus a soft step of alternating sign.

    With u = 2x - 1, it is the sum over j of u[j] u[j+1] + (-1)^j 3 u[j] / sqrt(1 + 8 u[j]^2), divided by the square
    root of the number of features, which keeps its standard deviation near 0.8 for any number of them. It uses only
    exactly rounded operations.
    """
    num_features = len(features)
    total = 0.0
    sign = 1.0
    for j in range(num_features):
        u = 2.0 * features[j] - 1.0
        neighbour = 2.0 * features[(j + 1) % num_features] - 1.0
        total += u * neighbour + sign * 3.0 * u / math.sqrt(1.0 + 8.0 * u * u)
        sign = -sign
    return total / math.sqrt(float(num_features))


@numba.njit(inline="always")
def _put_digits(out: Any, at: int, value: Any, pairs: Any) -> None:
    """Writes the eight digits of a value below 10^8, two at a time."""
    high = value // np.uint64(10_000)
    low = value - high * np.uint64(10_000)
    for half in (high, low):
        left = half // np.uint64(100)
        right = half - left * np.uint64(100)
        out[at] = pairs[2 * left]
        out[at + 1] = pairs[2 * left + 1]
        out[at + 2] = pairs[2 * right]
        out[at + 3] = pairs[2 * right + 1]
        at += 4


@numba.njit
def _put_fixed(out: Any, at: int, value: float, pairs: Any) -> int:
    """Writes a number rounded to `DECIMALS` decimals, and a newline; returns the position after it."""
    scaled = np.int64(np.rint(value * SCALE))
    if scaled < 0:
        out[at] = ord("-")
        at += 1
        scaled = -scaled
    whole = np.uint64(scaled) // np.uint64(SCALE)
    first = at
    rest = whole
    while rest >= np.uint64(10):
        at += 1
        rest //= np.uint64(10)
    end = at + 1
    while at >= first:
        out[at] = ord("0") + whole % np.uint64(10)
        whole //= np.uint64(10)
        at -= 1
    out[end] = ord(".")
    _put_digits(out, end + 1, np.uint64(scaled) % np.uint64(SCALE), pairs)
    out[end + 1 + DECIMALS] = ord("\n")
    return end + 2 + DECIMALS


@functools.cache
def _compiled() -> Callable[..., int]:
    text, whole = types.uint8[::1], types.int64
    return compiled(_format_rows, types.int64(text, whole, whole, whole, types.float64, types.uint64, text))


def compile_formatting() -> None:
    """Compiles what `format_rows` runs, or loads it from the cache on disk."""
    _compiled()


def _format_rows(
    out: Any, first_row: int, num_rows: int, num_features: int, noise: float, seed: Any, pairs: Any
) -> int:
    key = _mix(seed + np.uint64(0x9E3779B97F4A7C15))
    features = np.empty(num_features, dtype=np.float64)
    counter = np.uint64(first_row) * np.uint64(num_features + 1)
    at = 0
    for _ in range(num_rows):
        for j in range(num_features):
            # 36 random bits times 10^8 fit in 64 bits; the digits are the product's whole part.
            digits = ((_bits(key, counter) >> np.uint64(28)) * np.uint64(SCALE)) >> np.uint64(36)
            counter += np.uint64(1)
            out[at] = ord("0")
            out[at + 1] = ord(".")
            _put_digits(out, at + 2, digits, pairs)
            out[at + 2 + DECIMALS] = ord(",")
            features[j] = digits / SCALE
            at += FEATURE_BYTES
        if num_features == 1 and noise == 0.0:  # y = x: the same text
            out[at : at + FEATURE_BYTES] = out[at - FEATURE_BYTES : at]
            at += FEATURE_BYTES
            out[at - 1] = ord("\n")
        else:
            target = features[0] if num_features == 1 else _smooth(features)
            if noise != 0.0:
                target += noise * _gauss(_bits(key, counter))
            at = _put_fixed(out, at, target, pairs)
        counter += np.uint64(1)
    return at
