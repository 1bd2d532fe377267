"""The subcommand `export`: a trained model in the format of another program."""

from __future__ import annotations

from collections.abc import Mapping

from disttrain.config import ExportSettings
from disttrain.config.loading import Command
from disttrain.distributed.launched import launched_rank
from disttrain.errors import UsageError
from disttrain.terminal import native_messages_held

DESCRIPTION = """Writes a trained model as a SavedModel, as ONNX or for TensorFlow Lite. It takes the raw columns by
name, as the saved model does. Before it is there, it is run on rows of the training's files: what differs from the
Keras model by more than 0.0001 is refused."""


def export(config: ExportSettings, environ: Mapping[str, str]) -> None:
    """Writes what `config` asks for; raises what opening model and files raises."""
    if launched_rank(environ) is not None:
        raise UsageError("disttrain export: one process writes a model; start it without horovodrun or mpirun")
    with native_messages_held("TF_CPP_MIN_LOG_LEVEL" in environ):
        from disttrain.scoring.exporting.exporting import write_export
    write_export(config, environ)


COMMAND = Command("disttrain export", ExportSettings, DESCRIPTION, export)
