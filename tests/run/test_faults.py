"""Runs survive kills, full disks, damaged files and lost connections: no row is lost, and none is used twice."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from command import history
from faults import PATIENCE_S, Run, assert_same_end, checkpoints, read, row_counts, run, timeless_history, write_data

from disttrain.checkpoints.file import position_of

FILES = ("data", "validation")
OPTIONS = (
    "--data", "data.csv", "--validation-data", "validation.csv", "--batch-size", 10, "--num-shards", 4,
    "--steps-per-execution", 5, "--shuffle", "global", "--epochs", 10, "--checkpoint-every", 10,
    "--model", "counting:counted", "--callbacks", "counting:slow",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    write_data(directory)
    return directory


@pytest.fixture(scope="module")
def whole(place):
    """An undisturbed run."""
    run(place, *OPTIONS, "--output", "whole")
    return place / "whole"


# -- killed with SIGKILL, which no process can answer

IN_THE_START = "importing, opening, indexing or compiling"
# A moment of a run's life, and how many seconds after it begins a kill may come.
MOMENTS = {
    IN_THE_START: (lambda run, at: True, 7.0),
    "when the index is kept": (lambda run, at: any((at / "cache").rglob("*.*")), 0.05),
    "in the first step": (lambda run, at: "Compiled" in run.text(), 0.1),
    "in an epoch": (lambda run, at: "(trains" in run.text(), 0.5),
    "while a checkpoint is written": (lambda run, at: any((at / "run" / "checkpoints").glob(".*.part")), 0.002),
    "while it validates": (lambda run, at: "(validates" in run.text(), 0.03),
    "at an epoch's end": (lambda run, at: "(ends" in run.text(), 0.05),
}


def killed_again_and_again(directory, moments, sizes, seed, *options):
    """Kills a random rank at each of these moments, resuming with a new run after each; lets the last run end.

    `sizes` are the numbers of workers of all runs, including the last one.
    """
    chance = random.Random(seed)
    *sizes, last_size = [size if size > 1 else None for size in sizes]
    options = (*OPTIONS, *options, "--output", "run", "--resume", "auto")
    for name, processes in zip(moments, sizes, strict=True):
        shutil.rmtree(directory / "cache", ignore_errors=True)
        reached, spread_s = MOMENTS[name]
        is_cold = name == IN_THE_START
        victim = Run(directory, *options, processes=processes, cold=is_cold, HOLD_AT="ends 10")  # never ends by itself
        try:
            if processes:
                victim.wait_until(
                    lambda run=victim, size=processes: len(run.workers()) == size, "all workers started", poll_s=0.1
                )
            victim.wait_until(lambda run=victim, reached=reached: reached(run, directory), name)
            time.sleep(chance.uniform(0, spread_s))
            pid = chance.choice(victim.workers()) if processes else victim.process.pid
            os.kill(pid, signal.SIGKILL)
            assert victim.process.wait(PATIENCE_S) != 0, victim.text()
        finally:
            victim.close()
    run(directory, *options, processes=last_size)
    return directory / "run"


def a_chain(tmp_path, name, moments, sizes, seed, *options):
    (tmp_path / name).mkdir()
    write_data(tmp_path / name)
    return killed_again_and_again(tmp_path / name, moments, sizes, seed, *options)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 13 runs, two at a time
def test_a_run_that_is_killed_at_eight_moments_ends_as_one_that_never_was(tmp_path, place, whole):
    """Kills 6 runs of one process and 2 of two workers, at other moments each time; all use the same rows a step."""
    chance, names = random.Random(time.time_ns()), list(MOMENTS)
    seeds = [chance.randrange(10**6) for _ in range(3)]
    print("seeds", seeds)
    alone = [chance.sample(names * 2, 3) for _ in range(2)]
    several = chance.sample(names, 2)
    of_several = ("--collective", chance.choice(("compiled", "horovod")))
    print(*of_several)
    with ThreadPoolExecutor(2) as threads:
        of_two = threads.submit(run, place, *OPTIONS, *of_several, "--output", "whole2", processes=2)
        chains = [
            *(threads.submit(a_chain, tmp_path, f"alone{n}", alone[n], [1] * 4, seeds[n]) for n in range(2)),
            threads.submit(a_chain, tmp_path, "two", several, [2] * 3, seeds[2], *of_several),
        ]
        of_two.result()
        for chain, processes in zip(chains, (1, 1, 2), strict=True):
            ended = chain.result()
            assert_same_end(ended, place / "whole2" if processes > 1 else whole)
            assert (row_counts(ended) * processes == 10).all()


@pytest.mark.slow
def test_a_run_of_three_shards_that_is_killed_at_three_moments_goes_on_each_time_with_another_number_of_workers(
    tmp_path, place
):
    seed = time.time_ns()
    chance = random.Random(seed)
    moments, sizes = chance.sample(list(MOMENTS), 3), [chance.choice((1, 2, 3))]
    while len(sizes) <= len(moments):
        sizes.append(chance.choice([size for size in (1, 2, 3) if size != sizes[-1]]))
    print("seed", seed, list(zip(sizes, moments, strict=False)))
    options = ("--num-shards", 3, "--model", "counting:weighed")
    run(place, *OPTIONS, *options, "--output", "weighed")
    ended = a_chain(tmp_path, "moved", moments, sizes, seed, *options)
    assert (row_counts(ended) == 10).all()
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history(ended)[name], history(place / "weighed")[name], rtol=1e-5)


# -- places that are full


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place):
    """Leaves no free byte in a file system."""
    with (place / "filler").open("ab", buffering=0) as filler:
        for size in (4096, 1):
            with suppress(OSError):
                while filler.write(b"x" * size):
                    pass


@pytest.mark.slow
def test_a_disk_that_gets_full_costs_checkpoints_but_not_the_run(place, small_disk):
    options = (*OPTIONS, "--output", "full", "--checkpoint-dir", small_disk / "kept", "--keep", 3)
    going = Run(place, *options, HOLD_AT="validates 1")
    going.wait_for("held)")
    going.wait_until(lambda: len(checkpoints(small_disk / "kept")) == 3, "three checkpoints")
    fill(small_disk)
    going.release()
    kept = checkpoints(small_disk / "kept")
    told = going.finish()
    assert re.search(r"A checkpoint was not written: \S+\.ckpt: cannot be written: No space left on device", told)
    left = checkpoints(small_disk / "kept")
    assert left[-1] >= kept[-1]
    assert [read(path).position.epoch for path in left]
    assert not list((small_disk / "kept").glob(".*"))
    assert (row_counts(place / "full") == 10).all()


@pytest.mark.slow
def test_a_full_disk_for_the_results_is_a_clear_error(place, small_disk):
    going = Run(place, *OPTIONS, "--output", small_disk / "run", "--checkpoint-dir", "elsewhere", HOLD_AT="ends 1")
    going.wait_for("held)")
    fill(small_disk)
    going.release()
    told = going.finish(4)
    assert re.search(r"disttrain: \S+/(metrics.jsonl|history.csv): cannot be written: No space left on device", told)
    assert "Traceback" not in told


# -- damage, as a power cut may leave it


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over_and_never_loaded(place, whole):
    """The newest is truncated and the one before has a flipped bit: the third is used, and the results are the same."""
    stopped = Run(place, *OPTIONS, "--output", "damaged", "--keep", 3, HOLD_AT="validates 2")
    stopped.wait_for("held)")
    stopped.wait_until(lambda: len(checkpoints(place / "damaged" / "checkpoints")) >= 3, "three checkpoints")
    stopped.process.kill()
    stopped.finish(-signal.SIGKILL)
    third, second, newest = checkpoints(place / "damaged" / "checkpoints")[-3:]
    os.truncate(newest, random.randrange(newest.stat().st_size))
    damaged = bytearray(second.read_bytes())
    damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    second.write_bytes(damaged)
    told = run(place, *OPTIONS, "--output", "damaged", "--keep", 3)
    for path in (newest, second):
        assert re.search(rf"Passed over checkpoint {path.name}: \w.*", told), told
    position = position_of(third.name)
    assert f"Going on from the checkpoint of epoch {position.epoch}, step {position.step}\n" in told
    assert_same_end(place / "damaged", whole)


@pytest.mark.slow
def test_where_all_checkpoints_are_damaged_the_run_ends_and_removes_nothing(place, whole):
    shutil.copytree(whole, place / "hopeless")
    for path in checkpoints(place / "hopeless" / "checkpoints"):
        os.truncate(path, path.stat().st_size // 2)
    before = {path: path.read_bytes() for path in (place / "hopeless").rglob("*") if path.is_file()}
    told = run(place, *OPTIONS, "--output", "hopeless", "--epochs", 11, code=2)
    assert told.count("Passed over checkpoint") == 2
    assert "has no usable checkpoint; --overwrite starts over" in told
    assert {path: path.read_bytes() for path in (place / "hopeless").rglob("*") if path.is_file()} == before


# -- a store that is gone for half a minute


class Proxy:
    """Passes connections on to a server, until it is told to refuse them."""

    def __init__(self, target: int) -> None:
        self._target = target
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._open: list[socket.socket] = []
        self.accepts()

    def accepts(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._server,), daemon=True).start()

    def refuses(self) -> None:
        """Refuses new connections and cuts the existing ones."""
        for connection in (self._server, *self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _serve(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client = server.accept()[0]
                target = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, target]
                for pair in ((client, target), (target, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_a_store_that_refuses_for_half_a_minute_delays_the_run(place, whole, s3):
    proxy = Proxy(int(s3.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    environ = s3.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
    named = {f"{name}.csv": s3.put(f"outage/{name}.csv", (place / f"{name}.csv").read_bytes()) for name in FILES}
    options = [named.get(option, option) for option in OPTIONS]
    try:
        options += ["--output", "outage", "--checkpoint-dir", s3.url("outage/kept")]
        going = Run(place, *options, HOLD_AT="validates 2", **environ)
        going.wait_for("held)")
        proxy.refuses()
        going.release()
        time.sleep(30)
        assert going.process.poll() is None, going.text()
        proxy.accepts()
        told = going.finish()
    finally:
        proxy.refuses()
    assert "A checkpoint was not written" not in told
    assert timeless_history(place / "outage") == timeless_history(whole)
    kept = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="outage/kept/")["Contents"]
    assert sorted(item["Key"] for item in kept)[-1] == "outage/kept/epoch-00010-step-000000051.ckpt"
