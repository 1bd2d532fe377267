"""Records what each thread of this process is doing and since when, for the watchdog; a record costs a microsecond."""

from __future__ import annotations

import sys
import sysconfig
import threading
from dataclasses import dataclass
from time import monotonic
from types import FrameType, TracebackType

from disttrain.errors import redacted

_LIBRARIES = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = __file__.rpartition("/")[0]


@dataclass(frozen=True)
class Activity:
    """What a thread is doing, since `since_s` on the monotonic clock."""

    thread: str
    text: str
    since_s: float
    waits_for_peers: bool
    waits_for_threads: bool


class _Named:
    """One `with activity(...)`; its text is formatted only when it is asked for."""

    __slots__ = ("_text", "_values", "_where", "since_s", "waits_for_peers", "waits_for_threads")

    def __init__(self, text: str, values: tuple[object, ...], waits_for_peers: bool, waits_for_threads: bool) -> None:
        self._text = text
        self._values = values
        self.waits_for_peers = waits_for_peers
        self.waits_for_threads = waits_for_threads
        self.since_s = 0.0

    @property
    def text(self) -> str:
        return self._text.format(*self._values) if self._values else self._text

    def __enter__(self) -> None:
        try:
            self._where = _local.record
        except AttributeError:
            self._where = _register()
        self.since_s = self._where.moved_s = monotonic()
        self._where.stack.append(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack = self._where.stack
        if stack[-1] is self:
            stack.pop()
        else:  # left out of order, by a generator that was not run to its end
            stack.remove(self)
        self._where.moved_s = monotonic()


class _Thread:
    """A thread that has named an activity: its activities, the innermost last, and when it last made progress."""

    __slots__ = ("moved_s", "stack", "thread")

    def __init__(self, thread: threading.Thread) -> None:
        self.thread = thread
        self.stack: list[_Named] = []
        self.moved_s = monotonic()


_local = threading.local()
_threads: dict[int, _Thread] = {}  # by the thread's identifier, which a new thread may take over from one that ended
_position: list[tuple[int, int] | None] = [None]


def _register() -> _Thread:
    thread = threading.current_thread()
    _local.record = _threads[threading.get_ident()] = _Thread(thread)
    return _threads[threading.get_ident()]


def activity(text: str, *values: object, waits_for_peers: bool = False, waits_for_threads: bool = False) -> _Named:
    """Names what the calling thread does inside a `with` statement; entering and leaving count as progress.

    So it belongs around a loop of retries, not inside: a retry is no progress.

    Args:
        text: follows "while": `reading bytes {} to {} of {}`, a template of `str.format` where there are values.
        values: formatted into the text only if it is shown, so that a hot path pays nothing for it.
        waits_for_peers: only other workers can end it, as with an all-reduce; a worker is never blamed for it.
        waits_for_threads: other threads of this process do the work; what they are doing is shown, and their progress
            counts.
    """
    return _Named(text, values, waits_for_peers, waits_for_threads)


def touch() -> None:
    """Records that the calling thread makes progress, for long loops inside one activity."""
    try:
        _local.record.moved_s = monotonic()
    except AttributeError:
        _register()


def note_position(epoch: int, step: int) -> None:
    """Records that `step` steps of this epoch (from 1) are done; counts as progress."""
    _position[0] = (epoch, step)
    touch()


def position() -> tuple[int, int] | None:
    """Returns the epoch and its steps done, as last recorded."""
    return _position[0]


def current_activities() -> list[Activity]:
    """Returns the innermost activity of every thread that has one: the main thread's first, then the oldest first."""
    found = []
    for ident, record in list(_threads.items()):
        if not record.thread.is_alive():
            _threads.pop(ident, None)
        elif (named := _innermost(record)) is not None:
            found.append((record.thread is not threading.main_thread(), named.since_s, record.thread.name, named))
    found.sort(key=lambda one: one[:3])
    return [
        Activity(name, named.text, since_s, named.waits_for_peers, named.waits_for_threads)
        for _, since_s, name, named in found
    ]


def last_progress_s() -> float:
    """Returns when the main thread, or a thread that it waits for, last made progress; on the monotonic clock."""
    main = _main()
    named = _innermost(main)
    if named is None or not named.waits_for_threads:
        return main.moved_s
    return max(record.moved_s for record in list(_threads.values()))


def waits_for_peers() -> bool:
    """Returns whether the main thread only waits for other workers."""
    named = _innermost(_main())
    return named is not None and named.waits_for_peers


def describe() -> str:
    """Returns what this process is doing, to follow "while": what the main thread does, or a thread it waits for."""
    return redacted(_describe())


def _describe() -> str:
    main = _main()
    named = _innermost(main)
    if named is None:
        return f"running {main_place()}"
    if not named.waits_for_threads:
        return named.text if named.waits_for_peers else f"{named.text}, at {main_place()}"
    workers = [one for one in current_activities() if one.thread != main.thread.name and not one.waits_for_threads]
    return f"{named.text}: {workers[0].text}" if workers else named.text


def main_place() -> str:
    """Returns where the main thread is: the innermost line of Python that is not in a library."""
    innermost = frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or innermost
    return "nothing any more" if frame is None else _show(frame)


def _is_library(path: str) -> bool:
    return path.startswith(_LIBRARIES) and not path.startswith(_OWN)


def _show(frame: FrameType) -> str:
    name = frame.f_code.co_filename.rsplit("/", 1)[-1]
    return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"


def _main() -> _Thread:
    main = threading.main_thread()
    if main.ident not in _threads:
        _threads[main.ident or 0] = _Thread(main)
    return _threads[main.ident or 0]


def _innermost(record: _Thread) -> _Named | None:
    try:
        return record.stack[-1]
    except IndexError:
        return None
