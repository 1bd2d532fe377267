"""Train a Keras model on a CSV too large for memory, on as many GPUs and machines as there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disttrain.data.batches import batches, num_batches
    from disttrain.run.dataset import open_csv
    from disttrain.run.fitting import fit
    from disttrain.scoring.calls import evaluate, export, predict

__version__ = "0.1.0"
__all__ = ["batches", "evaluate", "export", "fit", "num_batches", "open_csv", "predict"]

_HOME = {
    "batches": "disttrain.data.batches",
    "evaluate": "disttrain.scoring.calls",
    "export": "disttrain.scoring.calls",
    "fit": "disttrain.run.fitting",
    "num_batches": "disttrain.data.batches",
    "open_csv": "disttrain.run.dataset",
    "predict": "disttrain.scoring.calls",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, so that importing the package costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'disttrain' has no attribute '{name}'")
    import importlib

    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
