"""Signals that ask a run to stop."""

import queue
import signal
import threading

import pytest

from disttrain.training.stop_signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks_and_is_told_in_a_thread_of_its_own(number):
    """The main thread may be in the middle of a print."""
    told = queue.Queue()
    before = signal.getsignal(number)
    with StopSignals(lambda name: told.put((name, threading.current_thread()))) as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
        name, thread = told.get(timeout=10)
    assert name == number.name
    assert thread is not threading.main_thread()
    assert signal.getsignal(number) is before
