"""Elastic runs: training that goes on from the last commit, in this process, when workers are lost or join.

`horovodrun --min-np ... --host-discovery-script ...` starts workers on hosts as they come; its own word for such a
run is HOROVOD_ELASTIC. A worker that is lost shows as a failed collective in all others, hosts that come or go are told
to one of them. Either way all end their Horovod, meet (see rendezvous.py), start it anew in another world, agree on the
newest commit, and train on from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import horovod.tensorflow as hvd
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from horovod.common.elastic import notification_manager

from disttrain.activity import activity, last_progress_s, waits_for_peers
from disttrain.checkpoints.commits import Change, Commits, WorldChanged
from disttrain.checkpoints.file import Checkpoint, Position
from disttrain.distributed.backend import BackendOptions
from disttrain.distributed.devices import configure_device
from disttrain.distributed.horovod import HorovodBackend, start_horovod
from disttrain.elastic.cut_sockets import Sockets, cut, open_sockets
from disttrain.elastic.reexec import calling_before_abort, handed_over, start_over
from disttrain.elastic.rendezvous import Place, Rendezvous
from disttrain.errors import DataError, NonFiniteError, PeerError, Stopped, UsageError

T = TypeVar("T")

PIECE_BYTES = 16 << 20
# How long Gloo waits for a peer: its default of 30 s is for those that are still starting, and here all are there.
# Horovod's threads answer within milliseconds whatever training does.
GLOO_TIMEOUT_S = 10
GRACE_S = 3.0
STUCK_S = 10.0  # in a collective whose connections are cut: those that can still fail do so within milliseconds
MAX_LOSSES_WITHOUT_COMMIT = 10
MAX_FAILED_STARTS = 5
# What all workers would fail of, one after the other, if they went on.
_ENDS_ALL = (UsageError, DataError, NonFiniteError)


def run_elastic(
    attempt: Callable[[HorovodBackend, Commits], T],
    environ: Mapping[str, str],
    options: BackendOptions,
    *,
    stopping: Callable[[], bool] = lambda: False,
    save: Callable[[Checkpoint], str] = lambda commit: "stopped",
) -> T:
    """Calls `attempt` in one world after another until it returns in one.

    Args:
        attempt: trains from `commits.last`, the same on all workers (None: from the beginning), and keeps commits. It
            is left by WorldChanged, or by the error of a lost peer, and then called again; `commits.change` says why.
            Where it raises Stopped on some workers and WorldChanged on all others, those go on without the former.
        environ: what `horovodrun` set.
        options: of this worker's device.
        stopping: whether this worker is to end instead of waiting for others.
        save: keeps the last commit where workers end instead of waiting, called by the first of them; returns what it
            is to say.

    Raises:
        UsageError: where the environment is not that of an elastic run.
        PeerError: where the run cannot go on: too few workers in time, or this one is no longer part of it, or another
            one found what would fail on all of them alike.
        Stopped: where it was to end while it waited for others.
    """
    commits = Commits()
    membership = _Membership(environ, commits, stopping, save)
    losses = _Losses()
    try:
        while True:
            with activity("meeting the other workers", waits_for_peers=True):
                backend = membership.join(options)
            try:
                share_newest(backend, commits)
                commits.defaults = next(filter(None, backend.gather(commits.defaults)), None)
                commits.change = _share_change(backend, commits.change)
                membership.is_whole()
                return attempt(backend, commits)
            except Stopped:
                with suppress(PeerError):  # it ends anyway
                    membership.leave(together=True)
                raise
            except Exception as error:
                commits.change = _change(error, backend)
                losses.count(commits)
            membership.leave(together=not commits.change.was_loss)
    except BaseException as error:
        membership.fail(error)
        raise
    finally:
        membership.close()


def _change(error: Exception, backend: HorovodBackend) -> Change:
    """The change that an error stands for; raises an error that stands for none."""
    is_agreed = isinstance(error, WorldChanged)
    if not is_agreed and not backend.lost_peer(error):
        raise error
    return Change(not is_agreed, backend.world.size, time.monotonic())


def _share_change(backend: HorovodBackend, change: Change | None) -> Change | None:
    """The change as the lowest rank that saw it tells; workers that have just been started saw none."""
    now_s = time.monotonic()
    told = backend.gather((change.was_loss, change.num_before, change.seconds) if change is not None else None)
    for was_loss, num_before, seconds in filter(None, told):
        return Change(was_loss, num_before, now_s - seconds)
    return None


class _Losses:
    """Counts losses in a row without a commit between: a run that only loses workers is to end."""

    def __init__(self) -> None:
        self._number = 0
        self._position: Position | None = None

    def count(self, commits: Commits) -> None:
        """After a change; raises PeerError where there were too many."""
        position = commits.last.position if commits.last else None
        is_another = commits.change is None or not commits.change.was_loss or position != self._position
        self._number, self._position = 1 if is_another else self._number + 1, position
        if self._number > MAX_LOSSES_WITHOUT_COMMIT:
            raise PeerError(f"workers were lost {self._number} times without a step between")


def share_newest(backend: HorovodBackend, commits: Commits) -> None:
    """Gives all workers the newest commit that any of them has; where none has one, there is none."""
    mine = commits.last
    described = None
    if mine is not None:
        described = _Described(mine.position, [(k, a.dtype, a.shape) for k, a in mine.arrays.items()])
    positions = list(backend.gather(mine.position if mine else None))
    newest = max((position for position in positions if position is not None), default=None)
    if newest is None:
        return
    root = positions.index(newest)
    described, about = hvd.broadcast_object((described, mine.about if mine else None), root_rank=root, name="commit")
    is_root = backend.world.rank == root
    arrays = {}
    for name, dtype, shape in described.arrays:
        sent = mine.arrays[name] if is_root and mine else np.empty(shape, dtype)
        arrays[name] = _broadcast(sent, root)
    commits.keep(Checkpoint(described.position, about, arrays))


@dataclass(frozen=True)
class _Described:
    """What a commit holds, without the numbers."""

    position: Position
    arrays: list[tuple[str, Any, tuple[int, ...]]]


def _broadcast(array: npt.NDArray[Any], root: int) -> npt.NDArray[Any]:
    """The array as it is on `root`; as bytes, since not every dtype can be sent, in pieces that fit into memory."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    received = np.empty_like(flat)
    for start in range(0, len(flat), PIECE_BYTES):
        piece = tf.constant(flat[start : start + PIECE_BYTES])
        received[start : start + PIECE_BYTES] = hvd.broadcast(piece, root_rank=root, name="commit_arrays").numpy()
    return received.view(array.dtype).reshape(array.shape)


