"""Who reads which rows is arithmetic: tables of cases, then properties for any numbers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain.data.ranges import Range
from disttrain.data.sharding import Sharding, shard_range, shards_of_rank

SHARDS = [
    # num_rows, num_shards, every shard's (start, stop)
    (10, 1, [(0, 10)]),  # one shard is the file
    (10, 2, [(0, 5), (5, 10)]),  # it divides
    (10, 4, [(0, 3), (3, 6), (6, 8), (8, 10)]),  # it does not: longer ones first
    (3, 3, [(0, 1), (1, 2), (2, 3)]),  # a row each
    (2, 3, [(0, 1), (1, 2), (2, 2)]),  # more shards than rows: the last are empty
    (0, 2, [(0, 0), (0, 0)]),  # no rows
    (500_000_000, 3, [(0, 166_666_667), (166_666_667, 333_333_334), (333_333_334, 500_000_000)]),  # the job
]


@pytest.mark.parametrize(("num_rows", "num_shards", "expected"), SHARDS)
def test_a_file_is_cut_into_contiguous_shards(num_rows, num_shards, expected):
    shards = [shard_range(num_rows, num_shards, shard) for shard in range(num_shards)]
    assert shards == [Range(*bounds) for bounds in expected]


HELD = [
    # num_shards, world_size, every rank's shards
    (4, 1, [[0, 1, 2, 3]]),  # a run of four goes on with one
    (4, 2, [[0, 1], [2, 3]]),
    (4, 3, [[0, 1], [2], [3]]),  # as evenly as they go
    (4, 4, [[0], [1], [2], [3]]),
    (2, 3, [[0], [1], []]),  # more ranks than shards: one has nothing
]


@pytest.mark.parametrize(("num_shards", "world_size", "expected"), HELD)
def test_ranks_hold_contiguous_shards(num_shards, world_size, expected):
    assert [list(shards_of_rank(num_shards, world_size, rank)) for rank in range(world_size)] == expected


STEPS = [
    # num_rows, num_shards, batch_size, rows of the global batch in each step
    (1000, 1, 250, [250, 250, 250, 250]),  # it divides: the generator that this replaces had 251s
    (1001, 1, 250, [250, 250, 250, 250, 1]),  # a short last batch
    (1000, 4, 250, [1000]),  # one global batch
    (1001, 4, 250, [1000, 1]),  # one shard has a row more: the others give none to the last step
    (7, 2, 2, [4, 3]),  # the longer shard is full in the last step, the other is not
    (3, 2, 250, [3]),  # fewer rows than a batch
    (0, 2, 250, []),  # no rows, no steps
]


@pytest.mark.parametrize(("num_rows", "num_shards", "batch_size", "expected"), STEPS)
def test_a_step_has_the_rows_that_the_shards_still_hold(num_rows, num_shards, batch_size, expected):
    sharding = Sharding(num_rows, num_shards, batch_size)
    steps = sharding.num_steps
    assert [sharding.rows_in_step(step) for step in range(steps)] == expected
    assert sharding.rows_in_step(steps) == 0


num_rows_any = st.integers(0, 10**12)
num_shards_any = st.integers(1, 64)
batch_size_any = st.integers(1, 10_000)


@given(num_rows_any, num_shards_any)
def test_the_union_of_the_shards_is_the_file(num_rows, num_shards):
    shards = [shard_range(num_rows, num_shards, shard) for shard in range(num_shards)]
    assert shards[0].start == 0
    assert shards[-1].stop == num_rows
    assert all(left.stop == right.start for left, right in itertools.pairwise(shards))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sorted(map(len, shards), reverse=True) == list(map(len, shards))


@given(num_shards_any, st.integers(1, 80))
def test_every_shard_is_held_by_one_rank(num_shards, world_size):
    held = [shards_of_rank(num_shards, world_size, rank) for rank in range(world_size)]
    assert [shard for shards in held for shard in shards] == list(range(num_shards))
    assert max(map(len, held)) - min(map(len, held)) <= 1


@given(st.integers(0, 3000), st.integers(1, 20), st.integers(1, 40), st.integers(1, 24))
def test_the_ranks_rows_of_all_steps_are_the_file(num_rows, num_shards, batch_size, world_size):
    held = [shards_of_rank(num_shards, world_size, rank) for rank in range(world_size)]
    sharding = Sharding(num_rows, num_shards, batch_size)
    steps = sharding.num_steps
    total = 0
    for step in range(steps):
        rows = [sharding.rows_of(shards, step) for shards in held]
        assert sum(rows) == sharding.rows_in_step(step)
        assert 0 < sum(rows) <= batch_size * num_shards
        total += sum(rows)
    assert total == num_rows


@given(num_rows_any, num_shards_any, batch_size_any, st.integers(0, 10**10))
def test_only_the_last_step_is_short(num_rows, num_shards, batch_size, step):
    sharding = Sharding(num_rows, num_shards, batch_size)
    steps = sharding.num_steps
    if step < steps - 1:
        assert sharding.rows_in_step(step) == batch_size * num_shards
    if step >= steps:
        assert sharding.rows_in_step(step) == 0


@given(num_rows_any, num_shards_any, batch_size_any)
def test_full_steps_are_all_or_all_but_one(num_rows, num_shards, batch_size):
    sharding = Sharding(num_rows, num_shards, batch_size)
    steps, full = sharding.num_steps, sharding.num_full_steps
    assert steps - 1 <= full <= steps
    if full:
        assert sharding.rows_in_step(full - 1) == batch_size * num_shards
    if full < steps:
        assert sharding.rows_in_step(full) < batch_size * num_shards
