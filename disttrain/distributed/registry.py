"""The backends by name, each imported when it is first chosen."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from disttrain.checkpoints.commits import Commits
from disttrain.checkpoints.file import Checkpoint
from disttrain.distributed.backend import Backend, BackendOptions
from disttrain.distributed.launched import launched_by
from disttrain.errors import UsageError

T = TypeVar("T")

# name -> (module:function or class, what to do where it cannot be imported)
REGISTRY = {
    "local": ("disttrain.distributed.local:open_local", ""),
    "mirrored": ("disttrain.distributed.mirrored:open_mirrored", ""),
    "multiworker": ("disttrain.distributed.multiworker:open_multiworker", ""),
    "horovod": (
        "disttrain.distributed.horovod:open_horovod",
        "build it for this environment with launch/install-horovod.sh",
    ),
}
_STARTED = {"horovod": "horovodrun or mpirun", "multiworker": "a cluster in TF_CONFIG"}
ELASTIC = "disttrain.elastic.membership:run_elastic"


def open_backend(name: str, environ: Mapping[str, str], options: BackendOptions) -> Backend:
    """Starts the backend called `name`, or for `auto` the one that fits how the process was started.

    Args:
        name: a key of REGISTRY, or `auto`.
        environ: the environment, in which launchers set variables.
        options: the devices and threads of this worker.

    Raises:
        UsageError: if the backend's package is missing, or the process was not started as the backend needs it.
    """
    launcher = launched_by(environ)
    if name == "auto":
        name = launcher or _automatic(options)
    if launcher is not None and name in ("local", "mirrored"):
        raise UsageError(f"--backend {name}: {_STARTED[launcher]} would train the same model in every process")
    start_backend = _load(name, *REGISTRY[name])
    backend: Backend = start_backend(options)
    return backend


def _automatic(options: BackendOptions) -> str:
    """Returns the backend of a single process: `mirrored` for several devices, else `local`."""
    if options.num_devices is not None:
        return "mirrored" if options.num_devices > 1 else "local"
    return "mirrored" if _load("mirrored", "disttrain.distributed.devices:num_gpus", "")() > 1 else "local"


def run_elastic(
    attempt: Callable[[Backend, Commits], T],
    environ: Mapping[str, str],
    options: BackendOptions,
    *,
    stopping: Callable[[], bool],
    save: Callable[[Checkpoint], str],
) -> T:
    """Trains in one world after another; see `run_elastic` in membership.py."""
    run = _load("horovod", ELASTIC, REGISTRY["horovod"][1])
    result: T = run(attempt, environ, options, stopping=stopping, save=save)
    return result


def _load(name: str, target: str, remedy: str) -> Any:
    module, attribute = target.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UsageError(f"--backend {name}: {error}; {remedy}") from error
