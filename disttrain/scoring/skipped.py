"""Tells which rows of the workers' parts could not be read, and were skipped."""

from __future__ import annotations

from disttrain.distributed.backend import together
from disttrain.run.bad_rows import counted
from disttrain.scoring.world import Scored

_MOST_SHOWN = 5


def tell_skipped(scored: Scored) -> None:
    """Prints them on the leader; a collective.

    Raises:
        DataError: if they are more than the options allow.
    """
    bad_rows, backend, say = scored.source.bad_rows, scored.context.backend, scored.context.console.print
    if bad_rows is None:
        return
    found = backend.gather(bad_rows.take())
    rows = [row for own in found for row in own.rows]
    if not rows:
        return
    say(f"Skipped {counted(found)}")
    for row in rows[:_MOST_SHOWN]:
        say(f"  {row.place}: {row.cause}")
    if len(rows) > _MOST_SHOWN:
        say("  …")
    together(backend, lambda: bad_rows.check(sum(own.total for own in found), rows[0]))
