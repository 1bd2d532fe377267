"""The compiled loop from CSV bytes to float32 values: exact, without the GIL, one pass over the bytes.

A value is what `numpy.float32(text)` gives: the decimal text rounded to a double, the double rounded to a float32.
A number is read as an integer of at most 19 digits and a power of ten, and their product taken in doubles with a known
error bound (the interval idea of Clinger, "How to read floating point numbers accurately", 1990). Rounding is monotone,
so where both ends of that interval round to the same float32, every double between them does, the right one included.
Where they differ, one exact double operation may settle it; what is left over (about one number in ten million) is
handed back to Python.

All compiled code stands in this one file: numba's cache on disk watches only the file of the function it compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

DONE, PENDING_FULL, FAULT = 0, 1, 2  # how a scan ended

_SETTLED, _UNSETTLED, _BAD = 0, 1, 2  # how one field was read

_TAB, _LF, _CR, _SPACE, _QUOTE, _PLUS, _MINUS, _DOT, _ZERO = 9, 10, 13, 32, 34, 43, 45, 46, 48
_LETTER_E, _LETTER_I, _LETTER_N = 101, 105, 110
_LOWER = 0x20  # the bit that turns an ASCII capital into a small letter
_NAN_WORD = np.array([110, 97, 110], np.int64)
_INFINITY_WORD = np.array([105, 110, 102, 105, 110, 105, 116, 121], np.int64)

# The quick reader looks at most this far past a field's first byte: 1 sign, 8 digits, 1 dot, 24 digits, 2 for the
# exponent's letter and sign, and one word of 8 that may lie wholly past the number.
_REACH = 48

# One multiplication by a rounded power of ten: three roundings of 2**-53 (the integer, the power, the product) and the
# digits after the nineteenth (less than 2**-59). 2**-50 is more than twice their sum.
_ERROR = 2.0**-50
_MAX_POWER = 70  # beyond it, an integer of 1 to 19 digits is 0 or infinity as a float32
_TENS = np.array([float(f"1e{power}") for power in range(-_MAX_POWER, _MAX_POWER + 1)])
_EXACT_POWER = 22  # 10**22 is the largest power of ten that is exactly a double
_EXACT_INTEGER = 1 << 53
_MANY = 1 << 40  # an exponent that no text's digits can outweigh

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

_F = TypeVar("_F", bound=Callable[..., Any])


def _inlined(function: _F) -> _F:
    return cast(_F, numba.njit(error_model="numpy", forceinline=True)(function))


def _called(function: _F) -> _F:
    return cast(_F, numba.njit(error_model="numpy")(function))


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Callable[..., Any], intrinsic(function))


@_intrinsic
def _address(_typing: Any, array: Any) -> Any:
    """Where an array's first element lies. A number, unlike an array, costs no reference count when passed on."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), code


def _load(builder: Any, address: Any, bits: int) -> Any:
    """Code for an unaligned load, without bounds check or wrap-around."""
    value = builder.load(builder.inttoptr(address, ir.IntType(bits).as_pointer()))
    value.align = 1
    return value


@_intrinsic
def _byte(_typing: Any, address: Any) -> Any:
    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], 8), ir.IntType(64))

    return types.int64(types.int64), code


@_intrinsic
def _word(_typing: Any, address: Any) -> Any:
    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _load(builder, args[0], 64)

    return types.uint64(types.int64), code


@_intrinsic
def _trailing_zeros(_typing: Any, word: Any) -> Any:
    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))  # 64 for no bit at all

    return types.uint64(types.uint64), code


@_inlined
def _non_digits(word: Any) -> Any:
    """A bit for the first byte that is no digit, and some for later ones; `word` was ASCII xor zeros."""
    return ((word + _TO_HIGH_BIT) | word) & _HIGH_BITS


@_inlined
def _count_digits(word: Any) -> Any:
    """How many of a word's first bytes are digits."""
    return _trailing_zeros(_non_digits(word)) >> _U3


@_inlined
def _eight_digits(word: Any) -> Any:
    """The number that a word's eight bytes write, with three multiplications (zeros may stand for digits)."""
    word = word * _U10 + (word >> _U8)
    return (((word & _PAIR_MASK) * _PAIR_1 + ((word >> _U16) & _PAIR_MASK) * _PAIR_2) >> _U32) & _LOW_HALF


