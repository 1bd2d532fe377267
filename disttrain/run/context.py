"""What all parts of a run share: its options, its workers, and where it prints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from disttrain.config import FileSettings, TrainConfig, default_cache_dir
from disttrain.distributed.backend import Backend
from disttrain.distributed.launched import launched_rank
from disttrain.elastic.continuity import Continuity
from disttrain.run.console import open_console


@dataclass(frozen=True)
class FilesContext:
    """What opening files in one world needs.

    Attributes:
        config: the options about them.
        backend: whose workers open them.
        cache_dir: where indexes are kept.
        console: where the leader prints; quiet on all others.
        stack: closes what is opened.
    """

    config: FileSettings
    backend: Backend
    cache_dir: Path
    console: Console
    stack: ExitStack


@dataclass(frozen=True)
class RunContext(FilesContext):
    """One run in one world.

    Attributes:
        config: the run's options.
        continuity: how this world follows on another one, if it is an elastic run's.
    """

    config: TrainConfig
    continuity: Continuity


def open_context(
    config: TrainConfig, environ: Mapping[str, str], backend: Backend, continuity: Continuity, stack: ExitStack
) -> RunContext:
    """Opens the console and returns what a run shares; `environ` is the environment as the process was given it."""
    plain = False if launched_rank(environ) is not None else None  # mpirun gives rank 0 a terminal of its own
    console = open_console(is_quiet=not backend.world.is_leader, is_terminal=plain)
    cache_dir = config.cache_dir or default_cache_dir(environ)
    return RunContext(
        config=config, backend=backend, continuity=continuity, cache_dir=cache_dir, console=console, stack=stack
    )
