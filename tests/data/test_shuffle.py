"""The order of an epoch's rows: every row once, without bias, the same for every world size and wherever it begins."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttrain.data.sharding import shard_range
from disttrain.data.shuffle import (
    WINDOW_BYTES,
    EpochOrder,
    block_bounds,
    permutation,
    permute_rows,
    shard_blocks,
    shard_windows,
    window_blocks,
)

SHUFFLED = ["shard", "global"]


def shard_order(order, bounds, num_shards, shard, blocks_per_window=4, first_row=0):
    """Returns the rows of one shard in the epoch's order, from its row `first_row` on."""
    rows = [np.empty(0, np.int64)]
    for window in shard_windows(order, bounds, num_shards, shard, blocks_per_window, first_row):
        numbers = np.concatenate([np.arange(part.start, part.stop) for part in window.ranges])
        assert len(numbers) == window.num_rows > 0
        permute_rows(numbers[:, np.newaxis], window.key)
        rows.append(numbers[max(first_row - window.first_row, 0) :])
    return np.concatenate(rows)


def epoch_order(order, bounds, num_shards=1, blocks_per_window=4):
    return np.concatenate([shard_order(order, bounds, num_shards, k, blocks_per_window) for k in range(num_shards)])


def even_bounds(num_blocks, block_rows):
    return np.arange(num_blocks + 1, dtype=np.int64) * block_rows


@st.composite
def plans(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=40))
    bounds = np.append(0, np.cumsum(lengths)).astype(np.int64)
    order = EpochOrder(draw(st.sampled_from(SHUFFLED)), draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 10**6)))
    return order, bounds, draw(st.integers(1, int(bounds[-1]))), draw(st.integers(1, 10))


@given(plans())
@settings(max_examples=200, deadline=None)
def test_every_row_comes_once_whatever_the_shards(plan):
    order, bounds, num_shards, blocks_per_window = plan
    num_rows = int(bounds[-1])
    parts = [shard_order(order, bounds, num_shards, shard, blocks_per_window) for shard in range(num_shards)]
    assert [len(part) for part in parts] == [len(shard_range(num_rows, num_shards, k)) for k in range(num_shards)]
    assert np.sort(np.concatenate(parts)).tolist() == list(range(num_rows))
    if order.mode == "shard":
        for shard, part in enumerate(parts):
            own = shard_range(num_rows, num_shards, shard)
            assert np.sort(part).tolist() == list(range(own.start, own.stop))


@given(plans())
@settings(max_examples=50, deadline=None)
def test_an_epoch_may_be_entered_at_every_row(plan):
    order, bounds, num_shards, blocks_per_window = plan
    whole = shard_order(order, bounds, num_shards, 0, blocks_per_window)
    for first_row in range(len(whole) + 1):
        tail = shard_order(order, bounds, num_shards, 0, blocks_per_window, first_row)
        np.testing.assert_array_equal(tail, whole[first_row:])


def test_windows_before_the_entry_are_not_made():
    bounds = even_bounds(40, 10)
    windows = list(shard_windows(EpochOrder("global"), bounds, 1, 0, 4, first_row=85))
    assert [window.first_row for window in windows] == list(range(80, 400, 40))


@pytest.mark.parametrize("mode", SHUFFLED)
def test_the_order_depends_on_seed_and_epoch_alone(mode):
    bounds = even_bounds(50, 20)
    orders = {
        (seed, epoch): tuple(epoch_order(EpochOrder(mode, seed, epoch), bounds, num_shards=3).tolist())
        for seed in (0, 1, 2**32 - 1)
        for epoch in (1, 2, 3)
    }
    assert len(set(orders.values())) == len(orders)
    for (seed, epoch), rows in orders.items():
        assert tuple(epoch_order(EpochOrder(mode, seed, epoch), bounds, num_shards=3).tolist()) == rows


def test_global_deals_blocks_to_other_shards_in_every_epoch():
    bounds = even_bounds(100, 10)
    held = [set(shard_order(EpochOrder("global", epoch=epoch), bounds, 4, 0).tolist()) for epoch in range(1, 9)]
    shared = [len(held[0] & other) / 250 for other in held[1:]]
    assert all(0.05 < part < 0.5 for part in shared)  # a quarter, give or take


def test_the_order_is_the_one_of_the_first_release():
    """A resumed run must go on with the order that it began with, whatever versions it runs on."""
    bounds = even_bounds(6, 3)
    assert permutation(10, 5).tolist() == PERMUTATION_OF_TEN
    assert epoch_order(EpochOrder("global", 7, 2), bounds, 2, 2).tolist() == GLOBAL_ORDER
    assert epoch_order(EpochOrder("shard", 7, 2), bounds, 2, 2).tolist() == SHARD_ORDER


PERMUTATION_OF_TEN = [5, 3, 6, 8, 0, 1, 2, 7, 9, 4]
GLOBAL_ORDER = [17, 5, 15, 16, 4, 3, 14, 12, 13, 2, 7, 0, 1, 8, 6, 10, 11, 9]
SHARD_ORDER = [5, 2, 3, 4, 1, 0, 8, 6, 7, 14, 10, 12, 13, 11, 9, 16, 17, 15]


