"""A dataset's files opened by all workers together: one lists them, and each reads the headers of its part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from disttrain.data.csv.headers import join_text, label_of, open_one, read_first, read_others
from disttrain.data.csv.text import CsvText
from disttrain.data.sharding import shard_range
from disttrain.distributed.backend import together
from disttrain.run.context import RunContext
from disttrain.storage.listing import list_files


def shared_text(context: RunContext, places: Sequence[str]) -> CsvText:
    """Opens paths, URLs, patterns or directories as one text, which the context's stack closes; a collective.

    Raises:
        DisttrainError: on the worker that cannot read a file; PeerError on the others.
    """
    config, backend, world = context.config, context.backend, context.backend.world
    listed = together(backend, lambda: list_files(places) if world.is_leader else [])
    urls = backend.gather(listed)[0]
    if len(urls) == 1:
        text = together(backend, lambda: open_one(urls[0], mode=config.header, delimiter=config.delimiter))
    else:
        first = together(backend, lambda: read_first(urls, mode=config.header, delimiter=config.delimiter))
        part = shard_range(len(urls), world.size, world.rank)
        own = together(backend, lambda: read_others(urls[part.start : part.stop], first, by_name=config.by_name))
        files = [first, *chain.from_iterable(backend.gather(own))]
        if len(files) < len(urls):
            context.console.print(f"{len(urls) - len(files):,} of {len(urls):,} files are empty: left out")
        text = together(backend, lambda: join_text(label_of(places, urls), files))
    context.stack.enter_context(text.reader)
    return text
