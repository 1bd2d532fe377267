"""The backends by name, each imported when it is first chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from disttrain.errors import UsageError
from disttrain.world import Backend, launched_rank

# name -> (module:class, what to do where it cannot be imported)
REGISTRY = {
    "local": ("disttrain.backends.local:LocalBackend", ""),
    "horovod": (
        "disttrain.backends.horovod:HorovodBackend",
        "build it for this environment with launch/install-horovod.sh",
    ),
}


def open_backend(name: str, environ: Mapping[str, str], *, threads: int | None, small_model: bool) -> Backend:
    """Starts the backend called `name`, or for `auto` the one that fits how the process was started.

    Args:
        name: a key of REGISTRY, or `auto`.
        environ: the environment, where launchers leave their mark.
        threads: threads of one TensorFlow operation; None for 1 where `small_model`, else the machine's cores
            shared by its workers.
        small_model: whether a step is too small to be worth splitting over threads.

    Raises:
        UsageError: if the backend's package is missing, or a launcher started a backend that works alone.
    """
    launched = launched_rank(environ) is not None
    if name == "auto":
        name = "horovod" if launched else "local"
    if name == "local" and launched:
        raise UsageError("--backend local under horovodrun or mpirun would train the same model in every process")
    target, remedy = REGISTRY[name]
    module, attribute = target.split(":")
    try:
        backend_class = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UsageError(f"--backend {name}: {error}; {remedy}") from error
    backend: Backend = backend_class(threads=threads, small_model=small_model)
    return backend
