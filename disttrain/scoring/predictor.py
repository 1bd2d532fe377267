"""Predicts one worker's share of the parts: parsed ahead, and written behind, by other threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np

from disttrain.activity import activity, touch
from disttrain.config import PredictSettings
from disttrain.data.ranges import Range
from disttrain.data.row_source import Floats
from disttrain.data.sharding import shard_range
from disttrain.run.console import show_rate
from disttrain.scoring.kept_fields import fields_of_rows
from disttrain.scoring.part_files import Parts
from disttrain.scoring.streaming import parsed_parts
from disttrain.scoring.tables import Answers
from disttrain.scoring.world import Scored
from disttrain.threads import DaemonPool, num_cores

LINE_EVERY_S = 10.0
WRITTEN_AHEAD = 2  # parts that wait to be written


class Predictor:
    """This worker's share of the parts: parsed ahead, predicted, and written behind by other threads."""

    def __init__(self, config: PredictSettings, scored: Scored, parts: Parts) -> None:
        self._kept = config.keep_columns
        self._scored = scored
        self._parts = parts
        as_labels = config.answer == "label"
        self.answers = Answers(
            scored.trained.description, scored.forward.num_outputs, config.keep_columns, as_labels=as_labels
        )

    def run(self, rows: Sequence[Range], done: Sequence[int]) -> None:
        """Predicts the parts of this worker that are not done."""
        world = self._scored.context.backend.world
        share = shard_range(len(rows), world.size, world.rank)
        numbers = [number for number in range(share.start, share.stop) if number not in done]
        own = [rows[number] for number in numbers]
        writer = DaemonPool(1, "write-part")
        jobs: deque[Future[None]] = deque()
        shown_s = begun_s = time.monotonic()
        predicted, all_rows = 0, sum(map(len, own))
        try:
            parsed = parsed_parts(self._scored.source, own, num_cores(world.local_size))
            for number, (part, encoded) in zip(numbers, parsed, strict=True):
                outputs = self._scored.forward(encoded)
                if self._scored.source.bad_rows is not None:  # these have the weight 0
                    outputs[encoded[:, -1] == 0] = np.nan
                jobs.append(writer.submit(partial(self._write, number, part, outputs)))
                while len(jobs) > WRITTEN_AHEAD:
                    jobs.popleft().result()
                predicted += len(part)
                if (now_s := time.monotonic()) - shown_s >= LINE_EVERY_S:
                    shown_s, rate = now_s, show_rate(predicted / (now_s - begun_s))
                    self._scored.context.console.print(
                        f"{100 * predicted / all_rows:.0f}% of the rows · {rate} a worker"
                    )
            with activity("writing the last parts", waits_for_threads=True):
                for job in jobs:
                    job.result()
        finally:
            writer.close()

    def _write(self, number: int, part: Range, outputs: Floats) -> None:
        kept = fields_of_rows(self._scored.source, part, self._kept) if self._kept else []
        self._parts.write(number, self.answers.columns(outputs, kept))
        touch()
