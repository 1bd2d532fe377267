"""Keeps TensorFlow's start-up messages off the screen: its native code prints two that no log level silences."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_messages_held(wanted: bool) -> Iterator[None]:
    """Holds back what is written to file descriptor 2, and lets it out only if the block raises.

    Args:
        wanted: leave everything as it is; for whoever sets TF_CPP_MIN_LOG_LEVEL to see the messages.
    """
    if wanted:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    screen = os.dup(2)
    with open(os.memfd_create("messages"), "w+b") as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
