"""Dates and times inside a Keras model, by Keras's own operations, as `data/csv/iso_times.py` reads them in a file.

A time is kept in parts that float32 holds exactly, for formats that have no float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

TIME_LENGTH = 40  # characters of a time: 2024-05-01T12:30:15.123456789+02:00 has 35
TIME_SIGNS = "0123456789-+:.TZ "
OTHER_SIGN, NO_SIGN = -1, -2  # the places of any other character, and of those behind a text's end
_FRACTION = 19  # where the seconds' fraction begins, if there is one
_DAY_S = 86_400.0


class Moment(NamedTuple):
    """Times [rows, 1]: whole days since 1970, whole seconds of the day, and what is left of a second."""

    days: Any
    seconds: Any
    fraction: Any

    def scaled(self, offset_s: float, scale_s: float) -> Any:
        """Returns the seconds since `offset_s` in units of `scale_s`."""
        days = math.floor(offset_s / _DAY_S)
        rest = offset_s - days * _DAY_S
        whole = (self.days - days) * (_DAY_S / scale_s)
        return whole + (self.seconds - math.floor(rest) + (self.fraction - (rest - math.floor(rest)))) / scale_s


def moment_of_seconds(seconds: Any) -> Moment:
    """Returns the times of seconds since 1970."""
    days = ops.floor(seconds / _DAY_S)
    of_day = seconds - days * _DAY_S
    whole = ops.floor(of_day)
    return Moment(days, whole, of_day - whole)


def moment_of_signs(signs: Any, dtype: str) -> Moment:
    """Returns the times of texts in ISO 8601.

    Args:
        signs: int32 [rows, TIME_LENGTH], the places of their characters in TIME_SIGNS, so that digits are themselves;
            OTHER_SIGN or NO_SIGN for what has none.
        dtype: of the numbers to compute with.
    """
    is_digit = ops.logical_and(signs >= 0, signs <= 9)
    digits = ops.cast(ops.where(is_digit, signs, ops.zeros_like(signs)), dtype)

    def number(start: int, stop: int) -> Any:
        found = digits[:, start : start + 1]
        for place in range(start + 1, stop):
            found = found * 10.0 + digits[:, place : place + 1]
        return found

    has_seconds = ops.cast(_is(signs, ":")[:, 16:17], dtype)
    of_day = number(11, 13) * 3600.0 + number(14, 16) * 60.0 + number(17, 19) * has_seconds - _offset(signs, digits)
    days = _days(number(0, 4), number(5, 7), number(8, 10))
    later = ops.floor(of_day / _DAY_S)
    return Moment(days + later, of_day - later * _DAY_S, _fraction(signs, is_digit, digits))


def _is(signs: Any, character: str) -> Any:
    return ops.equal(signs, TIME_SIGNS.index(character))


def _days(year: Any, month: Any, day: Any) -> Any:
    """Returns the days from 1970-01-01 to a date (H. Hinnant, "chrono-compatible algorithms")."""
    is_early = ops.cast(month <= 2.0, month.dtype)
    year = year - is_early
    era = ops.floor(year / 400.0)
    of_era = year - era * 400.0
    of_year = ops.floor((153.0 * (month - 3.0 + 12.0 * is_early) + 2.0) / 5.0) + day - 1.0
    leaps = ops.floor(of_era / 4.0) - ops.floor(of_era / 100.0)
    return era * 146097.0 + of_era * 365.0 + leaps + of_year - 719468.0


def _fraction(signs: Any, is_digit: Any, digits: Any) -> Any:
    """Returns the seconds' fraction: the digits that follow a dot, up to the first other character."""
    after = ops.cast(is_digit[:, _FRACTION + 1 :], digits.dtype)
    run = after[:, :1]
    total = run * digits[:, _FRACTION + 1 : _FRACTION + 2] * 0.1
    for place in range(1, 9):
        run = run * after[:, place : place + 1]
        total = total + run * digits[:, _FRACTION + 1 + place : _FRACTION + 2 + place] * 10.0 ** -(place + 1)
    return total * ops.cast(_is(signs, ".")[:, _FRACTION : _FRACTION + 1], digits.dtype)


def _offset(signs: Any, digits: Any) -> Any:
    """Returns the seconds east of UTC that the sign after the time says: +HH, +HHMM or +HH:MM."""
    total: Any = 0.0
    for place in range(16, TIME_LENGTH - 6):
        east = ops.cast(_is(signs, "+")[:, place : place + 1], digits.dtype)
        west = ops.cast(_is(signs, "-")[:, place : place + 1], digits.dtype)
        colon = ops.cast(_is(signs, ":")[:, place + 3 : place + 4], digits.dtype)
        at = [digits[:, place + step : place + step + 1] for step in range(1, 6)]
        minutes = colon * (at[3] * 10.0 + at[4]) + (1.0 - colon) * (at[2] * 10.0 + at[3])
        total = total + (east - west) * ((at[0] * 10.0 + at[1]) * 3600.0 + minutes * 60.0)
    return total


def parts_of_time(moment: Moment, parts: Sequence[str]) -> Any:
    """Returns sine and cosine of each part of times: [rows, 2 x parts]."""
    days, seconds, fraction = moment
    shifted = days + 719468.0
    of_era = shifted - ops.floor(shifted / 146097.0) * 146097.0
    leaps = ops.floor(of_era / 1460.0) - ops.floor(of_era / 36524.0) + ops.floor(of_era / 146096.0)
    year = ops.floor((of_era - leaps) / 365.0)
    of_year = of_era - (365.0 * year + ops.floor(year / 4.0) - ops.floor(year / 100.0))
    month = ops.floor((5.0 * of_year + 2.0) / 153.0)
    day = of_year - ops.floor((153.0 * month + 2.0) / 5.0)
    of_day = (seconds + fraction) / _DAY_S
    shares = {
        "month": (_modulo(month + 2.0, 12.0) + day / 31.0) / 12.0,
        "day": (day + of_day) / 31.0,
        "weekday": _modulo(days + 3.0, 7.0) / 7.0,
        "hour": of_day,
        "minute": (_modulo(seconds, 3600.0) + fraction) / 3600.0,
    }
    angles = [shares[part] * (2.0 * math.pi) for part in parts]
    return ops.concatenate([wave(angle) for angle in angles for wave in (ops.sin, ops.cos)], axis=-1)


def _modulo(value: Any, size: float) -> Any:
    return value - ops.floor(value / size) * size
