"""Every error that disttrain raises on purpose, and the exit code that each one ends the command with.

DisttrainError          1   never raised itself
├── UsageError          2   the request cannot be met: an option, a path, a column's name, a model function
│   └── CheckpointError 2   a checkpoint is torn, foreign or of another run; the message says why
│       └── NewerFormat 2   a checkpoint is of a newer disttrain, which can read it
├── DataError           3   a file does not hold what was expected; the message says where
│   └── FileChanged     3   a file is no longer the one that was indexed
├── StorageError        4   a store did not answer, or answered wrongly
├── NonFiniteError      5   a loss became NaN or infinite
├── PeerError           6   another worker failed; that worker's own error says why
├── HungError           7   a worker made no progress for too long; the message names it and what it was doing
└── Stopped            75   a signal stopped the run once its checkpoint was written; run it again to go on

Passwords, keys and signatures in URLs are left out of all that is raised, printed or kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

MAX_LISTED = 50  # names in a message
_WORDS = "key|token|secret|sig|signature|password|passwd|pwd|credential|auth|sas"
_PATTERNS = (
    # user:password@ before a host; then, for HTTP and FTP, a name or token@ alone
    (re.compile(r"(\b[\w+.-]+://)[^/\s?#'\"]*:[^/\s?#'\"]*@"), r"\1***@"),
    (re.compile(r"(\b(?:https?|s?ftp)://)[^/\s?#'\"@]+@", re.IGNORECASE), r"\1***@"),
    # ?sig=…, &X-Amz-Signature=…
    (re.compile(rf"([?&;][\w.%-]*(?:{_WORDS})[\w.%-]*=)[^&;\s'\"]+", re.IGNORECASE), r"\1***"),
)


class DisttrainError(Exception):
    """The base of the tree; `exit_code` is the command's exit code, and no message shows a secret in a URL."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class UsageError(DisttrainError):
    """What was asked for cannot be done as asked; the message says what to change."""

    exit_code = 2


class CheckpointError(UsageError):
    """A checkpoint cannot be used: it is torn, foreign, of a newer format, or of another run."""


class NewerFormat(CheckpointError):
    """A checkpoint was written by a newer disttrain, so it may well be whole."""


class DataError(DisttrainError):
    """A file's content is not what it must be; the message names file, line and column."""

    exit_code = 3


class FileChanged(DataError):
    """A file is no longer the one that was indexed."""


class StorageError(DisttrainError):
    """A store did not answer, or gave other bytes than the ones asked for."""

    exit_code = 4


class NonFiniteError(DisttrainError):
    """A loss became NaN or infinite; the message names rank, epoch and step."""

    exit_code = 5


class PeerError(DisttrainError):
    """Another worker failed, so this one stops too, with the other's exit code if that is known.

    A worker that could report its exit code also reports why it failed; one that was killed reports nothing.
    """

    exit_code = 6

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.is_explained = exit_code is not None  # whether the failed worker says why: then this one need not
        if exit_code is not None:
            self.exit_code = exit_code


class HungError(DisttrainError):
    """A worker made no progress for longer than `--timeout`; the message names it and what it was doing."""

    exit_code = 7


class Stopped(DisttrainError):
    """A signal stopped the run; its checkpoint is written, and the same command goes on from there.

    75 is what BSD's sysexits call a temporary failure: the user is invited to try again.
    """

    exit_code = 75

    def __init__(self, message: str, *, is_shared: bool = True) -> None:
        super().__init__(message)
        self.is_shared = is_shared  # whether all workers stop: then the leader says it for all


def redacted(text: str) -> str:
    """Returns the text with every secret in its URLs replaced by `***`."""
    for pattern, replacement in _PATTERNS if "://" in text else ():
        text = pattern.sub(replacement, text)
    return text


def all_redacted(value: Any) -> Any:
    """Returns a JSON value with `redacted` applied to every text in it."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: all_redacted(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_redacted(item) for item in value]
    return value


def listed(names: Sequence[str], most: int = MAX_LISTED) -> str:
    """Returns `a, b, c`; if there are more than `most`, the first ones and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
