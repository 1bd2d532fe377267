"""A store of checkpoints: the newest whole one is always found, and arithmetic decides which are kept."""

import contextlib
import errno
import logging
import os
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from command import ROOT
from hypothesis import given
from hypothesis import strategies as st

from disttrain.checkpoints.file import Checkpoint, Position, file_name, position_of
from disttrain.checkpoints.store import CheckpointStore, names_to_remove
from disttrain.errors import CheckpointError, NewerFormat, StorageError, UsageError
from disttrain.storage.base import Patience

QUICK = Patience(attempts=2, attempt_s=5.0, total_s=10.0)


def at(epoch, step=0, **about):
    return Checkpoint(Position(epoch, step), about, {"w": np.full(100, epoch * 1000 + step, np.float32)})


def refuse(name, reason):
    pytest.fail(f"{name} was refused: {reason}")


@pytest.fixture(params=["local", "s3", "memory"])
def place(request, tmp_path):
    """The URL of a directory that does not exist yet."""
    if request.param == "s3":
        return request.getfixturevalue("s3").url(tmp_path.name)
    return str(tmp_path / "new" / "checkpoints") if request.param == "local" else f"memory://{tmp_path.name}/a"


def test_what_was_saved_is_found_again(place):
    with CheckpointStore(place, keep=2) as store:
        assert store.names() == []
        assert store.newest(refuse) is None
        url = store.save(at(1, 10, seed=7))
        assert url == f"{place}/epoch-00001-step-000000010.ckpt"
        store.save(at(2), {"loss": 0.5})
        store.save(at(1, 20))
    with CheckpointStore(place + "/", keep=2) as again:
        assert again.names() == [file_name(Position(1, 20)), file_name(Position(2, 0))]
        newest = again.newest(refuse)
        assert newest.position == Position(2, 0)
        assert newest.about == {"values": {"loss": 0.5}}
        np.testing.assert_array_equal(newest.arrays["w"], np.full(100, 2000, np.float32), strict=True)
        assert again.load(file_name(Position(1, 20))).arrays["w"][0] == 1020
        assert again.load(again.url_of(file_name(Position(1, 20)))).position == Position(1, 20)
    again.close()  # a second time does nothing


def test_the_newest_and_the_best_stay(place):
    losses = [0.5, 0.2, 0.3, 0.2, float("nan"), 0.4, 0.35]
    with CheckpointStore(place, keep=2, best_by=("val_loss", "min")) as store:
        for epoch, loss in enumerate(losses, 1):
            store.save(at(epoch), {"val_loss": loss, "loss": 1 / epoch})
        assert [position_of(name).epoch for name in store.names()] == [2, 6, 7]
    with CheckpointStore(place, keep=1, best_by=("val_loss", "min")) as again:  # reads the values in the files
        again.save(at(7, 500))
        assert [position_of(name) for name in again.names()] == [Position(2, 0), Position(7, 500)]
        again.save(at(8), {"val_loss": 0.1})
        assert [position_of(name).epoch for name in again.names()] == [8]


def test_what_is_further_goes_on_request(place):
    with CheckpointStore(place, keep=9) as store:
        for epoch in (1, 2, 3):
            store.save(at(epoch))
        store.remove_after(Position(1, 5))
        assert [position_of(name).epoch for name in store.names()] == [1]
        store.remove_after(None)
        assert store.names() == []


def test_a_torn_checkpoint_is_passed_over_with_the_reason(place, tmp_path, s3):
    with CheckpointStore(place, keep=3) as store:
        for epoch in (1, 2, 3):
            store.save(at(epoch))
        names = store.names()
        cut_short(store.url_of(names[2]), s3)
        refused = []
        assert store.newest(lambda *told: refused.append(told)).position == Position(2, 0)
        assert [name for name, _ in refused] == [names[2]]
        assert refused[0][1].startswith("is torn: ")
        with pytest.raises(CheckpointError, match="is torn"):
            store.load(names[2])
        store.save(at(2, 7))  # an incomplete checkpoint does not displace a whole one
        assert [position_of(name) for name in store.names()] == [Position(epoch, 0) for epoch in (1, 2)] + [
            Position(2, 7),
            Position(3, 0),
        ]
        store.save(at(3))
        assert store.newest(refuse).position == Position(3, 0)
        assert len(store.names()) == 3


def test_a_newer_disttrains_checkpoint_ends_the_search(tmp_path):
    """It may be whole, so it is neither skipped nor removed for being further than the checkpoint that was loaded."""
    with CheckpointStore(str(tmp_path), keep=3) as store:
        for epoch in (1, 2):
            store.save(at(epoch))
        path = tmp_path / file_name(Position(2, 0))
        path.write_bytes(path.read_bytes().replace(b"checkpoint format 1", b"checkpoint format 2"))
        with pytest.raises(NewerFormat, match=f"{path.name}: was written by a newer disttrain .*: upgrade, or name"):
            store.newest(refuse)


