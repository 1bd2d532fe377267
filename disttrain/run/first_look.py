"""Whether a file has to be read for statistics: a first look, by the leader for all workers."""

from __future__ import annotations

from disttrain.activity import activity
from disttrain.data.csv.look import looks_plain
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.distributed.backend import together
from disttrain.run.column_options import requests_of
from disttrain.run.context import RunContext
from disttrain.training.model import takes_table


def needs_statistics(context: RunContext, opened: OpenCsv) -> bool:
    """Returns whether the columns have to be looked at as a whole; a collective.

    They have to, unless they are plain numbers of ordinary size wherever the leader looks, or your own model takes them
    as they are, and nothing is asked for that depends on them.
    """
    config, backend = context.config, context.backend
    requests = together(backend, lambda: requests_of(config, opened.target_names))
    if requests.ask_for_encoding or together(backend, lambda: takes_table(config)):
        return True
    if config.model is not None:
        return False

    def look() -> bool:
        if not backend.world.is_leader:
            return False
        with activity("looking at {}", opened.text.info.url):
            any_size = requests.scale == "none"
            return looks_plain(opened.text, opened.layout, any_size=any_size)

    return not backend.gather(together(backend, look))[0]
