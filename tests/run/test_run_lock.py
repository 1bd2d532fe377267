"""One run at a time in a directory: a second run is told who holds the lock; a killed run's lock is taken over."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from command import command_line, disttrain, environment, regression_rows, write_csv

from disttrain.errors import UsageError
from disttrain.run.lock import RECORD, Holder, Pace, RunLock
from disttrain.watchdog.processes import this_process

QUICK = Pace(beat_s=0.1, stale_s=1.0, settle_s=0.2)


def elsewhere(token="theirs", beat=0):
    """A holder on another machine."""
    process = replace(this_process(), host="another", machine="another machine")
    return Holder(process, "2026-01-02 03:04:05", token, beat=beat)


def quiet(message):
    raise AssertionError(message)


@pytest.fixture(params=["disk", "store"])
def url(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "runs" / "a")
    return request.getfixturevalue("s3").url(f"lock-{os.getpid()}-{time.time_ns()}")


def lock(url, say=quiet, **options):
    return RunLock(url, say, pace=QUICK, **options)


def test_who_holds_a_directory_is_named_until_it_lets_it_go(url):
    with lock(url):
        me = re.escape(str(this_process()))
        with pytest.raises(
            UsageError, match=rf"is in use by another run \({me}, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\)"
        ):
            lock(url)
    lock(url).close()


def test_a_directory_that_was_made_for_nothing_is_removed(tmp_path):
    lock(str(tmp_path / "runs" / "a")).close()
    assert not (tmp_path / "runs").exists()
    held = lock(str(tmp_path / "runs" / "b"))
    (tmp_path / "runs" / "b" / "model.keras").touch()
    held.close()
    held.close()
    assert os.listdir(tmp_path / "runs" / "b") == ["model.keras"]


@pytest.mark.slow
def test_a_killed_holder_is_taken_over_at_once_and_that_is_said(tmp_path):
    program = (
        "import sys; from disttrain.run.lock import RunLock as Lock; Lock(sys.argv[1], print); print('held'); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-uc", program, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"pid {holder.pid}"):
        lock(str(tmp_path / "a"))
    os.kill(holder.pid, signal.SIGSTOP)  # it may go on
    with pytest.raises(UsageError, match=f"pid {holder.pid}"):
        lock(str(tmp_path / "a"))
    holder.kill()
    holder.wait()
    for stream in (holder.stdin, holder.stdout):
        stream.close()
    said = []
    begun_s = time.monotonic()
    with lock(str(tmp_path / "a"), said.append):
        assert time.monotonic() - begun_s < QUICK.stale_s
    (message,) = said
    assert re.search(rf"was held by host .*, pid {holder.pid}, since .*, which is gone; taken over", message)


def put(tmp_path, holder):
    (tmp_path / "a").mkdir(exist_ok=True)
    part = tmp_path / "a" / ".record"
    part.write_bytes(holder.to_json())
    part.rename(tmp_path / "a" / RECORD)


def test_a_holder_on_another_machine_is_known_by_whether_it_gives_signs(tmp_path):
    stopping = threading.Event()

    def beat():
        number = 0
        while not stopping.wait(0.1):
            number += 1
            put(tmp_path, elsewhere(beat=number))

    put(tmp_path, elsewhere())
    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(UsageError, match=r"host another, pid \d+, since 2026-01-02 03:04:05"):
        lock(str(tmp_path / "a"))
    stopping.set()
    thread.join()
    said = []
    with lock(str(tmp_path / "a"), said.append):
        assert "host another" in said[0]


def test_of_two_that_come_at_once_one_is_refused(url):
    held, refused = [], []
    both = threading.Barrier(2)

    def come():
        both.wait()
        try:
            held.append(lock(url))
        except UsageError as error:
            refused.append(error)

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)
    held[0].close()


def test_one_that_was_taken_over_learns_of_it(tmp_path):
    lost = threading.Event()
    with lock(str(tmp_path / "a"), on_loss=lambda holder: lost.set()):
        put(tmp_path, elsewhere())
        assert lost.wait(10)
    assert Holder.from_json((tmp_path / "a" / RECORD).read_bytes()) == elsewhere()  # it is not removed


def test_a_worker_of_the_same_elastic_launch_takes_over_without_a_word(tmp_path):
    first = lock(str(tmp_path / "a"), launch="host:1", on_loss=lambda holder: None)
    with lock(str(tmp_path / "a"), launch="host:1"):
        first.close()
        assert (tmp_path / "a" / RECORD).exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"process": 3}', b"\xff\x00", b'{"process": {}, "x": 1}'])
def test_a_record_that_is_none_is_in_nobodys_way(tmp_path, text):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / RECORD).write_bytes(text)
    lock(str(tmp_path / "a")).close()


@pytest.mark.slow
def test_a_second_run_is_refused_and_after_a_kill_taken_over(tmp_path):
    write_csv(tmp_path / "a.csv", *regression_rows(20_000))
    arguments = ["--data", "a.csv", "--output", "run", "--epochs", 100_000]
    first = subprocess.Popen(
        command_line(*arguments), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    try:
        while "epoch 3/" not in first.stdout.readline():
            pass
        for options in ([], ["--learning-rate", 0.1, "--overwrite"], ["--resume", "run"]):
            second = disttrain(tmp_path, *arguments, *options)
            assert second.returncode == 2, second.stdout
            assert f"run: is in use by another run (host {this_process().host}, pid {first.pid}, since" in second.stderr
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    third = disttrain(tmp_path, *arguments[:4], "--epochs", 5)
    assert third.returncode == 0, third.stderr
    assert f"pid {first.pid}" in third.stdout
    assert "taken over" in third.stdout
    assert not (tmp_path / "run" / RECORD).exists()
