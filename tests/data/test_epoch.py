"""The plan of an epoch: how many steps go to the engine at a time."""

import pytest

from disttrain.data.epoch import steps_per_superbatch

CASES = [
    # batch size, shards held, --steps-per-execution, multiple of, steps: as many as 2 MiB of two float32 columns have
    (250, 1, None, 1, 1048),
    (250, 2, None, 1, 524),
    (1, 1, None, 1, 4096),  # no more, however small
    (1_000_000, 1, None, 1, 1),  # no less, however large
    (250, 1, None, 64, 1088),  # whole rounds between two averages of the weights
    (250, 1, 100, 1, 100),
    (250, 1, 100, 64, 128),
    (1_000_000, 8, 5000, 1, 5000),  # what was asked for
]


@pytest.mark.parametrize(("batch_size", "shards_held", "wanted", "multiple_of", "steps"), CASES)
def test_a_superbatch_has_as_many_steps_as_its_bytes_allow(
    open_csv, batch_size, shards_held, wanted, multiple_of, steps
):
    source = open_csv("x,y\n1,2\n")
    assert steps_per_superbatch(source.num_columns, shards_held, batch_size, wanted, multiple_of) == steps
