"""Statistics of a file's columns: gathered in parts, joined, and kept with the file's index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from disttrain.data.csv.index import Counts, Index, index_from_counts, join_counts
from disttrain.data.csv.kept_index import keep_beside, keep_counts, load_beside, load_counts
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.statistics_lines import gather_lines
from disttrain.data.csv.statistics_pass import Gathered, Wanted, gather, parts_of_rank
from disttrain.data.table.gathering import Sketches
from disttrain.data.table.kinds import gap_words, needs_texts
from disttrain.data.table.requests import Requests
from disttrain.data.table.statistics import Statistics, conclude


@dataclass(frozen=True, eq=False)
class Indexed:
    """Where the rows of a text start, and the statistics of its columns; `counts` if they were counted with these."""

    index: Index
    statistics: Statistics
    counts: Counts | None = None


@dataclass(frozen=True)
class StatisticsOf:
    """The statistics of a file's chosen columns.

    `as_text` names the columns whose numbers are texts; `gaps` are the words that stand for nothing; `skips` lines that
    are no rows.
    """

    opened: OpenCsv
    as_text: Sequence[str]
    gaps: Sequence[str]
    skips: bool = False

    def load(self, cache_dir: Path) -> Indexed | None:
        """Returns index and statistics that were kept of this very file, or None."""
        text = self.opened.text
        known, kept = load_counts(cache_dir, text), load_beside(cache_dir, text, self._key)
        statistics = Statistics.from_json(kept) if kept is not None else None
        if statistics is None or len(known.missing):
            return None
        return Indexed(index_from_counts(text, known.counts), statistics)

    @property
    def takes_two_passes(self) -> bool:
        """Whether rows have to be counted before their values are gathered."""
        return not self.opened.text.header.dialect.is_plain

    def gather(self, rank: int, world_size: int, num_threads: int, index: Index | None = None) -> Gathered:
        """Reads one worker's part of the text; DataError for a line that is no row. Two passes need the `index`."""
        opened = self.opened
        parts = parts_of_rank(opened.text.num_chunks, rank, world_size)
        as_text = [name in self.as_text for name in opened.column_names]
        wanted = Wanted(opened.layout.take, as_text, self.gaps, self.skips)
        if index is not None:
            return gather_lines(opened.text, index, wanted, parts.start, parts.stop, num_threads=num_threads)
        return gather(opened.text, wanted, parts.start, parts.stop, num_threads=num_threads)

    def join(self, everyones: Sequence[Gathered], index: Index | None = None) -> Indexed:
        """Returns index and statistics from what all workers gathered; FileChanged if a file changed meanwhile."""
        opened = self.opened
        opened.text.check_unchanged()
        sketches = [one.sketches for one in everyones if one.sketches is not None]
        names, parts = opened.column_names, [part for one in everyones for part in one.parts]
        statistics = conclude(names, parts, Sketches.join(sketches) if sketches else Sketches.nothing(len(names)))
        if index is not None:
            return Indexed(index, statistics)
        counts = join_counts([one.counts for one in everyones if one.counts is not None])
        return Indexed(index_from_counts(opened.text, counts), statistics, counts)

    def keep(self, cache_dir: Path, found: Indexed) -> None:
        """Keeps them, where that is possible."""
        if found.counts is not None:
            keep_counts(cache_dir, self.opened.text, found.counts)
        keep_beside(cache_dir, self.opened.text, self._key, found.statistics.to_json())

    @property
    def _key(self) -> str:
        asked = [self.opened.column_names, sorted(self.as_text), sorted(self.gaps), *(["skips"] if self.skips else [])]
        return "statistics-" + hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]


def statistics_of(opened: OpenCsv, requests: Requests, obtain: Callable[[StatisticsOf], Indexed]) -> Indexed:
    """Returns a file's index and statistics, which `obtain` loads or makes.

    Where numbers among texts turn out to be categories, the file is read again, for these numbers' texts.
    """
    gaps = gap_words(requests)
    as_text = [name for name, kind in requests.kinds.items() if kind.kind == "category"]
    found = obtain(StatisticsOf(opened, as_text, gaps, requests.skips_bad_rows))
    more = needs_texts(found.statistics, requests)
    return obtain(StatisticsOf(opened, [*as_text, *more], gaps, requests.skips_bad_rows)) if more else found
