"""Rows that are held out, and the first ones: each row once on one side, the same for any shards, workers and order."""

import numpy as np
import pytest
from streaming import as_csv, steps_of, table

from disttrain.data.csv import text
from disttrain.data.ranges import Range
from disttrain.data.row_cache import open_cache
from disttrain.data.selection import Choice, SelectedSource
from disttrain.data.shuffle import EpochOrder
from disttrain.errors import DataError
from disttrain.threads import DaemonPool

NUM_ROWS = 3000


@pytest.fixture
def source(open_csv, monkeypatch):
    """A file of which the first column is the row's number, in some 20 blocks."""
    monkeypatch.setattr(text, "CHUNK_BYTES", 2048)
    values = table(NUM_ROWS, 3)
    values[:, 0] = np.arange(NUM_ROWS)
    return open_csv(as_csv(values))


def both(source, share=0.2, limit=NUM_ROWS, seed=3):
    return [SelectedSource.of(source, Choice(limit, share, seed, held_out)) for held_out in (False, True)]


def numbers(source, *, num_shards=1, workers=1, **options):
    """The numbers of all rows of an epoch, in the order of the steps."""
    parts = []
    for worker in range(workers):
        shards = range(worker * num_shards // workers, (worker + 1) * num_shards // workers)
        parts += steps_of(source, shards=shards, num_shards=num_shards, batch_size=100, **options)
    return np.concatenate(parts)[:, 0].astype(int).tolist()


@pytest.mark.parametrize("limit", [700, NUM_ROWS])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_is_on_one_side(source, limit, seed):
    kept, held_out = (numbers(one) for one in both(source, 0.3, limit=limit, seed=seed))
    assert sorted(kept + held_out) == list(range(limit))
    assert len(held_out) == pytest.approx(0.3 * limit, rel=0.15)


def test_a_limit_alone_takes_the_first_rows(source):
    assert numbers(SelectedSource.of(source, Choice(1234))) == list(range(1234))


@pytest.mark.parametrize("mode", ["none", "shard", "global"])
def test_the_sides_are_the_same_for_any_shards_workers_and_order(source, mode):
    known = [set(numbers(one)) for one in both(source)]
    for num_shards, workers in [(1, 1), (3, 1), (4, 2)]:
        found = [
            numbers(one, num_shards=num_shards, workers=workers, order=EpochOrder(mode, 7)) for one in both(source)
        ]
        assert [set(one) for one in found] == known
        assert [len(one) for one in found] == list(map(len, known))
    other = [set(numbers(one)) for one in both(source, seed=4)]
    assert known[1] & other[1] != known[1]


def test_rows_have_their_values_and_places(source):
    kept, _ = both(source)
    everything = numbers(kept)
    pool = DaemonPool(1, "read")
    try:
        parts = [Range(5, 40), Range(0, 1), Range(2000, 2200)]
        rows = kept.rows(iter(parts), pool, block_bytes=300)
        taken = rows.take(sum(map(len, parts)))
        assert rows.finish()
        expected = [everything[row] for part in parts for row in range(part.start, part.stop)]
        assert taken[:, 0].astype(int).tolist() == expected
        plain = source.rows([Range(0, NUM_ROWS)], pool, block_bytes=4096).take(NUM_ROWS)
        np.testing.assert_array_equal(taken, plain[expected])
    finally:
        pool.close()
    for row in (0, 17, len(everything) - 1):
        assert kept.place_of(row) == source.place_of(everything[row])
    assert kept.targets_only().num_columns == 1


def test_each_side_has_its_own_cache(source, kept):
    for one in both(source):
        with open_cache(kept, one) as cache:
            first = numbers(one, cache=cache)
            assert cache.num_rows == one.num_rows
            assert numbers(one, cache=cache) == first


def test_a_side_without_rows_is_refused(source):
    with pytest.raises(DataError, match="of 1 rows, none is "):
        both(source, share=0.5, limit=1)
