"""Passwords, keys and signatures in URLs: left out of all that is printed, raised or kept."""

from __future__ import annotations

import re
from typing import Any

_WORDS = "key|token|secret|sig|signature|password|passwd|pwd|credential|auth|sas"
_PATTERNS = (
    # user:password@ before a host, and what stands there alone where it can only be a name or a token
    (re.compile(r"(\b[\w+.-]+://)[^/\s?#'\"]*:[^/\s?#'\"]*@"), r"\1***@"),
    (re.compile(r"(\b(?:https?|s?ftp)://)[^/\s?#'\"@]+@", re.IGNORECASE), r"\1***@"),
    # ?sig=…, &X-Amz-Signature=…
    (re.compile(rf"([?&;][\w.%-]*(?:{_WORDS})[\w.%-]*=)[^&;\s'\"]+", re.IGNORECASE), r"\1***"),
)


def redacted(text: str) -> str:
    """The text with every secret in its URLs replaced by `***`."""
    for pattern, replacement in _PATTERNS if "://" in text else ():
        text = pattern.sub(replacement, text)
    return text


def all_redacted(value: Any) -> Any:
    """The same for every text in what JSON can hold."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: all_redacted(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_redacted(item) for item in value]
    return value
