"""Elastic runs: training that goes on from the last commit, in the same process, when workers are lost or join.

`horovodrun --min-np ... --host-discovery-script ...` starts workers on hosts as they appear, and sets HOROVOD_ELASTIC
for them. When a worker is lost, a collective fails on all others. When hosts come or go, `horovodrun` tells one of the
workers. In both cases all workers shut down Horovod, meet (see rendezvous.py), start Horovod again in another world,
agree on the newest commit, and train on from there.
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
from disttrain.elastic.rendezvous import Rendezvous, WorldAssignment
from disttrain.errors import DataError, NonFiniteError, PeerError, Stopped, UsageError

T = TypeVar("T")

PIECE_BYTES = 16 << 20
# How long Gloo waits for a peer. Its default of 30 s allows for peers that are still starting; here all have started.
# Horovod's threads answer within milliseconds, whatever training does.
GLOO_TIMEOUT_S = 10
GRACE_S = 3.0
STUCK_S = 10.0  # in a collective whose connections were cut: one that still can fail does so within milliseconds
MAX_LOSSES_WITHOUT_COMMIT = 10
MAX_FAILED_STARTS = 5
# Errors that all workers would end with, one after the other, if they went on.
_ENDS_ALL = (UsageError, DataError, NonFiniteError)


def run_elastic(
    attempt: Callable[[HorovodBackend, Commits], T],
    environ: Mapping[str, str],
    options: BackendOptions,
    *,
    stopping: Callable[[], bool] = lambda: False,
    save: Callable[[Checkpoint], str] = lambda commit: "stopped",
) -> T:
    """Calls `attempt` in one world after another until it returns.

    Args:
        attempt: trains from `commits.last`, which is the same on all workers (None: from the beginning), and keeps
            commits. When it raises WorldChanged, or the error of a lost peer, it is called again; `commits.change` says
            why. Where it raises Stopped on some workers and WorldChanged on all others, the others go on without the
            stopped ones.
        environ: what `horovodrun` set.
        options: the device and threads of this worker.
        stopping: returns whether this worker is to end instead of waiting for others.
        save: saves the last commit where workers end instead of waiting, and returns the message of Stopped; called by
            the first of them.

    Raises:
        UsageError: if the environment is not that of an elastic run.
        PeerError: if the run cannot go on: there are too few workers in time, this one is no longer part of the run, or
            another one met an error that all would meet.
        Stopped: if it was to end while it waited for others.
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
    """Returns the change of world that an error stands for; raises the error again if it stands for none."""
    is_agreed = isinstance(error, WorldChanged)
    if not is_agreed and not backend.lost_peer(error):
        raise error
    return Change(not is_agreed, backend.world.size, time.monotonic())


def _share_change(backend: HorovodBackend, change: Change | None) -> Change | None:
    """Returns the change as reported by the lowest rank that saw it; workers that have just been started saw none."""
    now_s = time.monotonic()
    told = backend.gather((change.was_loss, change.num_before, change.seconds) if change is not None else None)
    for was_loss, num_before, seconds in filter(None, told):
        return Change(was_loss, num_before, now_s - seconds)
    return None


class _Losses:
    """Counts losses in a row with no commit in between, so that a run that only loses workers ends."""

    def __init__(self) -> None:
        self._number = 0
        self._position: Position | None = None

    def count(self, commits: Commits) -> None:
        """Counts a change of world; raises PeerError after too many losses without a commit."""
        position = commits.last.position if commits.last else None
        is_another = commits.change is None or not commits.change.was_loss or position != self._position
        self._number, self._position = 1 if is_another else self._number + 1, position
        if self._number > MAX_LOSSES_WITHOUT_COMMIT:
            raise PeerError(f"workers were lost {self._number} times without a step between")


def share_newest(backend: HorovodBackend, commits: Commits) -> None:
    """Gives all workers the newest commit that any of them has; does nothing if none has one."""
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
    """What a commit holds, without the numbers: its position, and the name, dtype and shape of each array."""

    position: Position
    arrays: list[tuple[str, Any, tuple[int, ...]]]


