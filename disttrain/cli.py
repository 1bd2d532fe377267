"""The command `disttrain`: which subcommand runs, what its errors look like, and what it exits with.

0 done · 1 a fault in disttrain or in your model · 2 usage · 3 data · 4 storage · 5 non-finite loss ·
6 another worker failed · 7 a worker hung · 75 stopped by a signal, with a checkpoint written · 130 interrupted ·
143 terminated. See errors.py.
"""

from __future__ import annotations

import _thread
import difflib
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from disttrain.config.loading import Command, load_command
from disttrain.distributed.launched import launched_rank
from disttrain.errors import DisttrainError, PeerError, Stopped, UsageError, redacted
from disttrain.terminal import drop_unread_output

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
# How long a worker waits before it ends because another one did. A launcher stops it sooner, so that the error of the
# worker that failed is printed last. Without a launcher's help it still ends and, where the failed worker could not say
# why, says that it is gone.
PEER_GRACE_S = 5.0

# name -> the module whose COMMAND it is, imported when it is called
COMMANDS = {
    "train": "disttrain.run.command",
    "evaluate": "disttrain.scoring.evaluate",
    "predict": "disttrain.scoring.predict",
    "export": "disttrain.scoring.exporting.export",
    "inspect": "disttrain.run.inspect",
    "plan": "disttrain.run.plan",
    "simulate": "disttrain.run.simulate",
    "make-data": "disttrain.synthetic.command",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits; `arguments` are those of the process by default."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    drop_unread_output()
    rank = launched_rank(os.environ)
    name = words.pop(0) if words and words[0] in COMMANDS else "train"
    try:
        with _signals_raised():
            code = _run(name, words, rank)
    except KeyboardInterrupt:
        if not rank:
            print("disttrain: interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except _TerminatedError:
        if rank is None:  # a launcher sends SIGTERM when another worker failed, whose error is to be printed last
            print("disttrain: terminated", file=sys.stderr)
        code = EXIT_TERMINATED
    _leave(code)


def _raise_again(lost: sys.UnraisableHookArgs) -> None:
    """Raises a Ctrl-C or SIGTERM again that came in the middle of a callback, whose exceptions Python only prints."""
    if isinstance(lost.exc_value, KeyboardInterrupt | _TerminatedError):
        number = signal.SIGINT if isinstance(lost.exc_value, KeyboardInterrupt) else signal.SIGTERM
        threading.Timer(0.05, _thread.interrupt_main, (number,)).start()
    else:
        sys.__unraisablehook__(lost)


class _TerminatedError(BaseException):
    """Raised by the SIGTERM handler so that cleanup runs."""


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Makes SIGTERM raise an exception, as Ctrl-C does, so that half-written files are removed before the end."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = _raise_again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        sys.unraisablehook = before[1]


def _run(name: str, words: list[str], rank: int | None) -> int:
    try:
        is_word = name == "train" and bool(words) and not words[0].startswith("-")
        if is_word and (close := difflib.get_close_matches(words[0], COMMANDS, n=1)):
            raise UsageError(f"{words[0]}: there is no such command; did you mean {close[0]}?")
        environ = dict(os.environ)  # a copy: TensorFlow and Horovod change it
        command: Command[Any] = importlib.import_module(COMMANDS[name]).COMMAND
        config = load_command(command, words, environ)
    except DisttrainError as error:  # in the options, which all ranks share: printed once
        if rank:
            time.sleep(PEER_GRACE_S)  # else the launcher might end the leader before it has printed it
        else:
            _say(error, None)
        return error.exit_code
    try:
        command.run(config, environ)
    except DisttrainError as error:
        rank = launched_rank(os.environ)  # an elastic run may have changed it
        if isinstance(error, PeerError):
            time.sleep(PEER_GRACE_S)
        if not _is_said_by_another(error, rank):
            _say(error, rank)
        return error.exit_code
    except Exception:
        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        return 1
    return 0


def _is_said_by_another(error: DisttrainError, rank: int | None) -> bool:
    """Returns whether another worker prints the error: the one that failed, or the leader where all stop alike."""
    if isinstance(error, PeerError):
        return error.is_explained
    return isinstance(error, Stopped) and error.is_shared and bool(rank)


def _say(error: DisttrainError, rank: int | None) -> None:
    where = "" if rank is None else f" rank {rank}:"
    lines = str(error).splitlines()
    if "--overwrite" in str(error) and "KUBERNETES_SERVICE_HOST" in os.environ:
        lines.append(
            "in a pod, which may be created again, --overwrite would start over each time: choose another DISTTRAIN_RUN"
        )
    for line in lines:
        print(f"disttrain:{where} {line}", file=sys.stderr)


def _leave(code: int) -> NoReturn:
    """Ends the process at once: after a failure, exit handlers would wait for workers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0:
        sys.exit(0)
    os._exit(code)
