"""The writers of the formats, imported when they are needed."""

from __future__ import annotations

from disttrain.errors import UsageError
from disttrain.scoring.exporting.exported import Writer


def writer_of(format_: str) -> Writer:
    """Returns what writes a format; UsageError if a package that it needs is not installed."""
    if format_ == "onnx":
        try:
            from disttrain.scoring.exporting.onnx_model import write_onnx
        except ModuleNotFoundError as error:
            raise UsageError(f"--format onnx needs {error.name}: pip install 'disttrain[onnx]'") from error
        return write_onnx
    if format_ == "tflite":
        from disttrain.scoring.exporting.tflite import write_tflite

        return write_tflite
    from disttrain.scoring.exporting.savedmodel import write_savedmodel

    return write_savedmodel
