"""Reads dates and times as ISO 8601 writes them, compiled: 2024-05-01, 2024-05-01T12:30, 2024-05-01 12:30:15.25+02:00.

A time is a double: seconds since 1970-01-01 00:00 UTC, without leap seconds. A time without an offset is in UTC.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from disttrain.data.csv.decimals import DOT, MINUS, PLUS, SPACE, ZERO, byte_or_lf, is_digit
from disttrain.native import byte_at, called

_COLON, _LETTER_T, _LETTER_Z = 58, 84, 90
_DAY_S = 86_400


@called
def _digits(position: Any, stop: Any, count: Any) -> Any:
    """Returns the number that the next `count` digits form; -1 if any is not a digit."""
    number = np.int64(0)
    for step in range(count):
        byte = byte_or_lf(position + step, stop)
        if not is_digit(byte):
            return np.int64(-1)
        number = number * 10 + byte - ZERO
    return number


@called
def _days(year: Any, month: Any, day: Any) -> Any:
    """Returns the days from 1970-01-01 to a date, after H. Hinnant, "chrono-compatible algorithms".

    Years begin with March there, so that the leap day comes last.
    """
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


@called
def _days_of_month(year: Any, month: Any) -> Any:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@called
def _offset(position: Any, stop: Any) -> Any:
    """Reads Z, +HH, +HHMM or +HH:MM, or nothing: returns (seconds east of UTC, position after it)."""
    sign = byte_or_lf(position, stop)
    if sign == _LETTER_Z:
        return np.int64(0), position + 1
    if sign not in (PLUS, MINUS):
        return np.int64(0), position
    hours = _digits(position + 1, stop, 2)
    if hours < 0:
        return np.int64(0), position
    position += 3
    has_colon = np.int64(byte_or_lf(position, stop) == _COLON)
    minutes = _digits(position + has_colon, stop, 2)
    if minutes >= 0:
        position += has_colon + 2
    seconds = hours * 3600 + max(minutes, 0) * 60
    return -seconds if sign == MINUS else seconds, position


@called
def iso_time(position: Any, stop: Any) -> Any:
    """Reads a date, or a date and a time: returns (seconds since 1970 in UTC, position after it, or -1 for others)."""
    year, month, day = _digits(position, stop, 4), _digits(position + 5, stop, 2), _digits(position + 8, stop, 2)
    has_dashes = byte_or_lf(position + 4, stop) == MINUS and byte_or_lf(position + 7, stop) == MINUS
    if year < 1 or month < 1 or day < 1 or not has_dashes or month > 12 or day > _days_of_month(year, month):
        return 0.0, np.int64(-1)
    seconds = np.float64(_days(year, month, day) * _DAY_S)
    position += 10
    between = byte_or_lf(position, stop)
    if between not in (_LETTER_T, SPACE) or not is_digit(byte_or_lf(position + 1, stop)):
        return seconds, position
    hour, minute = _digits(position + 1, stop, 2), _digits(position + 4, stop, 2)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or byte_or_lf(position + 3, stop) != _COLON:
        return 0.0, np.int64(-1)
    seconds += hour * 3600 + minute * 60
    position += 6
    if byte_or_lf(position, stop) == _COLON:
        second = _digits(position + 1, stop, 2)
        if second < 0 or second > 60:
            return 0.0, np.int64(-1)
        seconds += second
        position += 3
        if byte_or_lf(position, stop) == DOT:
            position += 1
            fraction, unit = 0.0, 1.0
            while is_digit(byte_or_lf(position, stop)):
                fraction = fraction * 10.0 + np.float64(byte_at(position) - ZERO)
                unit *= 10.0
                position += 1
            seconds += fraction / unit
    east, position = _offset(position, stop)
    return seconds - np.float64(east), position
