"""Compiled functions that turn decimal texts into float32 values, exactly those that `numpy.float32(text)` gives.

These are the text rounded to a double, and the double rounded to a float32. A number is read as an integer of at most
19 digits and a power of ten. Their product is computed in doubles with a known error bound (after Clinger, "How to read
floating point numbers accurately", 1990). Rounding is monotone: if both ends of the error interval round to the same
float32, so does every double between them, and the correct one is among these. If they differ, one exact double
operation may settle the value. The few other numbers (one in ten million, or one written to lie between two float32s)
are UNSETTLED and left to Python. The digits are read eight at a time, as bytes of a 64-bit word (after Lemire, "Number
parsing at a gigabyte per second", 2021).

Positions are addresses. The `quick` and `usual` functions read up to `REACH` bytes ahead; the others stop at `stop`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from disttrain.native import byte_at, called, inlined, pair_at, trailing_zeros, word_at

SETTLED, UNSETTLED, BAD = 0, 1, 2  # how one field was read

TAB, LF, CR, SPACE, QUOTE, PLUS, MINUS, DOT, ZERO = 9, 10, 13, 32, 34, 43, 45, 46, 48
_ZERO_DOT = DOT << 8 | ZERO
LETTER_E, LETTER_I, LETTER_N = 101, 105, 110
LOWER = 0x20  # the bit that turns an ASCII capital into a small letter
_NAN_WORD = np.array([110, 97, 110], np.int64)
_INFINITY_WORD = np.array([105, 110, 102, 105, 110, 105, 116, 121], np.int64)

# The quick reader looks at most this far past a field's first byte: 1 sign, 16 digits, 1 dot, 24 digits, 2 for the
# exponent's letter and sign, and one word of 8 that may lie wholly past the number.
REACH = 52

# One multiplication by a rounded power of ten: three roundings of 2**-53 (the integer, the power, the product) and the
# digits after the nineteenth (less than 2**-59). 2**-50 is more than twice their sum.
_ERROR = 2.0**-50
_MAX_POWER = 70  # beyond it, an integer of 1 to 19 digits is 0 or infinity as a float32
_TENS = np.array([float(f"1e{power}") for power in range(-_MAX_POWER, _MAX_POWER + 1)])
_EXACT_POWER = 22  # 10**22 is the largest power of ten that is exactly a double
_EXACT_INTEGER = 1 << 53
_MANY = 1 << 40  # an exponent too large for the number of a text's digits to offset

_SHIFTS = np.array([10**power for power in range(9)], np.uint64)
_U3, _U4, _U8, _U9, _U10, _U16, _U32, _U255 = (np.uint64(n) for n in (3, 4, 8, 9, 10, 16, 32, 255))
_E8, _E18 = np.uint64(10**8), np.uint64(10**18)
_ASCII_ZEROS = np.uint64(0x3030303030303030)
_TO_HIGH_BIT = np.uint64(0x7676767676767676)  # 10 + this sets a byte's high bit, 9 + this does not
_HIGH_BITS = np.uint64(0x8080808080808080)
_PAIR_MASK = np.uint64(0x000000FF000000FF)
_PAIR_1 = np.uint64(100 + (1000000 << 32))
_PAIR_2 = np.uint64(1 + (10000 << 32))
_LOW_HALF = np.uint64(0xFFFFFFFF)


@inlined
def is_digit(byte: Any) -> Any:
    """Returns whether a byte is one of "0" to "9"."""
    return 0 <= byte - ZERO <= 9


@inlined
def _non_digits(word: Any) -> Any:
    """Returns a bit for the first byte that is not a digit, and some for later ones; `word` is ASCII xor "0"s."""
    return ((word + _TO_HIGH_BIT) | word) & _HIGH_BITS


@inlined
def _count_digits(word: Any) -> Any:
    """Returns how many digits a word begins with."""
    return trailing_zeros(_non_digits(word)) >> _U3


@inlined
def _eight_digits(word: Any) -> Any:
    """Returns the number that a word's eight bytes, 0 to 9 each, form as digits, with three multiplications."""
    word = word * _U10 + (word >> _U8)
    return (((word & _PAIR_MASK) * _PAIR_1 + ((word >> _U16) & _PAIR_MASK) * _PAIR_2) >> _U32) & _LOW_HALF


@inlined
def _first_digits(word: Any, count: Any) -> Any:
    """Returns the number that the first `count` of a word's eight bytes form."""
    half = (_U8 - count) * _U4
    return _eight_digits((word << half) << half)  # two shifts, because one shift by 64 bits is undefined


