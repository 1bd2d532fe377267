"""A dataset's files opened by all workers together: one lists them, and each reads the headers of its part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from disttrain.config import FileSettings
from disttrain.config.option_types import BLANKS
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.headers import HowRead, join_text, label_of, open_one, read_first, read_others
from disttrain.data.csv.text import CsvText
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import together
from disttrain.storage.compressed import UNPACKED, compression_of
from disttrain.storage.kept_bytes import was_copied
from disttrain.storage.listing import list_files

if TYPE_CHECKING:
    from disttrain.run.context import FilesContext

SLOW_S = 2.0


def shared_text(context: FilesContext, places: Sequence[str]) -> CsvText:
    """Opens paths, URLs, patterns or directories as one text, which the context's stack closes; a collective.

    Raises:
        DisttrainError: on the worker that cannot read a file; PeerError on the others.
    """
    backend, world = context.backend, context.backend.world
    how = how_read(context.config, context.cache_dir)
    listed = together(backend, lambda: list_files(places) if world.is_leader else [])
    expanded = backend.gather(listed if listed != list(places) else [])[0]
    urls = expanded or list(places)
    _prepare(context, how, urls)
    if len(urls) == 1:
        return together(backend, lambda: _held(context, open_one(urls[0], how)))
    first = together(backend, lambda: read_first(urls, how))
    part = shard_range(len(urls), world.size, world.rank)
    own = together(backend, lambda: read_others(urls[part.start : part.stop], first, how))
    files = [first, *chain.from_iterable(backend.gather(own))]
    if len(files) < len(urls):
        context.console.print(f"{len(urls) - len(files):,} of {len(urls):,} files are empty: left out")
    label = label_of(places, urls)
    return together(backend, lambda: _held(context, join_text(label, [file.seen_here() for file in files], how)))


def _held(context: FilesContext, text: CsvText) -> CsvText:
    """Returns a text, which the context's stack closes."""
    context.stack.enter_context(text.reader)
    return text


def how_read(config: FileSettings, cache_dir: Path) -> HowRead:
    """Returns how the options say that files are read."""
    dialect = Dialect(
        delimiter={"auto": ",", BLANKS: " "}.get(config.delimiter, config.delimiter),
        runs=config.delimiter == BLANKS,
        decimal=config.decimal,
        thousands=config.thousands,
        comment=config.comment,
        skip_lines=config.skip_lines,
        quoted_newlines=config.quoted_newlines,
    )
    finds = config.delimiter == "auto"
    return HowRead(
        cache_dir, config.header, dialect, finds_delimiter=finds, by_name=config.by_name, encoding=config.encoding
    )


def _prepare(context: FilesContext, how: HowRead, urls: Sequence[str]) -> None:
    """Decompresses and converts files once on each machine, to know where they can be entered or to keep their text."""
    wanted = [url for url in urls if _may_be_kept(url, how)]
    if not wanted:
        return
    world = context.backend.world
    begun_s = time.monotonic()

    def prepare() -> list[str]:
        copied = []
        for url in wanted[world.local_rank :: world.local_size]:
            with how.open(url) as reader:
                if was_copied(reader):
                    copied.append(url)
        return copied

    copied = list(chain.from_iterable(context.backend.gather(together(context.backend, prepare))))
    seconds = time.monotonic() - begun_s
    if seconds > SLOW_S:
        shown = wanted[0] if len(wanted) == 1 else f"{len(wanted):,} files"
        context.console.print(f"Prepared {shown} in {seconds:.1f} s; what was found is kept for the next run")
    if copied:
        _tell_kept(context, copied, "the server gives no parts of a file: read from a copy")
    unpacked = [url for url in wanted if compression_of(url) in UNPACKED.values()]
    if unpacked:
        method = compression_of(unpacked[0])
        _tell_kept(context, unpacked, f"{method} cannot be entered in the middle: read from an unpacked copy")


def _may_be_kept(url: str, how: HowRead) -> bool:
    """Returns whether a file is, or may be, prepared on the local disk: web servers may give it only whole."""
    is_web = url.startswith(("http://", "https://"))
    return is_web or compression_of(url) is not None or how.encoding != "utf-8"


def _tell_kept(context: FilesContext, urls: Sequence[str], what: str) -> None:
    """Says that some files are read from the local disk, and why."""
    more = f" and {len(urls) - 1:,} more" if len(urls) > 1 else ""
    context.console.print(f"{urls[0]}{more}: {what} on the disk of {context.cache_dir}")
