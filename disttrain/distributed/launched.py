"""How this process was started: by which launcher, and with which rank."""

from __future__ import annotations

import json
from collections.abc import Mapping

# What each launcher sets in its workers' environment: horovodrun (Gloo), Open MPI, MPICH and Intel MPI.
_LAUNCHER_VARIABLES = (
    ("HOROVOD_RANK", "HOROVOD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)

_LOCAL_SIZES = (
    ("HOROVOD_LOCAL_SIZE", "HOROVOD_SIZE"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
    ("MPI_LOCALNRANKS", "PMI_SIZE"),
)


def launched_rank(environ: Mapping[str, str]) -> int | None:
    """Returns the rank that a launcher gave to this process, or None if it works alone."""
    for rank, size in _LAUNCHER_VARIABLES:
        if rank in environ and size in environ:
            return int(environ[rank])
    rank_and_size = cluster_rank_and_size(environ)
    return rank_and_size[0] if rank_and_size is not None and rank_and_size[1] > 1 else None


def launched_by(environ: Mapping[str, str]) -> str | None:
    """Returns the backend for which a launcher started this process among others, or None if it works alone."""
    if any(rank in environ and size in environ for rank, size in _LAUNCHER_VARIABLES):
        return "horovod"
    return "multiworker" if launched_rank(environ) is not None else None


def launched_on_one_machine(environ: Mapping[str, str]) -> bool:
    """Returns whether a launcher started all workers on this machine, as far as it says."""
    counts = [(environ.get(local), environ.get(size)) for local, size in _LOCAL_SIZES]
    return any(local is not None and local == size for local, size in counts)


def launched_elastic(environ: Mapping[str, str]) -> bool:
    """Returns whether `horovodrun` started this worker in a run whose workers may come and go."""
    return environ.get("HOROVOD_ELASTIC") == "1"


def cluster_rank_and_size(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Returns rank and world size in the cluster of TF_CONFIG, a chief first; None if it names no task of a cluster."""
    try:
        config = json.loads(environ["TF_CONFIG"])
        counts = {kind: len(config["cluster"].get(kind, ())) for kind in ("chief", "worker")}
        kind, index = config["task"]["type"], int(config["task"]["index"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    if kind not in counts or not 0 <= index < counts[kind]:
        return None
    return index + (counts["chief"] if kind == "worker" else 0), sum(counts.values())


def launch_of(environ: Mapping[str, str]) -> str:
    """Returns what the workers of one elastic launch have in common: where their launcher listens."""
    return ":".join(environ.get(f"HOROVOD_GLOO_RENDEZVOUS_{name}", "") for name in ("ADDR", "PORT"))