@inlined
def _rounded(mantissa: Any, power: Any) -> Any:
    """Returns `mantissa * 10**power` as a float32, and whether it is settled.

    `mantissa` is under 2**63, `power` within the table.
    """
    product = np.float64(mantissa) * _TENS[np.uint64(power + _MAX_POWER)]
    margin = product * _ERROR
    low = np.float32(product - margin)
    high = np.float32(product + margin)
    if low == high:
        return low, True
    return _rounded_exactly(mantissa, power)


@called
def _rounded_exactly(mantissa: Any, power: Any) -> Any:
    """Returns what `_rounded` returns, by one exact operation, if there is one (Clinger's fast path)."""
    if mantissa <= _EXACT_INTEGER and -_EXACT_POWER <= power <= _EXACT_POWER:
        ten = _TENS[abs(power) + _MAX_POWER]
        exact = np.float64(mantissa) / ten if power < 0 else np.float64(mantissa) * ten
        return np.float32(exact), True
    return np.float32(0), False


@inlined
def usual_width(position: Any) -> Any:
    """Returns how many digits, at most 8, follow the dot of a number with one digit before it; 0 for other forms."""
    position += np.int64(byte_at(position) == MINUS)
    count = np.int64(_count_digits(word_at(position + 2) ^ _ASCII_ZEROS))
    return count if is_digit(byte_at(position)) and byte_at(position + 1) == DOT else np.int64(0)


@inlined
def usual_number(position: Any, width: Any) -> Any:
    """Reads a number of one digit, a dot and `width` digits: returns (value, position after it, whether it is one).

    The value is an integer under 10**9 divided by a power of ten: one exact operation. Because the width is guessed
    and not counted, the processor can go on to the next field before this one is read.
    """
    negative = byte_at(position) == MINUS
    position += np.int64(negative)
    first = pair_at(position) ^ _ZERO_DOT  # over 9 unless a digit and a dot stand there
    half = (_U8 - np.uint64(width)) * _U4
    word = ((word_at(position + 2) ^ _ASCII_ZEROS) << half) << half
    fits = first <= 9 and _non_digits(word) == 0
    integer = np.int64(np.uint64(first) * _SHIFTS[np.uint64(width)] + _eight_digits(word))
    value = np.float32(np.float64(integer) / _TENS[np.uint64(width + _MAX_POWER)])
    return -value if negative else value, position + 2 + width, fits


@inlined
def quick_parts(position: Any) -> Any:
    """Reads an unsigned number of usual form: returns (mantissa, power, position after it, whether it is one).

    The mantissa is an integer of at most 18 digits; the number is `mantissa * 10**power`. It stops at the first byte
    that cannot be part of the number, so the caller must check that byte.
    """
    first = byte_at(position) ^ ZERO
    if first <= 9 and byte_at(position + 1) == DOT:  # the usual number has one digit before the dot
        mantissa = np.uint64(first)
        whole_digits = np.int64(1)
    else:
        word = word_at(position) ^ _ASCII_ZEROS
        count = _count_digits(word)
        mantissa = _first_digits(word, count)
        whole_digits = np.int64(count)
        if count == _U8:
            word = word_at(position + 8) ^ _ASCII_ZEROS
            count = _count_digits(word)
            mantissa = mantissa * _SHIFTS[count] + _first_digits(word, count)
            whole_digits += np.int64(count)
    position += whole_digits
    start = position
    if byte_at(position) == DOT:
        position += 1
        start = position
        word = word_at(position) ^ _ASCII_ZEROS
        if _non_digits(word) == 0:
            mantissa = mantissa * _E8 + _eight_digits(word)
            position += 8
            word = word_at(position) ^ _ASCII_ZEROS
            if _non_digits(word) == 0:
                mantissa = mantissa * _E8 + _eight_digits(word)
                position += 8
                word = word_at(position) ^ _ASCII_ZEROS
        if word & _U255 <= _U9:
            count = _count_digits(word)
            mantissa = mantissa * _SHIFTS[count] + _first_digits(word, count)
            position += np.int64(count)
    power = start - position
    num_digits = whole_digits - power
    if (byte_at(position) | LOWER) == LETTER_E:
        sign = byte_at(position + 1)
        position += 1 + np.int64(sign in (MINUS, PLUS))
        word = word_at(position) ^ _ASCII_ZEROS
        count = _count_digits(word)
        exponent = np.int64(_first_digits(word, count))
        power += -exponent if sign == MINUS else exponent
        position += np.int64(count)
        if count == 0 or count == _U8:
            return np.int64(0), power, position, False
    fits = 1 <= num_digits <= 19 and -_MAX_POWER <= power <= _MAX_POWER and mantissa < _E18
    return np.int64(mantissa), power, position, fits


