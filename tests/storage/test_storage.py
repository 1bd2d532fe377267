"""Byte ranges of local files, of an S3 server and of HTTP servers that behave well, badly or not at all."""

import errno
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from disttrain.errors import FileChanged, StorageError, UsageError
from disttrain.storage.base import Patience
from disttrain.storage.local import atomic_write
from disttrain.storage.open import check_unchanged, open_reader, stat

CONTENT = bytes(range(256)) * 40_000  # 10 MB: several of the pieces in which a store is read
QUICK = Patience(attempts=3, attempt_s=1.0, total_s=4.0)


def read(reader, start, stop):
    buffer = bytearray(stop - start)
    reader.read_into(start, memoryview(buffer))
    return bytes(buffer)


RANGES = [
    (0, 0),  # nothing
    (0, 1),  # the first byte
    (len(CONTENT) - 1, len(CONTENT)),  # the last
    (12_345, 9_876_543),  # more than one piece
    (0, len(CONTENT)),  # all
]


def assert_ranges(url):
    with open_reader(url) as reader:
        assert reader.info.size_bytes == len(CONTENT)
        assert reader.info == stat(url)
        for start, stop in RANGES:
            assert read(reader, start, stop) == CONTENT[start:stop]
    reader.close()  # a second time does nothing


def test_a_local_file_is_read_by_ranges(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT)
    assert_ranges(str(path))
    assert_ranges(f"file://{path}")


def test_a_tilde_stands_for_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_bytes(CONTENT)
    assert_ranges("~/a.csv")


def test_any_filesystem_of_fsspec_is_read_by_ranges():
    import fsspec

    fsspec.filesystem("memory").pipe("/dir/a.csv", CONTENT)
    assert_ranges("memory://dir/a.csv")


def test_an_object_of_s3_is_read_by_ranges(s3):
    assert_ranges(s3.put("ranges/a.csv", CONTENT))


def test_what_is_no_readable_file_is_a_usage_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for url, found in [
        (f"{tmp_path}/none.csv", "no such file"),
        (f"{tmp_path}", "is a directory"),
        (f"{tmp_path}/pipe", "not a regular file"),
        (f"{tmp_path}/a.csv.zip", "unpack it"),
        ("memory://none.csv", "no such file"),
        ("memory://dir", "is a directory"),
        ("nosuch://a.csv", "nosuch"),
    ]:
        import fsspec

        fsspec.filesystem("memory").pipe("/dir/a.csv", b"")
        for function in (stat, open_reader):
            with pytest.raises(UsageError, match=found) as caught:
                function(url)
            assert url in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_missing_object_is_a_usage_error(s3):
    for url in (s3.url("none.csv"), "s3://no-such-bucket/none.csv"):
        with pytest.raises(UsageError, match="no such file"):
            stat(url)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_usage_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(UsageError, match="permission denied"):
        open_reader(str(path))


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    program = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from disttrain.errors import UsageError; from disttrain.storage.open import stat\n"
        "try: stat('s3://bucket/a.csv')\n"
        "except UsageError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'disttrain[s3]'" in done.stdout


def test_a_changed_file_is_noticed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT)
    with open_reader(str(path)) as reader:
        check_unchanged(reader.info)
        os.utime(path, ns=(1, 1))
        with pytest.raises(FileChanged, match="changed while it was being read"):
            check_unchanged(reader.info)
        path.write_bytes(CONTENT[:100])
        with pytest.raises(FileChanged, match="became shorter"):
            read(reader, 50, 200)


def test_a_changed_object_is_noticed(s3):
    info = stat(s3.put("changed.csv", b"1,2\n"))
    s3.put("changed.csv", b"1,2\n")
    check_unchanged(info)  # the same content has the same ETag
    s3.put("changed.csv", b"1,3\n")
    with pytest.raises(FileChanged):
        check_unchanged(info)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a"
    with atomic_write(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    with pytest.raises(TypeError), atomic_write(path) as stream:
        stream.write("second")
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_without_room_for_a_new_file_is_a_storage_error(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("disttrain.storage.local.open", refuse, raising=False)
    with (
        pytest.raises(StorageError, match=f"a: cannot be written: {os.strerror(number)}"),
        atomic_write(tmp_path / "a"),
    ):
        pass


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written"), atomic_write(tmp_path / "file" / "a"):
        pass


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how the server behaves."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.send_file(200, CONTENT, len(CONTENT), body=False)

    def do_GET(self):
        self.server.requests.append(self.path)
        start, stop = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = CONTENT[start : stop + 1]
        failing = self.server.requests.count(self.path) <= 2
        match self.path.split("/")[1]:
            case "good":
                self.send_file(206, part, len(part))
            case "whole":
                self.send_file(200, CONTENT, len(CONTENT))
            case "short":
                self.send_file(206, part[:-1], len(part) - 1)
            case "busy-at-first" if failing:
                self.send_error(503)
            case "cut-at-first" if failing:
                self.send_file(206, part[: len(part) // 2], len(part))
                self.close_connection = True
            case "busy":
                self.send_error(503)
            case "silent":
                self.server.released.wait(30)
                self.close_connection = True
            case "gone":
                self.send_error(404)
            case _:
                self.send_file(206, part, len(part))

    def send_file(self, status, content, length, body=True):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"one"')
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def http():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_with_ranges_is_read_by_ranges(http):
    assert_ranges(f"{http}/good/a.csv")


@pytest.mark.parametrize("how", ["busy-at-first", "cut-at-first"])
def test_a_passing_failure_is_survived_however_many_attempts_it_takes(http, how):
    with open_reader(f"{http}/{how}/a.csv", patience=Patience(attempts=1)) as reader:
        assert read(reader, 100, 1000) == CONTENT[100:1000]


NEVER = [
    ("whole", "does not serve byte ranges"),  # no range support: the answer would be the whole file
    ("short", "asked for 900 bytes, got 899"),
    ("busy", "503"),
    ("silent", "3 attempts"),
]


@pytest.mark.parametrize(("how", "found"), NEVER)
def test_a_lasting_failure_is_an_error_in_bounded_time(http, how, found):
    started = time.monotonic()
    url = f"{http}/{how}/a.csv"
    with open_reader(url, patience=QUICK) as reader, pytest.raises(StorageError, match=found) as caught:
        read(reader, 100, 1000)
    assert url in str(caught.value)
    assert time.monotonic() - started < QUICK.total_s + 2


def test_a_vanished_file_is_an_error_at_once(http):
    with open_reader(f"{http}/gone/a.csv") as reader, pytest.raises(FileChanged, match="no longer there"):
        read(reader, 0, 10)


def test_closing_wakes_a_thread_that_waits(http):
    caught = []

    def wait():
        try:
            read(reader, 0, 10)
        except StorageError as error:
            caught.append(str(error))

    with open_reader(f"{http}/silent/a.csv") as reader:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
    thread.join(5)
    assert not thread.is_alive()
    assert "closed" in caught[0]
