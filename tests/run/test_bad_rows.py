"""Rows that cannot be read: left out with the weight 0, counted, named in a file, and the end of a run if too many."""

import csv
import random

import numpy as np
import pytest
from command import disttrain, history

ROWS = 3000
BAD = {
    3: ("oops,1", "column 'x' holds 'oops', expected a number"),
    700: ("1", "the row has 1 field, expected 2: '1'"),
    701: ("1,2,3", "the row has 3 fields, expected 2: '1,2,3'"),
    1499: (",5", "column 'x' is empty, expected a number"),
    2999: ('1,"2', "column 'y' holds '\"2', but quotes may only enclose one whole number on one line"),
}
OPTIONS = ("--epochs", 2, "--batch-size", 50, "--num-shards", 2, "--scale", "none")


@pytest.fixture
def lines():
    drawn = random.Random(4)
    return [f"{(x := drawn.random()):.4f},{3 * x:.4f}" for _ in range(ROWS)]


def with_bad(lines):
    return [BAD[number][0] if number in BAD else line for number, line in enumerate(lines)]


def run(directory, *arguments, processes=None):
    """Trains, which must succeed; returns what was printed."""
    done = disttrain(directory, *arguments, processes=processes)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def named(output):
    with (output / "bad-rows.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_that_is_skipped_weighs_nothing(tmp_path, lines):
    (tmp_path / "bad.csv").write_text("x,y\n" + "\n".join(with_bad(lines)) + "\n")
    weighed = ["0,0,0" if number in BAD else f"{line},1" for number, line in enumerate(lines)]
    (tmp_path / "weighed.csv").write_text("x,y,w\n" + "\n".join(weighed) + "\n")
    told = run(tmp_path, "--data", "bad.csv", *OPTIONS, "--on-bad-row", "skip", "--output", "skipped")
    run(
        tmp_path, "--data", "weighed.csv", "--features", "x", "--targets", "y", "--weight", "w", *OPTIONS,
        "--output", "weighed",
    )  # fmt: skip
    for name in ("loss", "mse"):
        np.testing.assert_allclose(history(tmp_path / "skipped")[name], history(tmp_path / "weighed")[name], rtol=1e-5)
    assert told.count("Skipped 5 rows: 2 with too few or too many fields, ") == 2
    rows = sorted(named(tmp_path / "skipped"), key=lambda row: int(row["line"]))
    assert [(row["file"], int(row["line"]), row["cause"], row["text"]) for row in rows] == [
        ("bad.csv", number + 2, cause, text) for number, (text, cause) in BAD.items()
    ]


@pytest.mark.parametrize("processes", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_too_many_bad_rows_end_the_run(tmp_path, lines, processes):
    (tmp_path / "bad.csv").write_text("x,y\n" + "\n".join(with_bad(lines)) + "\n")
    asked = ("--on-bad-row", "skip", "--max-bad-fraction", 0.0013)
    done = disttrain(tmp_path, "--data", "bad.csv", *OPTIONS, *asked, processes=processes)
    assert done.returncode == (1 if processes else 3)
    (said,) = [one for one in done.complaints if "are bad" in one][:1]
    assert " of 3,000 rows are bad, more than --max-bad-fraction 0.0013 allows; one is bad.csv, line " in said


def test_a_bad_row_is_an_error_unless_it_may_be_skipped(tmp_path, lines):
    (tmp_path / "bad.csv").write_text("x,y\n" + "\n".join(with_bad(lines)) + "\n")
    done = disttrain(tmp_path, "--data", "bad.csv", *OPTIONS)
    assert done.returncode == 3
    assert "bad.csv, line " in done.stderr


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(("0.5,zz,1", "0.5"), marks=pytest.mark.slow),
        pytest.param(("0.5", "0.5,zz,1"), marks=pytest.mark.slow),
        ("0.5,,1", "0.5,zz,1", "0.5,1,2,3", "0.5"),
    ],
)
def test_bad_values_and_bad_rows_stand_in_one_block_in_any_order(tmp_path, order):
    drawn = random.Random(7)
    lines = [f"{(x := drawn.random()):.4f},{drawn.random():.4f},{3 * x:.4f}" for _ in range(1000)]
    bad = {500 + 50 * number: line for number, line in enumerate(order)}
    (tmp_path / "bad.csv").write_text("a,b,y\n" + "\n".join(bad.get(n, line) for n, line in enumerate(lines)) + "\n")
    told = run(tmp_path, "--data", "bad.csv", "--epochs", 1, "--on-bad-row", "skip", "--output", "skipped")
    assert f"Skipped {len(bad)} rows: " in told
    assert sorted((int(row["line"]), row["text"]) for row in named(tmp_path / "skipped")) == [
        (number + 2, line) for number, line in bad.items()
    ]
    done = disttrain(tmp_path, "--data", "bad.csv", "--epochs", 1, "--output", "error")
    assert done.returncode == 3
    assert any(f"bad.csv, line {number + 2}: " in done.stderr for number in bad), done.stderr
