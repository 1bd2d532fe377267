"""Generated files: their rows and statistics, that they are the same every time, and either whole or absent."""

import hashlib
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from disttrain.errors import UsageError
from disttrain.synthetic import number_text, regression
from disttrain.synthetic.regression import Recipe, make_data, make_sample


def rows_of(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


def made(path: Path, *args: object, **options: object) -> bytes:
    size = make_data(path, Recipe(*args, **options))
    content = path.read_bytes()
    assert len(content) == size
    return content


def test_without_noise_the_target_is_the_feature_in_the_same_text(tmp_path):
    content = made(tmp_path / "a.csv", 50_000)
    header, *lines = content.decode().splitlines()
    assert header == "x,y"
    assert content.endswith(b"\n")
    texts = [line.split(",") for line in lines]
    assert len(texts) == 50_000
    assert all(x == y and len(x) == 10 and x.startswith("0.") for x, y in texts)
    assert len(set(lines)) > 49_900  # rows are drawn, not repeated


def test_features_are_uniform_and_rows_independent(tmp_path):
    made(tmp_path / "a.csv", 200_000)
    x = rows_of(tmp_path / "a.csv")[:, 0]
    assert x.min() >= 0
    assert x.max() < 1
    counts, _ = np.histogram(x, bins=100, range=(0, 1))
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert 50 < chi_square < 160  # 99 degrees of freedom
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.01


def test_noise_has_the_standard_deviation_asked_for_and_is_gaussian(tmp_path):
    made(tmp_path / "a.csv", 200_000, noise=0.25)
    x, y = rows_of(tmp_path / "a.csv").T
    z = (y - x) / 0.25
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    for quantile in (0.001, 0.02, 0.3, 0.5, 0.7, 0.98, 0.999):
        assert np.mean(z <= statistics.NormalDist().inv_cdf(quantile)) == pytest.approx(quantile, abs=0.004)
    assert abs(np.corrcoef(x, z)[0, 1]) < 0.01


@pytest.mark.parametrize("p", [2.0**-52, 1e-13, 1e-6, 0.07499, 0.0750001, 0.3, 0.5, 0.8, 0.925001, 1 - 1e-9])
def test_the_normal_numbers_are_those_of_the_inverse_distribution_function(p):
    bits = int(p * 2**52) << 12
    exact = statistics.NormalDist().inv_cdf((int(p * 2**52) + 0.5) / 2**52)
    assert number_text._gauss(np.uint64(bits)) == pytest.approx(exact, rel=1e-6, abs=1e-6)


def test_several_features_make_a_smooth_function_of_all_of_them(tmp_path):
    made(tmp_path / "a.csv", 20_000, 5)
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "x0,x1,x2,x3,x4,y"
    table = rows_of(tmp_path / "a.csv")
    u, y = 2 * table[:, :5] - 1, table[:, 5]
    step = 3 * u / np.sqrt(1 + 8 * u**2) * [1, -1, 1, -1, 1]
    np.testing.assert_allclose(y, (u * np.roll(u, -1, axis=1) + step).sum(axis=1) / np.sqrt(5), atol=5.1e-9, rtol=0)
    assert 0.5 < y.std() < 1.2
    assert y.min() < -1  # signs are written
    assert y.max() > 1  # and digits before the point
    assert np.abs(np.corrcoef(table[:, :5].T) - np.eye(5)).max() < 0.03


def test_noise_of_a_million_keeps_its_digits(tmp_path):
    made(tmp_path / "a.csv", 1000, noise=1e6)
    lines = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert all(len(line.split(",")[1].split(".")[1]) == 8 for line in lines)
    assert rows_of(tmp_path / "a.csv")[:, 1].std() == pytest.approx(1e6, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e-9, -5e-8, 9.999999996, 123456789 / 128, -99999999.5, 10.0, -0.1])
def test_a_target_is_written_to_eight_places(value):
    out = np.zeros(32, dtype=np.uint8)
    end = number_text._put_fixed(out, 0, value, number_text._PAIRS)
    expected = f"{value:.8f}\n".replace("-0.00000000", "0.00000000")
    assert out[:end].tobytes().decode() == expected


BLOCK_ROWS = regression.BLOCK_BYTES // number_text.max_row_bytes(1)


@pytest.mark.parametrize("num_rows", [1, 2, 999, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS + 17])
def test_the_number_of_rows_is_exact_at_block_borders(tmp_path, num_rows):
    content = made(tmp_path / "a.csv", num_rows)
    assert content.count(b"\n") == num_rows + 1
    assert len(content) == 4 + 22 * num_rows == Recipe(num_rows).size_bytes


