"""Compiles a function with numba, and keeps what came of it on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba


def compiled(function: Callable[..., Any], signature: Any, **options: Any) -> Callable[..., Any]:
    """`function` for one signature, without the interpreter lock: loaded from numba's cache, or compiled in seconds."""
    try:
        result = numba.njit(signature, nogil=True, cache=True, **options)(function)
    except RuntimeError as error:  # no directory that could hold the cache: a read-only machine without a home
        if "cannot cache" not in str(error):
            raise
        result = numba.njit(signature, nogil=True, **options)(function)
    return cast(Callable[..., Any], result)
