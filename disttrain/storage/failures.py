"""What an error of a store's package says: its HTTP status, whether a retry may help, how long to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

# Packages whose exceptions mean that a store did not answer properly; not all of these exceptions are OSErrors.
STORE_PACKAGES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"})
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and those that it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status in an error of aiohttp, botocore, gcsfs or Azure's package; None if it has none."""
    for cause in _chain(error):
        response = getattr(cause, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        found = metadata.get("HTTPStatusCode")
        is_googles = type(cause).__module__.startswith(("gcsfs", "google"))
        # `code` only for Google's packages: aiohttp sets it to 400 for an answer that it cannot parse.
        for name in ("status", "status_code", *["code"] * is_googles):
            found = getattr(cause, name, None) if found is None else found
        if isinstance(found, int) and 400 <= found < 600:
            return found
    return None


def code_of(error: BaseException) -> str:
    """Returns S3's name for an error; an empty text for others."""
    for cause in _chain(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code"):
            return str(response["Error"]["Code"])
    return ""


def is_missing(error: BaseException) -> bool:
    """Returns whether the store said that the file does not exist, and did not just fail to answer."""
    if not isinstance(error, FileNotFoundError):
        return False
    return not any(is_transient(cause) and not isinstance(cause, PERMANENT) for cause in _chain(error))


def is_transient(error: BaseException) -> bool:
    """Returns whether a retry may help: after I/O errors, time-outs and the store packages' own exceptions."""
    if isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError)):
        return True
    return any(kind.__module__.split(".")[0] in STORE_PACKAGES for kind in type(error).__mro__)


def describe(error: BaseException) -> str:
    """Returns an error's kind, the first line of its message, and the HTTP status if that does not tell it."""
    status, told = status_of(error), str(error).strip().partition("\n")[0]
    if status is not None and str(status) not in told:
        told = f"{told} (HTTP status {status})" if told else f"HTTP status {status}"
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def retry_after_s(error: BaseException) -> float:
    """Returns the seconds that the store asked to wait, in a Retry-After header; 0 if it did not."""
    for cause in _chain(error):
        told = next((value for name, value in _headers(cause).items() if name.lower() == "retry-after"), None)
        if told is None:
            continue
        with suppress(ValueError):
            return max(float(told), 0.0)
        with suppress(ValueError, TypeError):
            return max(parsedate_to_datetime(str(told)).timestamp() - time.time(), 0.0)
    return 0.0


def _headers(error: BaseException) -> Mapping[str, Any]:
    """Returns the headers of the answer that an error of aiohttp, botocore or Azure's package tells of."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        found = getattr(error, "headers", None) or getattr(response, "headers", None)
    return found if isinstance(found, Mapping) else {}
