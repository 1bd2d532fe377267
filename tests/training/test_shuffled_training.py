"""Runs with `--shuffle` and `--cache`: the losses depend neither on the workers nor on what is in the cache."""

import os

import numpy as np
import pytest
from command import disttrain, history, regression_rows, trained, write_csv
from pydantic import ValidationError

from disttrain.config import TrainConfig

BATCH, SHARDS = 50, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shuffled")
    write_csv(directory / "data.csv", *regression_rows(20_003))  # 2 MB: two blocks of the index
    write_csv(directory / "validation.csv", *regression_rows(307, seed=1))
    return directory


def options(*more):
    named = ("--data", "data.csv", "--validation-data", "validation.csv")
    return (*named, "--batch-size", BATCH, "--epochs", 2, "--num-shards", SHARDS, *more)


@pytest.mark.slow
def test_the_world_size_does_not_change_a_shuffled_run(place):
    shuffled = ("--shuffle", "global", "--seed", 3)
    runs = [
        history(trained(place, f"workers-{count}", *options(*shuffled), processes=count))
        for count in (None, 3, 4)  # 2: tests/distributed/test_backends.py
    ]
    for name in ("loss", "mse", "val_loss", "val_mse"):
        for run in runs[1:]:
            np.testing.assert_allclose(run[name], runs[0][name], rtol=2e-4)


@pytest.mark.slow
def test_a_run_reads_the_rows_that_an_earlier_one_kept(place):
    """Between the runs every digit in the files becomes 1; as size and time stay, only the cache has the old rows."""
    first = history(trained(place, "first", *options("--shuffle", "global", "--cache", "kept")))
    for name in ("data.csv", "validation.csv"):
        times = os.stat(place / name)
        header, _, rows = (place / name).read_bytes().partition(b"\n")
        digits = bytes.maketrans(b"0123456789", b"1" * 10)
        (place / name).write_bytes(header + b"\n" + rows.translate(digits))
        os.utime(place / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = disttrain(place, *options("--shuffle", "global", "--cache", "kept", "--output", "again"))
    assert again.returncode == 0, again.stderr
    assert "320 kB for 20,003 rows, of which 20,003 are cached" in again.stdout
    losses = ("loss", "mse", "val_loss", "val_mse")
    assert [history(place / "again")[name] for name in losses] == [first[name] for name in losses]
    without = history(trained(place, "without", *options("--shuffle", "global")))
    assert without["loss"] != first["loss"]


@pytest.mark.slow
def test_a_cache_without_room_is_one_line_and_no_failure(tmp_path):
    write_csv(tmp_path / "data.csv", *regression_rows(500))
    done = disttrain(tmp_path, "--data", "data.csv", "--epochs", 1, "--cache", "kept", "--cache-limit", "1kB")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "cache" in line]
    assert lines == [
        "not using the cache in kept for data.csv: it needs 8 kB, and the limit leaves 1 kB",
    ]


def test_a_cache_that_cannot_be_made_ends_the_run_at_once(tmp_path):
    write_csv(tmp_path / "data.csv", *regression_rows(500))
    done = disttrain(tmp_path, "--data", "data.csv", "--cache", "data.csv/kept")
    assert done.returncode == 2
    assert done.complaints == [
        "disttrain: --cache data.csv/kept: cannot be written: Not a directory; name another directory"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10GB", 10 * 10**9),
        ("1.5 GiB", 1536 << 20),
        ("512k", 512_000),
        ("2TB", 2 * 10**12),
        ("100 MB", 10**8),
        ("1e9", 10**9),
        ("4096", 4096),
        ("7B", 7),
        (8, 8),
    ],
)
def test_a_limit_may_have_a_unit(text, expected):
    assert TrainConfig(cache="kept", cache_limit=text).cache_limit == expected


@pytest.mark.parametrize("text", ["0", "-1GB", "10XB", "GB", "many", "1.2.3GB", "1ee9GB", "infGB", ""])
def test_a_limit_that_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(ValidationError):
        TrainConfig(cache="kept", cache_limit=text)


def test_a_limit_needs_a_cache():
    with pytest.raises(ValidationError, match="name its directory with --cache"):
        TrainConfig(cache_limit="1GB")
