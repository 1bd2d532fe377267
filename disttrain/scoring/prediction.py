"""Predicts rows part by part, each worker its own, and joins the parts in the order of the rows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping

from disttrain.config import PredictSettings
from disttrain.data.ranges import Range
from disttrain.distributed.backend import together
from disttrain.errors import UsageError, redacted
from disttrain.run.console import show_rate
from disttrain.scoring.formats import format_of
from disttrain.scoring.part_files import PartFiles
from disttrain.scoring.predictor import Predictor
from disttrain.scoring.streaming import part_rows, parts_of
from disttrain.scoring.world import Scored, open_world
from disttrain.storage.open import exists


def write_predictions(config: PredictSettings, environ: Mapping[str, str]) -> None:
    """Predicts on all workers together; the leader joins what they wrote."""
    written = format_of(config.output)
    with open_world(config, environ, with_targets=False) as scored:
        context = scored.context
        together(context.backend, lambda: _check(config, scored))
        rows = parts_of(scored.source.num_rows, part_rows(scored.source.num_columns))
        parts = context.stack.enter_context(PartFiles(config.output, written, len(rows)))
        is_leader, begun_s = context.backend.world.is_leader, time.monotonic()
        about = _about(config, scored, rows[0])
        done = context.backend.gather(together(context.backend, lambda: parts.begin(about) if is_leader else []))[0]
        if done:
            context.console.print(f"Going on: {len(done):,} of {len(rows):,} parts are there already")
        predictor = Predictor(config, scored, parts)
        together(context.backend, lambda: predictor.run(rows, done))
        together(context.backend, lambda: parts.join(predictor.answers.schema) if is_leader else None)
        rate = show_rate(scored.source.num_rows / (time.monotonic() - begun_s))
        shown = f"{redacted(scored.source.url)}: {scored.source.num_rows:,} rows"
        context.console.print(f"{shown} -> {redacted(config.output)}, {rate}")


def _check(config: PredictSettings, scored: Scored) -> None:
    if scored.context.backend.world.is_leader and not config.overwrite and exists(config.output):
        raise UsageError(f"--output {config.output}: is there already; name another file or add --overwrite")
    names = scored.source.header.names
    if unknown := [name for name in config.keep_columns if name not in names]:
        raise UsageError(
            f"--keep-columns {unknown[0]}: {scored.source.url} has no such column; it has {', '.join(names)}"
        )


def _about(config: PredictSettings, scored: Scored, first: Range) -> str:
    """Returns what differs where a part may differ."""
    source = scored.source
    asked = [scored.trained.fingerprint, source.fingerprint, source.how_read(), config.answer, config.keep_columns]
    return hashlib.sha256(json.dumps([*asked, len(first)], sort_keys=True, default=str).encode()).hexdigest()