def test_a_disk_that_cannot_be_read_ends_the_search(tmp_path, monkeypatch):
    with CheckpointStore(str(tmp_path), keep=3) as store:
        for epoch in (1, 2):
            store.save(at(epoch))

        def fail(*arguments):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(StorageError, match=r"reading at byte 0 failed.*; if it keeps failing, remove it"):
            store.newest(refuse)


def cut_short(url, s3):
    import fsspec

    if url.startswith("s3://"):
        key = url.split("/", 3)[3]
        client = s3.client()
        content = client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
        client.put_object(Bucket=s3.bucket, Key=key, Body=content[:-1])
    else:
        with fsspec.open(url, "rb") as stream:
            content = stream.read()
        with fsspec.open(url, "wb") as stream:
            stream.write(content[:-1])


EPOCHS = st.lists(st.integers(1, 50), unique=True, min_size=1)
LOSSES = st.sampled_from([0.1, 0.2, 0.3, float("inf"), float("nan")])


@given(EPOCHS, st.data(), st.integers(1, 5), st.sampled_from(["min", "max"]))
def test_what_goes_is_neither_new_nor_best_nor_just_written(epochs, data, keep, mode):
    names = [file_name(Position(epoch, 0)) for epoch in epochs]
    just_written = data.draw(st.sampled_from(names))
    values = data.draw(st.dictionaries(st.sampled_from(names), LOSSES))
    gone = names_to_remove([*names, "notes.txt"], just_written, keep=keep, values=values, mode=mode)
    stay = set(names) - set(gone)
    newest = sorted(names)[-keep:]
    known = [value for value in values.values() if value == value]
    best = (min if mode == "min" else max)(known, default=None)
    assert stay >= {just_written, *newest}
    assert best is None or best in {values.get(name) for name in stay}
    assert len(stay) <= keep + 2
    assert set(gone) <= set(names)


def test_what_a_killed_writer_left_is_removed(tmp_path):
    name = file_name(Position(1, 0))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    parts = {  # by writer: ended; in another container, with our process id; alive; alive but not writing
        f".{name}.{ended.pid}-00ff.part": False,
        f".{name}.{os.getpid()}-00ff.part": False,
        f".{name}.{os.getppid()}-00ff.part": True,
        f".{name}.{os.getppid()}-00fe.part": False,
        ".notes.txt.1-00ff.part": True,  # none of ours
    }
    for part in parts:
        (tmp_path / part).write_bytes(b"PK")
    os.utime(tmp_path / f".{name}.{os.getppid()}-00fe.part", (1, 1))
    store = CheckpointStore(str(tmp_path), keep=1)
    assert store.newest(refuse) is None
    assert len(os.listdir(tmp_path)) == len(parts)  # who only reads removes nothing
    store.save(at(2))
    assert {part for part in parts if (tmp_path / part).exists()} == {part for part, stays in parts.items() if stays}


def test_other_files_in_the_directory_are_left_alone(place, tmp_path):
    with CheckpointStore(str(tmp_path), keep=1) as store:
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / (file_name(Position(1, 0)) + ".bak")).write_text("mine")
        store.save(at(1))
        store.save(at(2))
        assert len(os.listdir(tmp_path)) == 3


