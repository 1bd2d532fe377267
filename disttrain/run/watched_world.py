"""One world of workers that meet, watch each other, and part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol

from disttrain.distributed.backend import Backend, BackendOptions
from disttrain.distributed.registry import open_backend
from disttrain.errors import HungError, PeerError
from disttrain.watchdog.watchdog import Watchdog


class WorldSettings(Protocol):
    """The options of a world."""

    @property
    def backend(self) -> str:
        """Who takes part."""

    @property
    def timeout(self) -> float:
        """Seconds after which a worker without progress ends the run; 0 for never."""


@contextmanager
def watched_world(
    config: WorldSettings, environ: Mapping[str, str], options: BackendOptions, on_start: Callable[[], None]
) -> Iterator[tuple[Backend, ExitStack]]:
    """Opens a backend whose workers watch each other, and a stack that is closed before they part.

    Calls `on_start` once they have met.

    Raises:
        PeerError: for an error that follows from another worker's end.
    """
    backend = open_backend(config.backend, environ, options)
    watchdog = Watchdog(backend.world, backend.gather, config.timeout)
    try:
        with watchdog, _lost_peer_named(backend, watchdog), ExitStack() as stack:
            on_start()
            yield backend, stack
    except PeerError as error:
        if watchdog.told_exit_code is None or error.is_explained:
            raise
        raise PeerError(str(error), watchdog.told_exit_code) from error
    finally:
        backend.close()


@contextmanager
def _lost_peer_named(backend: Backend, watchdog: Watchdog) -> Iterator[None]:
    """Turns what a lost worker makes the others' collectives raise into a PeerError.

    Or a HungError that names it, where it has not ended but fallen silent, as one on a host that is cut off: Gloo gives
    up after 30 s, which may be long before the watchdog does.
    """
    try:
        yield
    except Exception as error:
        if backend.lost_peer(error):
            if missed := watchdog.missed():
                raise HungError(missed) from error
            raise PeerError("another worker ended; its error message, if any, is above") from error
        raise