def chi_square_p(counts):
    """Returns the p-value of the counts if all outcomes are equally likely (Wilson and Hilferty, 1931)."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    ratio = ((counts - expected) ** 2).sum() / expected / freedom
    z = (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return math.erfc(z / math.sqrt(2)) / 2


def test_the_chi_square_test_finds_a_bias():
    even = np.random.default_rng(0).multinomial(100_000, np.full(100, 0.01))
    assert 0.001 < chi_square_p(even) < 0.999
    bent = np.random.default_rng(0).multinomial(100_000, np.append(np.full(50, 0.0095), np.full(50, 0.0105)))
    assert chi_square_p(bent) < 1e-6


def test_permutations_are_without_bias():
    """All 24 orders of four rows, and of 60 rows the pairs (row, place), over consecutive keys."""
    orders = np.array([permutation(4, key) for key in range(48_000)])
    _, counts = np.unique(orders @ [1, 4, 16, 64], return_counts=True)
    assert len(counts) == 24
    assert 0.001 < chi_square_p(counts) < 0.999
    places = np.zeros((60, 60))
    for key in range(6000):
        places[permutation(60, key), np.arange(60)] += 1
    assert 0.001 < chi_square_p(places) < 0.999


@pytest.mark.parametrize(("mode", "num_shards"), [("global", 1), ("global", 4), ("shard", 4)])
def test_every_row_is_as_likely_in_every_place(mode, num_shards):
    """Rows by places over 4,000 epochs; with `shard`, the places are those of the row's own shard."""
    num_rows, num_epochs = 96, 4000
    bounds = even_bounds(24, 4)
    places = np.zeros((num_rows, num_rows))
    for epoch in range(num_epochs):
        places[epoch_order(EpochOrder(mode, 3, epoch), bounds, num_shards, 3), np.arange(num_rows)] += 1
    if mode == "global":
        assert 0.001 < chi_square_p(places) < 0.999
    else:
        own = places.reshape(4, 24, 4, 24)
        assert all(0.001 < chi_square_p(own[k, :, k]) < 0.999 for k in range(4))
        assert places.sum() == sum(own[k, :, k].sum() for k in range(4))


@pytest.mark.parametrize("num_shards", [1, 4])
def test_the_batches_of_a_sorted_file_are_mixed(num_shards):
    """In file order a batch has one value; under `global` its mean is the file's, to the noise of a random sample."""
    bounds = even_bounds(2000, 500)
    num_rows, batch_size = int(bounds[-1]), 250
    blocks = 80 // num_shards
    order = EpochOrder("global", 1, 1)
    values = np.stack([shard_order(order, bounds, num_shards, k, blocks) / num_rows for k in range(num_shards)])
    steps = values.reshape(num_shards, -1, batch_size).transpose(1, 0, 2)  # [steps, shards, rows]
    means = steps.mean((1, 2))
    expected = math.sqrt(1 / 12 / 80 + 1 / 12 / (num_shards * batch_size))
    assert abs(means.mean() - 0.5) < 0.01
    assert 0.7 * expected < means.std() < 1.3 * expected
    assert np.abs(means - 0.5).max() < 5 * expected


def test_rows_stay_whole_for_every_width():
    for columns in (1, 2, 3, 30, 31):
        rows = np.arange(1000 * columns, dtype=np.float32).reshape(1000, columns)
        permuted = rows.copy()
        permute_rows(permuted, 99)
        np.testing.assert_array_equal(permuted, rows[permutation(1000, 99)])


def test_blocks_without_rows_are_left_out():
    assert block_bounds(np.array([0, 0, 5, 5, 9, 12]), 12).tolist() == [0, 5, 9, 12]
    assert block_bounds(np.array([0]), 3).tolist() == [0, 3]


def test_a_shard_reads_only_the_blocks_that_it_needs():
    bounds = even_bounds(1000, 50)
    for mode in SHUFFLED:
        ranges = shard_blocks(EpochOrder(mode), bounds, 8, 3)
        assert (ranges[:, 1] - ranges[:, 0]).sum() == 6250
        assert len(ranges) <= 6250 / 50 + 2
        assert np.array_equal(ranges[:, 0] // 50, (ranges[:, 1] - 1) // 50)  # each within one block
        assert (ranges[:, 1] - ranges[:, 0] < 50).sum() <= 2  # and whole, but for those that the shard's ends cut


@pytest.mark.parametrize(("num_columns", "block_rows"), [(2, 50_000), (30, 3500), (1000, 100)])
@pytest.mark.parametrize("num_shards", [1, 2, 8])
def test_windows_keep_to_their_bytes(num_columns, block_rows, num_shards):
    bounds = even_bounds(10_000, block_rows)
    count = window_blocks(bounds, num_shards, num_columns)
    windows = list(shard_windows(EpochOrder("global"), bounds, num_shards, 0, count))
    used = max(window.num_rows for window in windows) * num_columns * 4 * num_shards
    assert 0.8 * WINDOW_BYTES < used <= WINDOW_BYTES