@_inlined
def _first_digits(word: Any, count: Any) -> Any:
    """The number that the first `count` of a word's eight bytes write."""
    half = (_U8 - count) * _U4
    return _eight_digits((word << half) << half)  # in two halves, for a shift by all 64 bits is undefined


@_inlined
def _rounded(mantissa: Any, power: Any) -> Any:
    """`mantissa * 10**power` as a float32, and whether it is settled; mantissa under 2**63, power within the table."""
    product = np.float64(mantissa) * _TENS[np.uint64(power + _MAX_POWER)]
    margin = product * _ERROR
    low = np.float32(product - margin)
    high = np.float32(product + margin)
    if low == high:
        return low, True
    return _rounded_exactly(mantissa, power)


@_called
def _rounded_exactly(mantissa: Any, power: Any) -> Any:
    """The same by one exact operation, where there is one (Clinger's fast path)."""
    if mantissa <= _EXACT_INTEGER and -_EXACT_POWER <= power <= _EXACT_POWER:
        ten = _TENS[abs(power) + _MAX_POWER]
        exact = np.float64(mantissa) / ten if power < 0 else np.float64(mantissa) * ten
        return np.float32(exact), True
    return np.float32(0), False


@_inlined
def _quick_number(position: Any) -> Any:
    """A number of usual form and at most 18 digits: (value, position after it), or -1 for that position.

    It stops at the first byte that can't go on, so the caller must look at what stands there.
    """
    negative = _byte(position) == _MINUS
    position += np.int64(negative)
    first = _byte(position) ^ _ZERO
    if first <= 9 and _byte(position + 1) == _DOT:  # the usual number has one digit before the dot
        mantissa = np.uint64(first)
        whole_digits = np.int64(1)
    else:
        word = _word(position) ^ _ASCII_ZEROS
        count = _count_digits(word)
        mantissa = _first_digits(word, count)
        whole_digits = np.int64(count)
    position += whole_digits
    start = position
    if _byte(position) == _DOT:
        position += 1
        start = position
        word = _word(position) ^ _ASCII_ZEROS
        if _non_digits(word) == 0:
            mantissa = mantissa * _E8 + _eight_digits(word)
            position += 8
            word = _word(position) ^ _ASCII_ZEROS
            if _non_digits(word) == 0:
                mantissa = mantissa * _E8 + _eight_digits(word)
                position += 8
                word = _word(position) ^ _ASCII_ZEROS
        if word & _U255 <= _U9:
            count = _count_digits(word)
            mantissa = mantissa * _SHIFTS[count] + _first_digits(word, count)
            position += np.int64(count)
    power = start - position
    num_digits = whole_digits - power
    if (_byte(position) | _LOWER) == _LETTER_E:
        sign = _byte(position + 1)
        position += 1 + np.int64(sign in (_MINUS, _PLUS))
        word = _word(position) ^ _ASCII_ZEROS
        count = _count_digits(word)
        exponent = np.int64(_first_digits(word, count))
        power += -exponent if sign == _MINUS else exponent
        position += np.int64(count)
        if count == 0 or count == _U8:
            return np.float32(0), np.int64(-1)
    if not (1 <= num_digits <= 19 and -_MAX_POWER <= power <= _MAX_POWER and mantissa < _E18):
        return np.float32(0), np.int64(-1)
    value, settled = _rounded(np.int64(mantissa), power)
    return -value if negative else value, position if settled else np.int64(-1)


@_inlined
def _is_digit(byte: Any) -> Any:
    return 0 <= byte - _ZERO <= 9


@_called
def _get(position: Any, stop: Any) -> Any:
    """The byte at a position, or a line feed where the bytes end."""
    return _byte(position) if position < stop else np.int64(_LF)


@_called
def _skip_pads(position: Any, stop: Any, delimiter: Any) -> Any:
    while position < stop:
        byte = _byte(position)
        if byte == delimiter or (byte != _SPACE and byte != _TAB):
            break
        position += 1
    return position


@_called
def _field_end(position: Any, stop: Any, delimiter: Any) -> Any:
    """The delimiter, line feed or stop after a field, its pads and carriage return; -1 if none stands there."""
    position = _skip_pads(position, stop, delimiter)
    if _get(position, stop) == _CR:
        while position < stop and (_byte(position) in (_CR, _SPACE, _TAB)):
            position += 1
        return position if _get(position, stop) == _LF else np.int64(-1)
    byte = _get(position, stop)
    return position if byte in (delimiter, _LF) else np.int64(-1)


