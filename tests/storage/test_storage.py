"""Byte ranges of local files and of objects; what cannot be read or written; test_store_faults.py has the faults."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from stores import proxied

from disttrain.errors import FileChanged, StorageError, UsageError
from disttrain.storage.joined import JoinedReader
from disttrain.storage.local import atomic_write
from disttrain.storage.open import check_unchanged, open_reader, stat

CONTENT = bytes(range(256)) * 40_000  # 10 MB: several of the pieces in which a store is read


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


def test_a_file_that_is_opened_while_all_are_closed_does_not_stay_open(tmp_path):
    paths = [str(tmp_path / name) for name in ("0.csv", "1.csv")]
    opened = []
    for path in paths:
        (tmp_path / path).write_bytes(b"1,2")

    def open_late(url):
        opened.append(open_reader(url))
        if url == paths[1]:
            joined.close()  # as the main thread does when it has found a fault in the first file
        return opened[-1]

    joined = JoinedReader("both", [stat(path) for path in paths], [0, 0], open_late)
    assert read(joined, 0, 4) == b"1,2\n"
    for _ in range(2):
        with pytest.raises(StorageError, match=r"1\.csv: was closed while it was being read"):
            read(joined, 4, 8)
    for reader in opened:
        with pytest.raises(StorageError, match="reading at byte 0 failed"):
            read(reader, 0, 1)


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


@pytest.fixture
def proxy(s3):
    """A proxy before the S3 server, which this process reaches through it."""
    s3.put("proxied/a.csv", CONTENT)
    with proxied(s3) as proxy:
        yield proxy


def test_a_vanished_object_is_an_error_at_once(s3, proxy):
    with open_reader(s3.url("proxied/a.csv")) as reader:
        s3.client().delete_object(Bucket=s3.bucket, Key="proxied/a.csv")
        with pytest.raises(FileChanged, match="no longer there"):
            read(reader, 0, 10)


def test_closing_wakes_a_thread_that_waits(s3, proxy):
    caught = []

    def wait():
        try:
            read(reader, 0, 10)
        except StorageError as error:
            caught.append(str(error))

    with open_reader(s3.url("proxied/a.csv")) as reader:
        proxy.faults("stalled", lambda request: request.is_read)
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
    thread.join(5)
    assert not thread.is_alive()
    assert "closed" in caught[0]
