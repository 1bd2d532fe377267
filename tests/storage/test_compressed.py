"""Compressed files: any range of what they hold, to the byte; torn ones are named; the work of opening is kept."""

import bz2
import gzip
import lzma
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import zstandard

from disttrain.errors import DataError, StorageError
from disttrain.storage import compressed, remote, unpacking
from disttrain.storage.open import check_unchanged, open_content, stat
from disttrain.storage.remote import RemoteReader

HOW = {
    ".gz": partial(gzip.compress, compresslevel=1),
    ".bz2": partial(bz2.compress, compresslevel=1),
    ".xz": partial(lzma.compress, preset=0),
    ".zst": zstandard.compress,
}


@pytest.fixture(scope="module")
def content() -> bytes:
    drawn = random.Random(5)
    return b"".join(b"%d,%d\n" % (number, drawn.randrange(10**6)) for number in range(300_000))


@pytest.fixture(scope="module", params=HOW)
def file(request, content, tmp_path_factory) -> Path:
    """One file in two parts, as tools that compress in parallel write them."""
    compress = HOW[request.param]
    path = tmp_path_factory.mktemp("compressed") / f"a.csv{request.param}"
    middle = len(content) // 3
    path.write_bytes(compress(content[:middle]) + compress(content[middle:]))
    return path


def ranges(content, count):
    drawn = random.Random(6)
    starts = [drawn.randrange(len(content)) for _ in range(count)]
    return [(0, 1), (len(content) - 1, len(content)), *((start, min(start + 70_000, len(content))) for start in starts)]


def read(reader, start, stop):
    buffer = bytearray(stop - start)
    reader.read_into(start, memoryview(buffer))
    return bytes(buffer)


def test_any_range_is_read_by_any_thread(file, content, tmp_path):
    with open_content(str(file), tmp_path) as reader:
        assert reader.info.size_bytes == len(content)
        assert reader.info.fingerprint == stat(str(file)).fingerprint
        check_unchanged(reader.info)
        with ThreadPoolExecutor(6) as pool:
            wanted = ranges(content, 60)
            found = list(pool.map(lambda span: read(reader, *span), wanted))
        assert found == [content[start:stop] for start, stop in wanted]
        assert (
            b"".join(read(reader, at, min(at + 99_999, len(content))) for at in range(0, len(content), 99_999))
            == content
        )


def test_what_was_found_out_is_kept_until_the_file_changes(file, content, tmp_path, monkeypatch):
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    passes = []
    read_all, unpack = compressed.EnteredReader._read_to_the_end, unpacking.unpacked_blocks

    def blocks(*arguments):
        passes.append(1)  # when the first block is asked for
        yield from unpack(*arguments)

    monkeypatch.setattr(compressed.EnteredReader, "_read_to_the_end", lambda *a: passes.append(1) or read_all(*a))
    monkeypatch.setattr(compressed, "unpacked_blocks", blocks)
    for _ in range(2):
        with open_content(str(copy), tmp_path / "kept") as reader:
            assert read(reader, 1_000_000, 1_000_100) == content[1_000_000:1_000_100]
    assert len(passes) == 1
    copy.write_bytes(HOW[file.suffix](b"x\n1\n"))
    with open_content(str(copy), tmp_path / "kept") as reader:
        assert read(reader, 0, 4) == b"x\n1\n"
    assert len(passes) == 2


@pytest.mark.parametrize("cut", [-1, -5, -9, -2000, "half", "garbage", "other garbage", "nothing", "text"])
def test_a_torn_file_is_named(file, tmp_path, capfd, cut):
    whole = file.read_bytes()
    bad = tmp_path / file.name
    spoilt = {
        "half": whole[: len(whole) // 2],
        "garbage": whole + b"1,2\n" * 10,
        "other garbage": whole + b"\x1f\x8b" + b"\0" * 30 + b"7",
        "nothing": b"",
        "text": b"x,y\n1,2\n" * 100,
    }
    bad.write_bytes(spoilt[cut] if isinstance(cut, str) else whole[:cut])
    with pytest.raises(DataError, match=rf"^{bad}: .*write or copy it again$"):
        open_content(str(bad), tmp_path)


@pytest.mark.parametrize("suffix", HOW)
def test_a_flipped_bit_is_noticed_when_the_file_is_first_opened(content, tmp_path, suffix):
    whole = (
        zstandard.ZstdCompressor(write_checksum=True).compress(content) if suffix == ".zst" else HOW[suffix](content)
    )
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    path = tmp_path / f"a{suffix}"
    path.write_bytes(flipped)
    with pytest.raises(DataError, match=r"cannot be decompressed|is torn"):
        open_content(str(path), tmp_path)


def test_damaged_entries_are_made_anew(content, tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(content, 1))
    open_content(str(path), tmp_path / "kept").close()
    (entries,) = (tmp_path / "kept/entries").glob("*.bytes")
    for size in (entries.stat().st_size // 2, 0):
        entries.write_bytes(entries.read_bytes()[:size])
        with open_content(str(path), tmp_path / "kept") as reader:
            assert read(reader, 1_000_000, 1_000_010) == content[1_000_000:1_000_010]


def test_a_store_that_fails_below_gzip_is_a_storage_error(content, tmp_path, s3, monkeypatch):
    url = s3.put("compressed/failing.csv.gz", gzip.compress(content, 1))
    read_into = RemoteReader.read_into

    def fail(reader, offset, buffer):
        if offset:
            raise StorageError("the store is gone")
        read_into(reader, offset, buffer)

    monkeypatch.setattr(RemoteReader, "read_into", fail)
    monkeypatch.setattr(remote, "REMOTE_BLOCK_BYTES", 1 << 16)
    with pytest.raises(StorageError, match="the store is gone"):
        open_content(url, tmp_path)


def test_what_was_unpacked_is_removed_if_nobody_uses_it(content, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.zst").write_bytes(HOW[".zst"](content))
    for name in ("a", "b"):
        open_content(str(tmp_path / f"{name}.zst"), tmp_path / "kept").close()
    for about in (tmp_path / "kept" / "unpacked").glob("*.json"):
        os.utime(about, (1, 1))
    open_content(str(tmp_path / "b.zst"), tmp_path / "kept").close()  # in use
    open_content(str(tmp_path / "c.zst"), tmp_path / "kept").close()
    assert len(list((tmp_path / "kept" / "unpacked").glob("*.bytes"))) == 2


def test_padding_of_xz_is_no_garbage(content, tmp_path):
    part = lzma.compress(content[:1000])
    (tmp_path / "a.xz").write_bytes(part + b"\0" * 8 + part + b"\0" * 4)
    with open_content(str(tmp_path / "a.xz"), tmp_path) as reader:
        assert reader.info.size_bytes == 2000


@pytest.mark.parametrize("suffix", HOW)
def test_a_compressed_nothing_is_an_empty_file(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(HOW[suffix](b""))
    with open_content(str(tmp_path / f"a{suffix}"), tmp_path) as reader:
        assert reader.info.size_bytes == 0


def test_an_object_of_a_store(file, content, tmp_path, s3):
    url = s3.put(f"compressed/{file.name}", file.read_bytes())
    with open_content(url, tmp_path) as reader:
        assert [read(reader, *span) for span in ranges(content, 5)] == [
            content[start:stop] for start, stop in ranges(content, 5)
        ]


def test_no_thread_is_left(file, tmp_path):
    before = threading.active_count()
    reader = open_content(str(file), tmp_path)
    read(reader, 0, 100)
    reader.close()
    reader.close()
    assert threading.active_count() == before