def _broadcast(array: npt.NDArray[Any], root: int) -> npt.NDArray[Any]:
    """Returns the array of `root`; sent as bytes, since not every dtype can be sent, in pieces that fit into memory."""
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
        self._environ = dict(environ)  # a copy: Horovod's start changes the environment
        self._failed_starts, commits.last = handed_over(environ)

    def join(self, options: BackendOptions) -> HorovodBackend:
        """Meets the others and starts Horovod with them."""
        try:
            assignment = self._rendezvous.meet(self._stopping)
        except (PeerError, Stopped) as error:
            raise self._ending(error) from None
        self._commits.changed()  # before Horovod can report the next change
        self._listen()
        self._backend = backend = self._start(assignment)
        self._rank = backend.world.rank
        self._commits.abandon = partial(self._abandon, backend, self._sockets)
        if not self._configured:  # TensorFlow takes its settings once; the local rank never changes
            configure_device(backend.world, options)
            self._configured = True
        return backend

    def _ending(self, error: PeerError | Stopped) -> PeerError | Stopped:
        """Returns the error to end with after `error` kept this worker from the others; saves the commit if stopped.

        When several workers are stopped together, this one may see horovodrun end before its own stop is known.
        """
        commit = self._commits.last
        if not self._stopping() or (isinstance(error, PeerError) and error.is_explained):
            return error
        if commit is not None and self._rendezvous.is_first_to_stop(commit.position, self._rank):
            return Stopped(self._save(commit), is_shared=False)
        return error if isinstance(error, Stopped) else Stopped(f"stopped: {error}")

    def _start(self, assignment: WorldAssignment) -> HorovodBackend:
        before = open_sockets()
        timeout = {"HOROVOD_GLOO_TIMEOUT_SECONDS": str(self._gloo_timeout_s)}

        def find_sockets() -> None:
            self._sockets = {number: name for number, name in open_sockets().items() if before.get(number) != name}

        def begin_again() -> None:
            find_sockets()
            self._start_over()

        overdue = _timer(self._gloo_timeout_s, begin_again)  # once all are there, it takes a fraction of a second
        with calling_before_abort(begin_again):
            try:
                backend = start_horovod(assignment.settings | timeout)
            except ValueError as error:  # what Horovod raises for a failed start, whatever the cause
                begin_again()
                raise PeerError(f"Horovod could not be started {MAX_FAILED_STARTS} times in a row") from error
            finally:
                overdue.cancel()
        find_sockets()
        return backend

    def _start_over(self) -> None:
        """Starts this process over; returns if that has already failed several times in a row."""
        if self._failed_starts < MAX_FAILED_STARTS:
            self.cut()
            start_over(self._commits.last, self._environ, self._failed_starts + 1)

    def _abandon(self, backend: HorovodBackend, sockets: Sockets) -> None:
        """Cuts a world's connections, and starts this process over if it still waits in that world afterwards.

        Horovod can forget a collective. When its thread ends because of a lost peer, it fails the collectives that
        wait; one that begins just after that is never answered.
        """
        begun_s = time.monotonic()

        def look() -> None:
            if self._backend is backend and waits_for_peers() and last_progress_s() < begun_s:
                self._start_over()

        cut(sockets)
        _timer(STUCK_S, look)

    def is_whole(self) -> None:
        """Resets the count of failed starts; called once all workers of a world have answered each other."""
        self._failed_starts = 0

    def cut(self) -> None:
        """Ends the connections to all other workers; a collective that waits for one fails at once, on both sides."""
        cut(self._sockets)
        self._sockets = {}

    def fail(self, error: BaseException) -> None:
        """Makes the others notice at once that this worker ends; tells them why, if they would fail alike."""
        if isinstance(error, _ENDS_ALL):
            self._rendezvous.fail(error.exit_code)
        self.cut()

    def leave(self, *, together: bool) -> None:
        """Ends Horovod before it is started again; `together`: all workers do so now, so that it can end by itself.

        Horovod leaves its connections open when it ends, and a peer that waits on one of them waits until Gloo's
        timeout. Once they are cut, every peer goes on at once, except one that is waiting to send at that moment.

        Raises:
            PeerError: if Horovod does not end.
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
        """Ends Horovod, its listener and the leader's server; safe to call twice."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        if self._listens:
            notification_manager.remove_listener(self)
            self._listens = False
        self._rendezvous.close()

    def on_hosts_updated(self, timestamp: int, result: int) -> None:
        """Records that hosts came or went; called by Horovod's listener, in a thread of its own."""
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