def test_a_full_disk_is_an_error_and_the_one_before_stays(tmp_path):
    """A limit on file sizes, in a process of its own, simulates a full disk."""
    program = (
        "import resource, sys, numpy as np\n"
        "from disttrain.checkpoints.file import Checkpoint, Position\n"
        "from disttrain.checkpoints.store import CheckpointStore\n"
        "from disttrain.errors import StorageError\n"
        "store = CheckpointStore(sys.argv[1], keep=1)\n"
        "store.save(Checkpoint(Position(1, 0), {}, {'w': np.zeros(100)}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: store.save(Checkpoint(Position(2, 0), {}, {'w': np.zeros(100_000)}))\n"
        "except StorageError as error: print(error)"
    )
    command = [sys.executable, "-c", program, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    name = file_name(Position(2, 0))
    assert done.stdout == f"{tmp_path}/{name}: cannot be written: File too large\n"
    assert os.listdir(tmp_path) == [file_name(Position(1, 0))]
    assert CheckpointStore(str(tmp_path), keep=1).newest(refuse).position == Position(1, 0)


def test_a_place_that_cannot_be_a_directory_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/a: cannot be listed: Not a directory"):
        CheckpointStore(str(tmp_path / "file" / "a"), keep=1).save(at(1))
    with pytest.raises(UsageError, match="cannot be listed: Not a directory"):
        CheckpointStore(str(tmp_path / "file"), keep=1).newest(refuse)


def test_a_missing_bucket_is_an_error_that_names_it(s3):
    store = CheckpointStore("s3://no-such-bucket/run", keep=1, patience=QUICK)
    assert store.newest(refuse) is None
    with pytest.raises(UsageError, match="s3://no-such-bucket/run: there is no such bucket"):
        store.save(at(1))


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_an_error_and_nothing_is_passed_over(s3, monkeypatch):
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    patient = Patience(attempts=2, attempt_s=1.0, total_s=3.0)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = CheckpointStore(s3.url("silent"), keep=1, patience=patient)
    for call in (lambda: store.newest(refuse), lambda: store.save(at(1))):
        with pytest.raises(StorageError, match=r"the store did not .*: [12] attempts"):
            call()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


class Forward(socketserver.BaseRequestHandler):
    """Passes a connection on to the server's `target`."""

    def handle(self):
        with socket.create_connection(self.server.target) as target:
            back = threading.Thread(target=self.pump, args=(target, self.request))
            back.start()
            self.pump(self.request, target)
            back.join()

    def pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_a_store_that_comes_back_gets_the_checkpoint(s3, monkeypatch):
    """The port refuses all connections for three seconds: it is taken, but nobody listens there."""
    import fsspec

    host, port = s3.environ["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    door = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward, bind_and_activate=False)
    door.target, door.daemon_threads = (host, int(port)), True
    door.server_bind()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{door.server_address[1]}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    opening = threading.Timer(3.0, lambda: (door.server_activate(), door.serve_forever(0.05)))
    opening.start()
    begun_s = time.monotonic()
    CheckpointStore(s3.url("back"), keep=1).save(at(1))
    assert time.monotonic() - begun_s >= 2.9
    assert CheckpointStore(s3.url("back"), keep=1).newest(refuse).position == Position(1, 0)
    door.shutdown()
    opening.join()
    door.server_close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_many_small_arrays_come_in_few_requests(s3):
    arrays = {f"w{i:04d}": np.full(i % 7, i, np.float32) for i in range(1000)}
    with CheckpointStore(s3.url("many"), keep=1) as store:
        store.save(Checkpoint(Position(1, 0), {}, arrays))
        begun_s = time.monotonic()
        found = store.newest(refuse).arrays
        assert time.monotonic() - begun_s < 5  # a request takes some 10 ms of this server
    assert [array.tolist() for array in found.values()] == [array.tolist() for array in arrays.values()]


@pytest.mark.slow
def test_a_checkpoint_of_several_parts_is_whole_in_s3(s3):
    large = Checkpoint(Position(1, 0), {}, {"w": np.arange(30_000_000, dtype=np.float32)})  # above the limit of one PUT
    with CheckpointStore(s3.url("large"), keep=1) as store:
        store.save(large)
        np.testing.assert_array_equal(store.newest(refuse).arrays["w"], large.arrays["w"])


def test_checkpoints_that_cannot_be_removed_are_told_of_once(tmp_path, caplog):
    with CheckpointStore(str(tmp_path), keep=1) as store:
        (tmp_path / file_name(Position(1, 0))).mkdir()  # what no unlink removes
        for epoch in (2, 3):
            store.save(at(epoch))
        assert store.newest(refuse).position == Position(3, 0)
    assert [(record.levelno, record.getMessage()[:33]) for record in caplog.records] == [
        (logging.WARNING, "old checkpoints were not removed:")
    ]


WRITES_FOR_EVER = (
    "import itertools, sys, numpy as np\n"
    "from disttrain.checkpoints.file import Checkpoint, Position\n"
    "from disttrain.checkpoints.store import CheckpointStore\n"
    "store = CheckpointStore(sys.argv[1], keep=2)\n"
    "newest = store.newest(lambda name, reason: sys.exit(f'{name} {reason}'))\n"
    "first = newest.position.step + 1 if newest else 0\n"
    "print('begun', flush=True)\n"
    "for step in itertools.count(first):\n"
    "    store.save(Checkpoint(Position(1, step), {}, {'w': np.full(1_000_000, step, np.int32)}))\n"
    "    print(step, flush=True)\n"
)


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path):
    """Each process goes on after the one before it, which kill -9 ended at a random moment."""
    moments = random.Random(4)
    saved = -1
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, tmp_path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"begun\n"
            time.sleep(moments.uniform(0, 0.3))
            writer.send_signal(signal.SIGKILL)
            told = [int(line) for line in writer.stdout.read().split()]
        saved = max([saved, *told])
        newest = CheckpointStore(str(tmp_path), keep=2).newest(refuse)
        assert (newest.position.step if newest else -1) in (saved, saved + 1)  # it may die before it tells
        saved = newest.position.step if newest else saved
        assert newest is None or (newest.arrays["w"] == saved).all()
    assert saved > 0
    assert sum(name.endswith(".part") for name in os.listdir(tmp_path)) <= 1
    assert len(CheckpointStore(str(tmp_path), keep=2).names()) in (2, 3)
