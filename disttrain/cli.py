"""The command `disttrain`: which subcommand runs, what its errors look like, and what it exits with.

0 done · 1 a fault in disttrain or in your model · 2 usage · 3 data · 4 storage · 5 non-finite loss ·
6 another worker failed · 7 a worker hung · 75 stopped by a signal, with a checkpoint written · 130 interrupted ·
143 terminated. See errors.py.
"""

from __future__ import annotations

import difflib
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from disttrain.activity import activity
from disttrain.config import MakeDataConfig, TrainConfig
from disttrain.errors import DisttrainError, PeerError, Stopped, UsageError
from disttrain.native_messages import native_messages_held
from disttrain.options import build_parser, load
from disttrain.redaction import redacted
from disttrain.storage import local_path, stat
from disttrain.unread import drop_unread_output
from disttrain.watching.starting import StartTimer
from disttrain.world import launched_by, launched_elastic, launched_rank

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
# How long a worker waits before it ends because another one did: the launcher stops it sooner, so that the error of the
# worker that failed stands last. Without a launcher's help it still ends, and where that worker could not say why, says
# that it is gone.
PEER_GRACE_S = 5.0

TRAIN = "Trains a Keras model on a CSV, one worker or many: horovodrun -np 4 python -m disttrain --data FILE"
MAKE_DATA = "Writes regression data as CSV: one feature gives y = x, more give a smooth function of them."
EPILOG = """Every option is also read from the environment as DISTTRAIN_NAME (DISTTRAIN_BATCH_SIZE=500)
and from the TOML file of --config (batch_size = 500). The command line wins over the environment,
and the environment over the file.

Exit codes: 2 usage, 3 data, 4 storage, 5 non-finite loss, 6 another worker failed,
7 a worker hung, 75 stopped by a signal with a checkpoint written (the same command
goes on from there), 130 interrupted, 143 terminated.

disttrain make-data FILE writes data to train on; see disttrain make-data --help."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits; `arguments` are those of the process by default."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    drop_unread_output()
    rank = launched_rank(os.environ)
    command = words.pop(0) if words and words[0] in COMMANDS else "train"
    try:
        with _termination_raised():
            code = _run(command, words, rank)
    except KeyboardInterrupt:
        if not rank:
            print("disttrain: interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except _TerminatedError:
        if rank is None:  # a launcher does it when another worker failed, and that one's error stands last
            print("disttrain: terminated", file=sys.stderr)
        code = EXIT_TERMINATED
    _leave(code)


class _TerminatedError(BaseException):
    """SIGTERM came."""


@contextmanager
def _termination_raised() -> Iterator[None]:
    """Makes SIGTERM an exception, so that what is half written is taken back before the process ends."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(command: str, words: list[str], rank: int | None) -> int:
    try:
        is_word = command == "train" and bool(words) and not words[0].startswith("-")
        if is_word and (close := difflib.get_close_matches(words[0], COMMANDS, n=1)):
            raise UsageError(f"{words[0]}: there is no such command; did you mean {close[0]}?")
        work = COMMANDS[command](words, dict(os.environ))  # as it was given: TensorFlow and Horovod change it
    except DisttrainError as error:  # in the options, which are every rank's: said once
        if rank:
            time.sleep(PEER_GRACE_S)  # else the launcher might end rank 0 before it has said it
        else:
            _say(error, None)
        return error.exit_code
    try:
        work()
    except DisttrainError as error:
        rank = launched_rank(os.environ)  # in an elastic run not always the one that it began with
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
    """A worker that failed explains itself, and where all stop alike the first says so."""
    if isinstance(error, PeerError):
        return error.is_explained
    return isinstance(error, Stopped) and error.is_shared and bool(rank)


def _train(words: list[str], environ: Mapping[str, str]) -> Callable[[], None]:
    config = load(TrainConfig, build_parser(TrainConfig, "disttrain", TRAIN, EPILOG), words, environ)

    def work() -> None:
        if launched_rank(environ) is None:  # several workers look together
            for url in filter(None, (config.data, config.validation_data)):
                if local_path(url) is not None:
                    stat(url)
        with _start_timer(config, environ) as timer:
            held = native_messages_held("TF_CPP_MIN_LOG_LEVEL" in environ)
            with held, _garbage_left(), activity("importing TensorFlow"):
                from disttrain.run import run_training  # takes seconds: only when it is needed
            run_training(config, environ, timer.stop)

    return work


def _start_timer(config: TrainConfig, environ: Mapping[str, str]) -> StartTimer:
    """One that ends a worker of Horovod's; where others meet, the waiting itself ends."""
    is_timed = launched_by(environ) == "horovod" and not launched_elastic(environ)
    return StartTimer(launched_rank(environ) or 0, config.timeout if is_timed else 0)


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Looks for no garbage among the millions of objects that importing TensorFlow makes, then or later: all are kept.

    Takes 0.6 s off the 2.6 s of the import.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _make_data(words: list[str], environ: Mapping[str, str]) -> Callable[[], None]:
    config = load(MakeDataConfig, build_parser(MakeDataConfig, "disttrain make-data", MAKE_DATA), words, environ)

    def work() -> None:
        from disttrain.makedata import Recipe, make_data
        from disttrain.reporting.files import file_progress

        recipe = Recipe(config.rows, config.features, config.noise, config.seed)
        with file_progress(f"writing {config.file}", config.rows) as on_progress:
            make_data(config.file, recipe, overwrite=config.overwrite, on_progress=on_progress)

    return work


COMMANDS = {"train": _train, "make-data": _make_data}


def _say(error: DisttrainError, rank: int | None) -> None:
    where = "" if rank is None else f" rank {rank}:"
    lines = str(error).splitlines()
    if "--overwrite" in str(error) and "KUBERNETES_SERVICE_HOST" in os.environ:
        lines.append(
            "in a pod, which may be made again, --overwrite would start anew each time: take another DISTTRAIN_RUN"
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
