"""The backends by name, each imported when it is first chosen."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from disttrain.commits import Commits
from disttrain.errors import UsageError
from disttrain.world import Backend, launched_rank

T = TypeVar("T")

# name -> (module:function or class, what to do where it cannot be imported)
REGISTRY = {
    "local": ("disttrain.backends.local:LocalBackend", ""),
    "horovod": (
        "disttrain.backends.horovod:open_horovod",
        "build it for this environment with launch/install-horovod.sh",
    ),
}
ELASTIC = "disttrain.backends.elastic:run_elastic"


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
    start_backend = _load(name, *REGISTRY[name])
    backend: Backend = start_backend(threads=threads, small_model=small_model)
    return backend


def launched_elastic(environ: Mapping[str, str]) -> bool:
    """Whether `horovodrun` started this worker in a run whose workers may come and go."""
    return environ.get("HOROVOD_ELASTIC") == "1"


def run_elastic(
    attempt: Callable[[Backend, Commits], T],
    environ: Mapping[str, str],
    *,
    threads: int | None,
    small_model: bool,
    stopping: Callable[[], bool],
) -> T:
    """Trains in one world after another; see `run_elastic` in elastic.py."""
    run = _load("horovod", ELASTIC, REGISTRY["horovod"][1])
    result: T = run(attempt, environ, threads=threads, small_model=small_model, stopping=stopping)
    return result


def _load(name: str, target: str, remedy: str) -> Any:
    module, attribute = target.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UsageError(f"--backend {name}: {error}; {remedy}") from error