@_called
def _word_length(position: Any, stop: Any, word: Any) -> Any:
    """How many of a word's letters stand at a position, in capitals or not."""
    length = 0
    while length < len(word) and (_get(position + length, stop) | _LOWER) == word[length]:
        length += 1
    return length


@_called
def _named_number(position: Any, stop: Any) -> Any:
    """nan, inf or infinity: (status, value, position after it)."""
    if _word_length(position, stop, _NAN_WORD) == 3:
        return _SETTLED, np.float32(np.nan), position + 3
    length = _word_length(position, stop, _INFINITY_WORD)
    if length == 8 or length == 3:
        return _SETTLED, np.float32(np.inf), position + length
    return _BAD, np.float32(0), position


@_called
def _exponent(position: Any, stop: Any) -> Any:
    """What follows the letter e: (exponent, position after it), or -1 for that position."""
    sign = _get(position, stop)
    if sign in (_MINUS, _PLUS):
        position += 1
    if not _is_digit(_get(position, stop)):
        return np.int64(0), np.int64(-1)
    exponent = np.int64(0)
    while _is_digit(_get(position, stop)):
        exponent = min(exponent * 10 + _byte(position) - _ZERO, np.int64(_MANY))
        position += 1
    return -exponent if sign == _MINUS else exponent, position


