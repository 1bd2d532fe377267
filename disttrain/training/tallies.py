"""What all workers counted in an epoch beside losses and metrics, joined at its end: bad rows, bytes from stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from disttrain.data.bad_rows import BadRowsFound
from disttrain.data.row_source import RowSource
from disttrain.distributed.backend import Backend
from disttrain.storage.traffic import TRAFFIC
from disttrain.training.reports import BytesFetched, Reporter


@dataclass(frozen=True)
class Tallies:
    """One worker's part in the counts; all workers call `join` together.

    Attributes:
        backend: its workers join what they counted.
        sources: the rows that are trained on, and those that are validated on.
        tell_bad: is called on the leader with the bad rows that all workers found in an epoch.
        reporters: hear, on the leader, of the bytes that were fetched from stores.
    """

    backend: Backend
    sources: Sequence[RowSource]
    tell_bad: Callable[[Sequence[BadRowsFound]], None] = lambda found: None
    reporters: Sequence[Reporter] = ()

    def begin(self) -> None:
        """Forgets what was fetched before the epoch, for the index and the headers."""
        TRAFFIC.take()

    def join(self, epoch: int) -> None:
        """Joins the counts of an epoch, numbered from 1; DataError, on all workers, if too many rows were skipped."""
        fetched = self.backend.gather(TRAFFIC.take())
        if any(one.num_bytes for one in fetched):
            num_bytes, num_requests = zip(*fetched, strict=True)
            for reporter in self.reporters:
                reporter.report(BytesFetched(epoch, num_bytes, num_requests))
        for source in {id(one.bad_rows): one for one in self.sources}.values():
            if source.bad_rows is None:
                continue
            found = self.backend.gather(source.bad_rows.take())
            if self.backend.world.is_leader:
                self.tell_bad(found)
            first = next((row for own in found for row in own.rows), None)
            if first is not None:
                source.bad_rows.check(sum(own.total for own in found), first)
