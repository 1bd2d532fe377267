"""The subcommand `predict`: what a trained model gives for the rows of other files."""

from __future__ import annotations

from collections.abc import Mapping

from disttrain.config import PredictSettings
from disttrain.config.loading import Command
from disttrain.terminal import native_messages_held
from disttrain.watchdog.start_timer import start_timer

DESCRIPTION = """Writes what a trained model predicts for each row, in the order of the rows, to a .csv or .parquet
file, which is whole or absent. The same command goes on where an earlier one was killed. Under horovodrun, each worker
takes a part."""


def predict(config: PredictSettings, environ: Mapping[str, str]) -> None:
    """Writes the file that `config` names; raises what opening model and files raises."""
    with start_timer(config.timeout, environ) as timer:
        with native_messages_held("TF_CPP_MIN_LOG_LEVEL" in environ):
            from disttrain.scoring.prediction import write_predictions
        write_predictions(config, environ, on_start=timer.stop)


COMMAND = Command("disttrain predict", PredictSettings, DESCRIPTION, predict)