@_called
def _plain_number(position: Any, stop: Any) -> Any:
    """Digits, dot and exponent of any length, unsigned: (status, value, position after it)."""
    bad = (_BAD, np.float32(0), position)
    mantissa = np.uint64(0)
    kept = power = num_digits = 0
    after_dot = False
    while True:
        byte = _get(position, stop)
        if byte == _DOT and not after_dot:
            after_dot = True
        elif _is_digit(byte):
            num_digits += 1
            if kept < 19:
                mantissa = mantissa * _U10 + np.uint64(byte - _ZERO)
                kept += mantissa > 0
                power -= after_dot
            else:
                power += not after_dot
        else:
            break
        position += 1
    if num_digits == 0:
        return bad
    if byte | _LOWER == _LETTER_E:
        exponent, position = _exponent(position + 1, stop)
        if position < 0:
            return bad
        power += exponent
    if mantissa == 0 or power < -_MAX_POWER:
        return _SETTLED, np.float32(0), position
    if power > _MAX_POWER:
        return _SETTLED, np.float32(np.inf), position
    if kept == 19:  # as a signed integer it has room for 18 digits and a half
        last = np.int64(mantissa % _U10)
        product = (np.float64(np.int64(mantissa // _U10)) * 10.0 + last) * _TENS[power + _MAX_POWER]
        low, high = np.float32(product * (1.0 - 2.0 * _ERROR)), np.float32(product * (1.0 + 2.0 * _ERROR))
        return _SETTLED if low == high else _UNSETTLED, low, position
    value, settled = _rounded(np.int64(mantissa), power)
    return _SETTLED if settled else _UNSETTLED, value, position


@_called
def _any_number(position: Any, stop: Any, delimiter: Any) -> Any:
    """A wanted field of any allowed form: (status, value, first byte, byte after the number, the field's end)."""
    position = _skip_pads(position, stop, delimiter)
    quoted = _get(position, stop) == _QUOTE
    if quoted:
        position = _skip_pads(position + 1, stop, -1)
    first = position
    sign = _get(position, stop)
    if sign in (_MINUS, _PLUS):
        position += 1
    letter = _get(position, stop) | _LOWER
    if letter in (_LETTER_N, _LETTER_I):
        status, value, position = _named_number(position, stop)
    else:
        status, value, position = _plain_number(position, stop)
    end = position
    if quoted:
        position = _skip_pads(position, stop, -1)
        if _get(position, stop) != _QUOTE:
            status = _BAD
        position += 1
    position = _field_end(position, stop, delimiter)
    if position < 0:
        status = _BAD
    return status, -value if sign == _MINUS else value, first, end, position


@_called
def _skip_field(position: Any, stop: Any, delimiter: Any) -> Any:
    """The end of an unwanted field, plain or quoted; -1 where a quote is out of place."""
    start = _skip_pads(position, stop, delimiter)
    if _get(start, stop) == _QUOTE:
        position = start + 1
        while True:
            byte = _get(position, stop)
            if byte == _LF:
                return np.int64(-1)
            position += 1
            if byte == _QUOTE:
                if _get(position, stop) != _QUOTE:
                    return _field_end(position, stop, delimiter)
                position += 1
    while position < stop:
        byte = _byte(position)
        if byte in (delimiter, _LF):
            break
        if byte == _QUOTE:
            return np.int64(-1)
        position += 1
    return position


@_inlined
def _skip_blanks(position: Any, stop: Any) -> Any:
    while position < stop and _byte(position) in (_SPACE, _TAB, _CR, _LF):
        position += 1
    return position


@_inlined
def _line_break(position: Any) -> Any:
    """The bytes of the line break at a position: 1, 2 with a carriage return, 0 where there is none."""
    byte = _byte(position)
    if byte == _LF:
        return 1
    return 2 if byte == _CR and _byte(position + 1) == _LF else 0


def _scan_rows(
    buffer: Any, start: Any, stop: Any, delimiter: Any, take: Any, num_columns: Any, out: Any, pending: Any
) -> Any:
    """Fill `out` (flat, `num_columns` values a row) from the lines in `buffer[start:stop]`.

    Returns (how it ended, rows written, position, pending fields). The position is where the next row may start; after
    a fault, where the faulty row starts. Each line of `pending` is (place in `out`, first byte, byte after the number)
    of a number that is still to be settled.
    """
    num_fields = len(take)
    num_rows = len(out) // num_columns
    num_pending = 0
    base = _address(buffer)
    position, stop = base + start, base + stop
    for row in range(num_rows):
        position = _skip_blanks(position, stop)
        if position >= stop:
            return DONE, row, position - base, num_pending
        row_start, row_pending = position, num_pending
        for field in range(num_fields):
            column = take[field]
            last = field == num_fields - 1
            place = row * num_columns + column
            if column < 0:
                end = _skip_field(position, stop, delimiter)
                if end < 0:
                    return FAULT, row, row_start - base, row_pending
            else:
                if position + _REACH <= stop:
                    value, end = _quick_number(position)
                    if end >= 0:
                        skipped = _line_break(end) if last else np.int64(_byte(end) == delimiter)
                        if skipped:
                            out[np.uint64(place)] = value
                            position = end + skipped
                            continue
                status, value, first, after, end = _any_number(position, stop, delimiter)
                if status == _BAD:
                    return FAULT, row, row_start - base, row_pending
                if status == _UNSETTLED:
                    if num_pending == len(pending):
                        return PENDING_FULL, row, row_start - base, row_pending
                    pending[num_pending, 0], pending[num_pending, 1], pending[num_pending, 2] = (
                        place,
                        first - base,
                        after - base,
                    )
                    num_pending += 1
                out[np.uint64(place)] = value
            # A line feed, or the stop, must end the last field and no other.
            if (end == stop or _byte(end) == _LF) != last:
                return FAULT, row, row_start - base, row_pending
            position = min(end + 1, stop)
    return DONE, num_rows, position - base, num_pending


def _signature() -> Any:
    def array(dtype: Any, ndim: int, *, readonly: bool = False) -> Any:
        return types.Array(dtype, ndim, "C", readonly=readonly)

    word = types.int64
    buffer, take = array(types.uint8, 1, readonly=True), array(types.int32, 1, readonly=True)
    results = types.UniTuple(word, 4)  # type: ignore[no-untyped-call]
    return results(buffer, word, word, word, take, word, array(types.float32, 1), array(word, 2))


@functools.cache
def scan_rows() -> Callable[..., tuple[int, int, int, int]]:
    """The compiled `_scan_rows`: loaded from the cache on disk, or compiled (seconds) and put there."""
    options: Any = {"nogil": True, "error_model": "numpy"}
    compiled: Any
    try:
        compiled = numba.njit(_signature(), cache=True, **options)(_scan_rows)
    except RuntimeError as error:  # no directory that could hold the cache: a read-only machine without a home
        if "cannot cache" not in str(error):
            raise
        compiled = numba.njit(_signature(), **options)(_scan_rows)
    return cast(Callable[..., tuple[int, int, int, int]], compiled)
