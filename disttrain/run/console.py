"""Where a run prints, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from disttrain.errors import redacted

if TYPE_CHECKING:
    from disttrain.training.metric_sums import Value


class _Console(Console):
    """A console that leaves the secrets in URLs out of what it prints."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as rich's console does, without the secrets in texts."""
        super().print(*(redacted(one) if isinstance(one, str) else one for one in objects), **options)


def open_console(*, is_quiet: bool, is_terminal: bool | None) -> Console:
    """Returns the console that the leader prints to; with `is_terminal` None, rich detects whether it is a terminal."""
    return _Console(quiet=is_quiet, force_terminal=is_terminal, highlight=False, soft_wrap=True, markup=False)


def show_number(value: Value) -> str:
    """Formats a number, or each number of a vector, with four significant digits."""
    return f"[{' '.join(map(show_number, value))}]" if isinstance(value, list) else f"{value:.4g}"


def show_rate(rows_per_s: float) -> str:
    """Formats rows per second, with k or M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rows_per_s >= size:
            return f"{rows_per_s / size:.3g}{unit} rows/s"
    return f"{rows_per_s:.3g} rows/s"


def show_time(seconds: float) -> str:
    """Formats a time as `m:ss`, or as `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_values(values: Mapping[str, Value]) -> str:
    """Formats named values, such as `loss 0.1234 · mse 0.05678`."""
    return " · ".join(f"{name} {show_number(value)}" for name, value in values.items())