@inlined
def quick_number(position: Any) -> Any:
    """Reads a number of usual form and at most 18 digits: returns (value, position after it, or -1 if it is not one).

    The caller must check the byte after it.
    """
    negative = byte_at(position) == MINUS
    mantissa, power, position, fits = quick_parts(position + np.int64(negative))
    if not fits:
        return np.float32(0), np.int64(-1)
    value, settled = _rounded(mantissa, power)
    return -value if negative else value, position if settled else np.int64(-1)


@called
def byte_or_lf(position: Any, stop: Any) -> Any:
    """Returns the byte at a position, or a line feed at the end of the bytes."""
    return byte_at(position) if position < stop else np.int64(LF)


@called
def skip_pads(position: Any, stop: Any, delimiter: Any) -> Any:
    """Returns the first position that does not hold a space or tab; a delimiter is never skipped."""
    while position < stop:
        byte = byte_at(position)
        if byte == delimiter or (byte != SPACE and byte != TAB):
            break
        position += 1
    return position


@called
def _word_length(position: Any, stop: Any, word: Any) -> Any:
    """Returns how many of a word's first letters are at a position, in upper or lower case."""
    length = 0
    while length < len(word) and (byte_or_lf(position + length, stop) | LOWER) == word[length]:
        length += 1
    return length


@called
def named_number(position: Any, stop: Any) -> Any:
    """Reads nan, inf or infinity: returns (status, value, position after it)."""
    if _word_length(position, stop, _NAN_WORD) == 3:
        return SETTLED, np.float32(np.nan), position + 3
    length = _word_length(position, stop, _INFINITY_WORD)
    if length == 8 or length == 3:
        return SETTLED, np.float32(np.inf), position + length
    return BAD, np.float32(0), position


@called
def _exponent(position: Any, stop: Any) -> Any:
    """Reads what follows the letter e: returns (exponent, position after it, or -1 if there is no digit)."""
    sign = byte_or_lf(position, stop)
    if sign in (MINUS, PLUS):
        position += 1
    if not is_digit(byte_or_lf(position, stop)):
        return np.int64(0), np.int64(-1)
    exponent = np.int64(0)
    while is_digit(byte_or_lf(position, stop)):
        exponent = min(exponent * 10 + byte_at(position) - ZERO, np.int64(_MANY))
        position += 1
    return -exponent if sign == MINUS else exponent, position


@called
def plain_parts(position: Any, stop: Any) -> Any:
    """Reads digits, dot and exponent of any length, unsigned.

    Returns (the first 19 digits as an integer, power of ten, how many of these digits there are, position after it, or
    -1 if it is no number).
    """
    mantissa = np.uint64(0)
    kept = power = num_digits = 0
    after_dot = False
    while True:
        byte = byte_or_lf(position, stop)
        if byte == DOT and not after_dot:
            after_dot = True
        elif is_digit(byte):
            num_digits += 1
            if kept < 19:
                mantissa = mantissa * _U10 + np.uint64(byte - ZERO)
                kept += mantissa > 0
                power -= after_dot
            else:
                power += not after_dot
        else:
            break
        position += 1
    if num_digits == 0:
        return mantissa, power, kept, np.int64(-1)
    if byte | LOWER == LETTER_E:
        exponent, position = _exponent(position + 1, stop)
        power += exponent
    return mantissa, power, kept, position


@called
def plain_number(position: Any, stop: Any) -> Any:
    """Reads digits, dot and exponent of any length, unsigned: returns (status, value, position after it)."""
    start = position
    mantissa, power, kept, position = plain_parts(start, stop)
    if position < 0:
        return BAD, np.float32(0), start
    if mantissa == 0 or power < -_MAX_POWER:
        return SETTLED, np.float32(0), position
    if power > _MAX_POWER:
        return SETTLED, np.float32(np.inf), position
    if kept == 19:  # not every number of 19 digits fits into a signed 64-bit integer
        last = np.int64(mantissa % _U10)
        product = (np.float64(np.int64(mantissa // _U10)) * 10.0 + last) * _TENS[power + _MAX_POWER]
        low, high = np.float32(product * (1.0 - 2.0 * _ERROR)), np.float32(product * (1.0 + 2.0 * _ERROR))
        return SETTLED if low == high else UNSETTLED, low, position
    value, settled = _rounded(np.int64(mantissa), power)
    return SETTLED if settled else UNSETTLED, value, position
