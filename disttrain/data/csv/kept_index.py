"""A text's index on disk: the rows of each chunk, file by file, so that only a file that changed is read again."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disttrain.data.csv.index import FIRST, Counts, Index, Int64s, followed, index_from_counts, scan
from disttrain.data.csv.text import CsvFile, CsvText
from disttrain.errors import DisttrainError, redacted
from disttrain.storage.base import UNVERSIONED
from disttrain.storage.local import absolute, atomic_write, remove_parts

FORMAT = 3  # of the saved counts; those of another format are made anew

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class KeptCounts:
    """What is known of a text: `missing`, int64 [any], numbers the chunks whose lines of `counts` are not known."""

    counts: Counts
    missing: Int64s

    def completed(self, text: CsvText, chunks: Int64s, counts: Counts) -> Counts:
        """Returns all counts, with those of these chunks, which are all that a file has."""
        table = self.counts.table.copy()
        table[chunks] = followed(text, chunks, counts).table
        return Counts(table)


def load_counts(cache_dir: Path, text: CsvText) -> KeptCounts:
    """Returns the saved counts of those files of a text that have not changed since."""
    table = np.zeros((text.num_chunks, 4), np.int64)
    is_known = np.zeros(text.num_chunks, np.bool_)
    try:
        with open(_kept_path(cache_dir, text), "rb") as stream, np.load(stream, allow_pickle=False) as kept:
            is_readable = int(kept["format"]) == FORMAT
            files: list[list[object]] = json.loads(str(kept["files"])) if is_readable else []
            saved = np.asarray(kept["table"], np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return KeptCounts(Counts(table), np.arange(text.num_chunks))
    bounds = np.concatenate([[0], np.cumsum([int(str(file[-1])) for file in files], dtype=np.int64)])
    places = {json.dumps(file): int(start) for file, start in zip(files, bounds, strict=False)}
    for number, file in enumerate(text.files):
        first, stop = (int(chunk) for chunk in text.first_chunks[number : number + 2])
        start = places.get(json.dumps(_about(file, stop - first)))
        if start is not None and start + stop - first <= len(saved):
            table[first:stop] = saved[start : start + stop - first]
            is_known[first:stop] = True
    has_row = is_known & (table[:, FIRST] >= 0)
    table[has_row, FIRST] += text.chunk_starts[has_row]
    return KeptCounts(Counts(table), np.flatnonzero(~is_known))


def save_counts(cache_dir: Path, text: CsvText, counts: Counts) -> None:
    """Saves counts, whole or not at all; does nothing if a file's store does not report a version."""
    if text.info.fingerprint.endswith(UNVERSIONED):
        return
    path = _kept_path(cache_dir, text)
    remove_parts(path.parent, r"[0-9a-f]{20}\..+", with_living_writers=True)
    chunks = np.diff(text.first_chunks).tolist()
    about = [_about(file, number) for file, number in zip(text.files, chunks, strict=True)]
    table = counts.table.copy()
    has_row = table[:, FIRST] >= 0
    table[has_row, FIRST] -= text.chunk_starts[has_row]
    with atomic_write(path) as stream:
        np.savez(stream, format=np.array(FORMAT), files=np.array(json.dumps(about)), table=table)


def keep_counts(cache_dir: Path, text: CsvText, counts: Counts) -> None:
    """Saves counts where that is possible; otherwise logs a warning and goes on."""
    try:
        save_counts(cache_dir, text, counts)
    except (OSError, DisttrainError) as error:
        _log.warning("the index of %s could not be saved, and will be made again: %s", redacted(text.info.url), error)


def index_text(text: CsvText, cache_dir: Path, *, num_threads: int = 1) -> Index:
    """Returns the index: from saved counts and, of files that changed, from new ones, which are saved where possible.

    Raises:
        FileChanged: if a file changes while it is read.
    """
    kept = load_counts(cache_dir, text)
    if not len(kept.missing):
        return index_from_counts(text, kept.counts)
    counts = kept.completed(text, kept.missing, scan(text, kept.missing, num_threads=num_threads))
    text.check_unchanged()
    keep_counts(cache_dir, text, counts)
    return index_from_counts(text, counts)


def load_beside(cache_dir: Path, text: CsvText, kind: str) -> bytes | None:
    """Returns what was saved beside a text's index as `kind`; None if nothing, or of an older version of its files."""
    try:
        fingerprint, _, content = _beside(cache_dir, text, kind).read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if fingerprint == text.info.fingerprint.encode() else None


def keep_beside(cache_dir: Path, text: CsvText, kind: str, content: bytes) -> None:
    """Saves `content` beside a text's index, where that is possible and its store reports a version."""
    if not text.info.fingerprint.endswith(UNVERSIONED):
        with suppress(OSError, DisttrainError), atomic_write(_beside(cache_dir, text, kind)) as stream:
            stream.write(text.info.fingerprint.encode() + b"\n" + content)


def _beside(cache_dir: Path, text: CsvText, kind: str) -> Path:
    return _kept_path(cache_dir, text, hashlib.sha256(kind.encode()).hexdigest()[:8])


def _kept_path(cache_dir: Path, text: CsvText, kind: str = "npz") -> Path:
    """Returns where what is known of a text is kept: by what it is called, so that new files replace old ones."""
    name, header = absolute(text.info.url), text.header
    dialect = header.delimiter if header.dialect.is_plain else str(header.dialect)
    key = hashlib.sha256(f"{name}\n{header.rows_start}\n{dialect}".encode()).hexdigest()[:20]
    return cache_dir / "index" / f"{key}.{kind}"


def _about(file: CsvFile, num_chunks: int) -> list[object]:
    """Returns what the counts of a file depend on, as JSON can hold it; the last item is how many chunks it has."""
    return [absolute(file.info.url), file.info.fingerprint, file.header.rows_start, num_chunks]