class _Membership:
    """This worker's membership in one world after another."""

    def __init__(
        self,
        environ: Mapping[str, str],
        commits: Commits,
        stopping: Callable[[], bool],
        save: Callable[[Checkpoint], str],
    ) -> None:
        self._rendezvous = Rendezvous(environ)
        self._interface = environ.get("HOROVOD_GLOO_IFACE")
        self._gloo_timeout_s = int(environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS", GLOO_TIMEOUT_S))
        self._commits = commits
        self._stopping = stopping
        self._save = save
        self._rank = int(environ.get("HOROVOD_RANK", 0))
        self._backend: HorovodBackend | None = None
        self._sockets: Sockets = {}
        self._configured = False
        self._listens = False
        self._environ = dict(environ)  # Horovod's start changes it
        self._failed_starts, commits.last = handed_over(environ)

    def join(self, options: BackendOptions) -> HorovodBackend:
        """Meets the others and starts Horovod with them."""
        try:
            place = self._rendezvous.meet(self._stopping)
        except (PeerError, Stopped) as error:
            raise self._ending(error) from None
        self._commits.changed()  # before anything new can be told
        self._listen()
        self._backend = backend = self._start(place)
        self._rank = backend.world.rank
        self._commits.abandon = partial(self._abandon, backend, self._sockets)
        if not self._configured:  # TensorFlow takes its settings once; the local rank never changes
            configure_device(backend.world, options)
            self._configured = True
        return backend

    def _ending(self, error: PeerError | Stopped) -> PeerError | Stopped:
        """What ends this worker that `error` keeps from meeting the others; if it was stopped, the commit is kept.

        One that is stopped with others may also find that horovodrun has ended before it heard of it.
        """
        commit = self._commits.last
        if not self._stopping() or (isinstance(error, PeerError) and error.is_explained):
            return error
        if commit is not None and self._rendezvous.is_first_to_stop(commit.position, self._rank):
            return Stopped(self._save(commit), is_shared=False)
        return error if isinstance(error, Stopped) else Stopped(f"stopped: {error}")

    def _start(self, place: Place) -> HorovodBackend:
        before = open_sockets()
        timeout = {"HOROVOD_GLOO_TIMEOUT_SECONDS": str(self._gloo_timeout_s)}

        def find_sockets() -> None:
            self._sockets = {number: name for number, name in open_sockets().items() if before.get(number) != name}

        def begin_again() -> None:
            find_sockets()
            self._start_over()

        overdue = _timer(self._gloo_timeout_s, begin_again)  # with all there it takes a fraction of a second
        with calling_before_abort(begin_again):
            try:
                backend = start_horovod(place.settings | timeout)
            except ValueError as error:  # all that it says of a failed start
                begin_again()
                raise PeerError(f"Horovod could not be started {MAX_FAILED_STARTS} times in a row") from error
            finally:
                overdue.cancel()
        find_sockets()
        return backend

    def _start_over(self) -> None:
        """Starts this process over, or returns where that did not help several times in a row."""
        if self._failed_starts < MAX_FAILED_STARTS:
            self.cut()
            start_over(self._commits.last, self._environ, self._failed_starts + 1)

    def _abandon(self, backend: HorovodBackend, sockets: Sockets) -> None:
        """Cuts a world's connections, and starts this process over where it waits in that world all the same.

        Horovod can forget a collective: one that is begun just as its thread ends for a lost peer, when it has told
        those that waited, is never answered.
        """
        begun_s = time.monotonic()

        def look() -> None:
            if self._backend is backend and waits_for_peers() and last_progress_s() < begun_s:
                self._start_over()

        cut(sockets)
        _timer(STUCK_S, look)

    def is_whole(self) -> None:
        """Called once all workers of a world have answered each other: whatever failed before is over."""
        self._failed_starts = 0

    def cut(self) -> None:
        """Ends the connections to all other workers; a collective that waits for one fails at once, on both sides."""
        cut(self._sockets)
        self._sockets = {}

    def fail(self, error: BaseException) -> None:
        """Lets the others notice at once that this worker ends and, where they would fail alike, why."""
        if isinstance(error, _ENDS_ALL):
            self._rendezvous.fail(error.exit_code)
        self.cut()

    def leave(self, *, together: bool) -> None:
        """Ends Horovod, to start it anew; `together` where all workers do so now, so that it can end by itself.

        Horovod keeps its connections open after its end, and a peer that waits for one of them does so until Gloo's
        timeout; cut, they let everyone go on at once, but for one that is just then waiting to send.

        Raises:
            PeerError: where Horovod does not end.
        """
        ending = threading.Thread(target=hvd.shutdown, name="horovod-shutdown", daemon=True)
        if not together:
            self.cut()
        ending.start()
        ending.join(GRACE_S)
        self.cut()
        ending.join(2.0 * self._gloo_timeout_s)
        self._backend = None
        if ending.is_alive():
            raise PeerError("Horovod did not end after a worker was lost")

    def close(self) -> None:
        """Ends all that was begun; safe to call twice."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        if self._listens:
            notification_manager.remove_listener(self)
            self._listens = False
        self._rendezvous.close()

    def on_hosts_updated(self, timestamp: int, result: int) -> None:
        """Called by Horovod's listener, in a thread of its own, when hosts came or went."""
        self._commits.want_change()

    def _listen(self) -> None:
        if self._listens:
            return
        address, port = self._rendezvous.launcher
        notification_manager.init(address, port, self._interface, self._rendezvous.host, self._rendezvous.local_rank)
        notification_manager.register_listener(self)
        self._listens = True


def _timer(seconds: float, function: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
    return timer
