"""Predicts rows part by part, each worker its own, and joins the parts in the order of the rows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from disttrain.config import PredictSettings
from disttrain.data.ranges import Range
from disttrain.distributed.backend import together
from disttrain.errors import UsageError, redacted
from disttrain.run.console import show_rate
from disttrain.scoring.formats import format_of
from disttrain.scoring.part_files import PartFiles, PartsInMemory
from disttrain.scoring.predictor import Predictor
from disttrain.scoring.saved import Trained
from disttrain.scoring.skipped import tell_skipped
from disttrain.scoring.streaming import part_rows, parts_of
from disttrain.scoring.tables import joined
from disttrain.scoring.world import Scored, open_world
from disttrain.storage.open import exists


def predicted_in(config: PredictSettings, scored: Scored) -> Any:
    """Predicts all rows in an open world, and gives every worker the table of them; a collective."""
    backend = scored.context.backend
    together(backend, lambda: _check(config, scored, exists_already=False))
    rows = parts_of(scored.source.num_rows, part_rows(scored.source.num_columns))
    parts = PartsInMemory()
    predictor = Predictor(config, scored, parts)
    together(backend, lambda: predictor.run(rows, []))
    tell_skipped(scored)
    return joined(dict(part for own in backend.gather(parts.tables) for part in own.items()))


def write_predictions(
    config: PredictSettings,
    environ: Mapping[str, str],
    trained: Trained | None = None,
    *,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Predicts on all workers together; the leader joins what they wrote.

    Args:
        config: what the user asks for.
        environ: as the process was given it.
        trained: a model that is no file.
        on_start: is called once the workers have met.
    """
    written = format_of(config.output)
    with open_world(config, environ, with_targets=False, trained=trained, on_start=on_start) as scored:
        context = scored.context
        is_leader = context.backend.world.is_leader
        together(context.backend, lambda: _check(config, scored, exists_already=is_leader and exists(config.output)))
        rows = parts_of(scored.source.num_rows, part_rows(scored.source.num_columns))
        parts = context.stack.enter_context(PartFiles(config.output, written, len(rows)))
        begun_s = time.monotonic()
        about = _about(config, scored, rows[0])
        done = context.backend.gather(together(context.backend, lambda: parts.begin(about) if is_leader else []))[0]
        together(context.backend, lambda: parts.check_seen(about))
        if done:
            context.console.print(f"Going on: {len(done):,} of {len(rows):,} parts are there already")
        predictor = Predictor(config, scored, parts)
        together(context.backend, lambda: predictor.run(rows, done))
        tell_skipped(scored)
        together(context.backend, lambda: parts.join(predictor.answers.schema) if is_leader else None)
        rate = show_rate(scored.source.num_rows / (time.monotonic() - begun_s))
        shown = f"{redacted(scored.source.url)}: {scored.source.num_rows:,} rows"
        context.console.print(f"{shown} -> {redacted(config.output)}, {rate}")


def _check(config: PredictSettings, scored: Scored, *, exists_already: bool) -> None:
    if exists_already and not config.overwrite:
        raise UsageError(f"--output {config.output}: is there already; name another file or add --overwrite")
    names = scored.source.header.names
    if len(set(config.keep_columns)) < len(config.keep_columns):
        raise UsageError(f"--keep-columns {','.join(config.keep_columns)}: names a column twice")
    if unknown := [name for name in config.keep_columns if name not in names]:
        raise UsageError(
            f"--keep-columns {unknown[0]}: {scored.source.url} has no such column; it has {', '.join(names)}"
        )


def _about(config: PredictSettings, scored: Scored, first: Range) -> str:
    """Returns what differs where a part may differ."""
    source = scored.source
    asked = [scored.trained.fingerprint, source.fingerprint, source.how_read(), config.answer, config.keep_columns]
    return hashlib.sha256(json.dumps([*asked, len(first)], sort_keys=True, default=str).encode()).hexdigest()
