"""The subcommand `evaluate`: how good a trained model is on other files."""

from __future__ import annotations

from collections.abc import Mapping

from disttrain.config import EvaluateSettings
from disttrain.config.loading import Command
from disttrain.terminal import native_messages_held
from disttrain.watchdog.start_timer import start_timer

DESCRIPTION = """Evaluates a trained model on files whose targets are known: loss and metrics, errors of numbers in
their own units, a confusion matrix and figures for each label. Under horovodrun, each worker takes a part."""


def evaluate(config: EvaluateSettings, environ: Mapping[str, str]) -> None:
    """Prints what the model's answers come to; raises what opening model and files raises."""
    with start_timer(config.timeout, environ) as timer:
        with native_messages_held("TF_CPP_MIN_LOG_LEVEL" in environ):
            from disttrain.scoring.evaluation import evaluated
            from disttrain.scoring.report import report
        found = evaluated(config, environ, timer.stop)
    if found is not None:
        report(found, as_json=config.json_)


COMMAND = Command("disttrain evaluate", EvaluateSettings, DESCRIPTION, evaluate)