def test_the_bytes_do_not_depend_on_threads_or_blocks(tmp_path, monkeypatch):
    recipe = Recipe(150_000, num_features=2, noise=0.5, seed=7)
    contents = set()
    for num_threads, block_bytes in [(1, 2 << 20), (2, 2 << 20), (5, 100_000), (3, 1)]:
        if block_bytes == 1:  # a row a block: fewer rows, and the head of the same file
            recipe = Recipe(500, num_features=2, noise=0.5, seed=7)
        monkeypatch.setattr(regression, "BLOCK_BYTES", block_bytes)
        make_data(tmp_path / "a.csv", recipe, overwrite=True, num_threads=num_threads)
        contents.add(b"\n".join((tmp_path / "a.csv").read_bytes().split(b"\n")[:501]))
        if block_bytes > 1:
            assert recipe.num_rows + 1 == (tmp_path / "a.csv").read_bytes().count(b"\n")
            contents.add(hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest())
    assert len(contents) == 2  # one head, one digest


def test_the_seed_changes_the_rows_and_the_same_seed_repeats_them(tmp_path):
    contents = [made(tmp_path / f"{i}.csv", 1000, noise=0.1, seed=seed) for i, seed in enumerate([0, 1, 2**64 - 1, 1])]
    assert len(set(contents)) == 3
    assert contents[1] == contents[3]


def test_the_default_file_never_changes_between_versions(tmp_path):
    content = made(tmp_path / "a.csv", 3)
    assert content == b"x,y\n0.28176129,0.28176129\n0.70121210,0.70121210\n0.65641370,0.65641370\n"


def test_progress_ends_with_all_rows_and_bytes(tmp_path):
    seen = []
    size = make_data(tmp_path / "a.csv", Recipe(200_000), on_progress=lambda *done: seen.append(done))
    assert seen == sorted(set(seen))
    assert len(seen) > 1
    assert seen[-1] == (200_000, size)


def test_a_file_that_exists_is_left_alone_unless_asked(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"a\.csv exists"):
        make_data(path, Recipe(10))
    assert path.read_text() == "mine"
    make_data(path, Recipe(10), overwrite=True)
    assert path.read_text().startswith("x,y\n")


@pytest.mark.parametrize(
    ("path", "recipe", "message"),
    [
        ("nowhere/a.csv", Recipe(10), "there is no directory"),
        ("", Recipe(10), "is a directory"),
        ("a.csv", Recipe(10**16), r"220,000,000\.0 GB.*are free"),
    ],
)
def test_a_file_that_cannot_be_made_is_refused_before_any_byte(tmp_path, path, recipe, message):
    with pytest.raises(UsageError, match=message):
        make_data(tmp_path / path, recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_refused():
    with pytest.raises(UsageError, match="local files only"):
        make_data("s3://bucket/a.csv", Recipe(10))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="not writable"):
        make_data(tmp_path / "a.csv", Recipe(10))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_rows": 0}, "number of rows is 0"),
        ({"num_rows": 1, "num_features": 0}, "features is 0"),
        ({"num_rows": 1, "noise": -0.1}, "noise is -0.1"),
        ({"num_rows": 1, "noise": float("nan")}, "noise is nan"),
        ({"num_rows": 1, "noise": 1e7}, "noise is 10000000"),
        ({"num_rows": 1, "seed": -1}, "seed is -1"),
        ({"num_rows": 1, "seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_a_recipe_out_of_range_is_refused(numbers, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**numbers)


def test_an_error_midway_leaves_nothing(tmp_path):
    def fail(rows: int, num_bytes: int) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        make_data(tmp_path / "a.csv", Recipe(1_000_000), on_progress=fail)
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import sys
from disttrain.synthetic.regression import Recipe, make_data
make_data(sys.argv[1], Recipe(200_000_000), on_progress=lambda rows, size: print(rows, flush=True))
"""


def test_control_c_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.csv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.readline()) > 0
        assert not (tmp_path / "a.csv").exists()
        assert list(tmp_path.iterdir()) != []  # it is being written beside its name
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - sent < 5
    assert list(tmp_path.iterdir()) == []


def test_the_sample_is_made_once_and_again_when_it_is_not_whole(tmp_path):
    cache = tmp_path / "new" / "cache"
    path = make_sample(cache)
    assert path == cache / "sample-1000000.csv"
    first = path.stat()
    assert first.st_size == 22_000_004
    assert make_sample(cache).stat().st_mtime_ns == first.st_mtime_ns
    os.truncate(path, 1000)
    assert make_sample(cache).stat().st_size == 22_000_004


def test_a_cache_directory_that_cannot_be_made_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the cache directory"):
        make_sample(tmp_path / "file" / "cache")
