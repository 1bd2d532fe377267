"""Compiled functions that turn decimal texts into doubles, exactly those that Python's `float(text)` gives.

A number is read as an integer of at most 19 digits and a power of ten, as in decimals.py. Where both are small, one
operation on doubles is exact (Clinger, 1990). Otherwise it is Lemire's method ("Number parsing at a gigabyte per
second", 2021): the integer is multiplied by the first 128 bits of the power of ten, which settles the rounding. The few
other numbers (over 19 digits, subnormal or close to overflow) are UNSETTLED and left to Python.

Positions are addresses. `quick_double` reads up to `decimals.REACH` bytes ahead; `any_double` stops at `stop`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from disttrain.data.csv.decimals import (
    BAD,
    LETTER_I,
    LETTER_N,
    LOWER,
    MINUS,
    PLUS,
    SETTLED,
    UNSETTLED,
    byte_or_lf,
    named_number,
    plain_parts,
    quick_parts,
)
from disttrain.native import byte_at, called, double_of_bits, high_product, inlined, leading_zeros

_MIN_POWER, _MAX_POWER = -307, 288  # beyond these, 19 digits may be subnormal or infinite
_EXACT_POWER = 22  # 10**22 is the largest power of ten that is exactly a double
_EXACT_INTEGER = 1 << 53
_EXACT_TENS = np.array([float(10**power) for power in range(_EXACT_POWER + 1)])

_U0, _U1, _U3, _U9, _U52, _U63 = (np.uint64(n) for n in (0, 1, 3, 9, 52, 63))
_ALL_ONES = np.uint64(2**64 - 1)
_LOW_9 = np.uint64(0x1FF)
_HIDDEN = np.uint64(1 << 52)


def _table() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns the first and the next 64 bits of each power of ten, uint64 each: rounded down, or up below 10**0."""
    high, low = [], []
    for power in range(_MIN_POWER, _MAX_POWER + 1):
        if power >= 0:
            number = 10**power
            shift = 128 - number.bit_length()
            bits = number << shift if shift >= 0 else number >> -shift
        else:
            number = 10**-power
            bits = (1 << (number.bit_length() + 127)) // number + 1
            bits >>= max(bits.bit_length() - 128, 0)
        high.append(bits >> 64)
        low.append(bits & (2**64 - 1))
    return np.array(high, np.uint64), np.array(low, np.uint64)


_HIGH, _LOW = _table()


@called
def _rounded(mantissa: Any, power: Any) -> Any:
    """Returns `mantissa * 10**power` as a double, and whether it is settled; `mantissa` is a uint64 above 0."""
    if power < _MIN_POWER or power > _MAX_POWER:
        return 0.0, False
    zeros = leading_zeros(mantissa)
    shifted = mantissa << zeros
    place = np.uint64(power - _MIN_POWER)
    high, low = high_product(shifted, _HIGH[place]), shifted * _HIGH[place]
    if high & _LOW_9 == _LOW_9:
        more = high_product(shifted, _LOW[place])
        low += more
        if low < more:
            high += _U1
    if low == _ALL_ONES and (power < -27 or power > 55):
        return 0.0, False
    upper = high >> _U63
    bits = high >> (upper + _U9)  # 54 bits: one more than a double has
    exponent = ((217706 * power) >> 16) + 63 + np.int64(upper) - np.int64(zeros) + 1023
    if exponent <= 0 or exponent >= 2046:
        return 0.0, False
    halfway = low <= _U1 and -4 <= power <= 23 and bits & _U3 == _U1
    if halfway and bits << (upper + _U9) == high:
        bits &= ~_U1  # exactly between two doubles: to the even one
    bits = (bits + (bits & _U1)) >> _U1
    if bits >= _HIDDEN << _U1:
        bits, exponent = _HIDDEN, exponent + 1
    return double_of_bits((bits & ~_HIDDEN) | (np.uint64(exponent) << _U52)), True


@inlined
def _double(mantissa: Any, power: Any) -> Any:
    """Returns `mantissa * 10**power` as a double, and whether it is settled; `mantissa` is an int64 of 0 or more."""
    if mantissa <= _EXACT_INTEGER and -_EXACT_POWER <= power <= _EXACT_POWER:
        exact = np.float64(mantissa)
        ten = _EXACT_TENS[np.uint64(abs(power))]
        return exact / ten if power < 0 else exact * ten, True
    return _rounded(np.uint64(mantissa), power)


@inlined
def quick_double(position: Any) -> Any:
    """Reads a number of usual form and at most 18 digits: returns (value, position after it, or -1 if it is not one).

    The caller must check the byte after it.
    """
    negative = byte_at(position) == MINUS
    mantissa, power, position, fits = quick_parts(position + np.int64(negative))
    if not fits:
        return 0.0, np.int64(-1)
    value, settled = _double(mantissa, power)
    return -value if negative else value, position if settled else np.int64(-1)


@called
def any_double(position: Any, stop: Any) -> Any:
    """Reads a number of any form, `nan` and `inf` included: returns (status, value, position after it)."""
    sign = byte_or_lf(position, stop)
    if sign in (MINUS, PLUS):
        position += 1
    letter = byte_or_lf(position, stop) | LOWER
    if letter in (LETTER_N, LETTER_I):
        status, named, position = named_number(position, stop)
        value = np.float64(named)
    else:
        start = position
        mantissa, power, kept, position = plain_parts(start, stop)
        if position < 0:
            return BAD, 0.0, start
        if mantissa == _U0:
            status, value = SETTLED, 0.0
        elif kept >= 19:
            status, value = UNSETTLED, 0.0
        else:
            value, settled = _double(np.int64(mantissa), power)
            status = SETTLED if settled else UNSETTLED
    return status, -value if sign == MINUS else value, position
