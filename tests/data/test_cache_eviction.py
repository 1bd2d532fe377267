"""The directory of an epoch cache: which entries are removed to make room, and what is said if there is none."""

import json
import logging
import os

import pytest
from streaming import FILES, assert_same_bits, epoch_rows, table

from disttrain.data import cache_eviction
from disttrain.data.cache_eviction import ABOUT, entries
from disttrain.data.csv.source import Source
from disttrain.data.ranges import Range
from disttrain.data.row_cache import open_cache
from disttrain.errors import UsageError

ENTRY_BYTES = 500 * 2 * 4


def make_entries(open_csv, kept, names, **options):
    for place, name in enumerate(names):
        source = open_csv(FILES["header"](table(500)), name=name)
        with open_cache(kept, source, **options) as cache:
            epoch_rows(source, cache)
            path = cache.path
        os.utime(path / ABOUT, ns=(place + 1, place + 1))
    return open_csv(FILES["header"](table(500)), name="new.csv")


def cached_files(kept):
    return [os.path.basename(json.loads((entry.path / ABOUT).read_text())["file"]) for entry in entries(kept)]


def entry_room(kept):
    return max(entry.size_bytes for entry in entries(kept))


def test_what_was_used_longest_ago_goes_first(open_csv, kept):
    new = make_entries(open_csv, kept, ["b.csv", "a.csv", "c.csv"])
    room = entry_room(kept)  # in whole blocks of the disk
    with open_cache(kept, new, limit_bytes=3 * room) as cache:
        assert cached_files(kept) == ["a.csv", "c.csv", "new.csv"]
        epoch_rows(new, cache)
    again = open_csv(FILES["header"](table(500)), name="a.csv")  # written anew, so no longer in the cache
    with open_cache(kept, again, limit_bytes=2 * room):
        assert cached_files(kept) == ["new.csv", "a.csv"]


def test_using_an_entry_makes_it_the_last_to_go(open_csv, kept):
    new = make_entries(open_csv, kept, ["a.csv", "b.csv"])
    with (
        Source.open(new.url.replace("new", "a"), cache_dir=kept / "index") as used,
        open_cache(kept, used) as cache,
    ):
        assert cache.num_rows == 500
    with open_cache(kept, new, limit_bytes=2 * entry_room(kept)):
        assert cached_files(kept) == ["a.csv", "new.csv"]


def test_what_is_in_use_stays(open_csv, kept, caplog):
    new = make_entries(open_csv, kept, ["a.csv", "b.csv"])
    room = entry_room(kept)
    with Source.open(new.url.replace("new", "a"), cache_dir=kept / "index") as used, open_cache(kept, used):
        with open_cache(kept, new, limit_bytes=2 * room):
            assert cached_files(kept) == ["a.csv", "new.csv"]
        assert open_cache(kept, new, limit_bytes=room) is None
        assert cached_files(kept) == ["a.csv", "new.csv"]  # nothing goes where that would not be enough
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"limit_bytes": ENTRY_BYTES - 1}, "it needs 4 kB, and the limit leaves 4 kB"),
        ({"limit_bytes": 1}, "it needs 4 kB, and the limit leaves 1 B"),
        ({"planned": Range(0, 10**14)}, "it needs 800 TB more, and the disk has"),
    ],
)
def test_without_room_a_run_goes_on_after_one_warning(open_csv, kept, caplog, options, says):
    source = open_csv(FILES["header"](table(500)))
    assert open_cache(kept, source, **options) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("not using the cache in ")
    assert says in record.getMessage()
    assert entries(kept) == []
    rows, _ = epoch_rows(source, None)
    assert_same_bits(rows, table(500))


def test_rows_of_other_shards_that_are_there_already_count_too(open_csv, kept, caplog):
    values = table(8192)
    source = open_csv(FILES["header"](values))
    half = Range(0, 4096)
    with open_cache(kept, source, planned=half) as cache:
        cache.write(0, values[:4096])
    room = entry_room(kept)
    for _ in range(2):  # what is there need not be written again
        with open_cache(kept, source, planned=half, limit_bytes=room) as cache:
            assert cache.num_rows == 4096
    assert open_cache(kept, source, planned=Range(4000, 8192), limit_bytes=2 * room - 1) is None
    assert "it needs 65.5 kB, and the limit leaves 65.5 kB" in caplog.text
    with open_cache(kept, source, planned=Range(4000, 8192), limit_bytes=2 * room) as cache:
        (own,) = entries(kept)
        assert (cache.num_rows, own.planned_bytes) == (4096, 2 * room)


def test_a_directory_that_cannot_be_made_is_refused(open_csv, tmp_path):
    source = open_csv(FILES["header"](table(10)))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--cache .*file/kept: cannot be written: .*; name another directory"):
        open_cache(tmp_path / "file" / "kept", source)


def test_nothing_else_in_the_directory_is_touched(open_csv, kept):
    kept.mkdir()
    (kept / "notes.txt").write_text("mine")
    (kept / "data").mkdir()
    new = make_entries(open_csv, kept, ["a.csv", "b.csv"])
    with open_cache(kept, new, limit_bytes=entry_room(kept)):
        assert cached_files(kept) == ["new.csv"]
    assert (kept / "notes.txt").read_text() == "mine"
    assert (kept / "data").is_dir()


def test_sizes_are_shown_in_three_digits():
    shown = [cache_eviction.show_bytes(size) for size in (0, 999, 1000, 4_004_000_000, 123_456_789, 5 * 10**13)]
    assert shown == ["0 B", "999 B", "1 kB", "4 GB", "123 MB", "50 TB"]
