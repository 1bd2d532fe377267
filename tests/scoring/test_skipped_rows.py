"""Rows that cannot be read, under `--on-bad-row skip`: they have no prediction, and count in no figure."""

import json
import re

import numpy as np
import polars
import pytest
from command import disttrain, trained
from tables import write_table

BAD = {10: "Rome,01000,old,1,2024-01-01,7,note,0.5,dear,1", 1500: "too,few", 2999: 'Rome,01000,1,1,"2024-01-01'}
OPTIONS = ("--features", "city,age,income,when", "--missing", "median", "--targets", "label")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("skipped")
    write_table(directory / "a.csv", 3000)
    lines = (directory / "a.csv").read_text().splitlines()
    good = [line for number, line in enumerate(lines) if number not in BAD]
    (directory / "good.csv").write_text("\n".join(good) + "\n")
    (directory / "bad.csv").write_text("\n".join(BAD.get(n, line) for n, line in enumerate(lines)) + "\n")
    trained(directory, "run", "--data", "a.csv", *OPTIONS, "--epochs", 2)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("processes", [None, 2])
def test_they_are_named_and_left_out(place, processes):
    done = disttrain(place, "predict", "run", "bad.csv", "--output", "p.csv", "--overwrite", processes=processes)
    assert done.returncode == (3 if processes is None else 1)  # horovodrun's own
    assert (
        "bad.csv, line 11: column 'age' holds 'old', expected a number; correct the row, or add --on-bad" in done.stderr
    )
    how = ("--on-bad-row", "skip")
    words = ("predict", "run", "bad.csv", "--output", "p.csv", "--overwrite", "--keep-columns", "note", *how)
    done = disttrain(place, *words, processes=processes)
    assert done.returncode == 0, done.stderr
    assert "Skipped 3 rows: " in done.stdout
    assert "bad.csv, line 1501: the row has 2 fields, expected 10" in done.stdout
    found = polars.read_csv(place / "p.csv")
    assert [n + 1 for n, label in enumerate(found["label"]) if label is None] == sorted(BAD)
    done = disttrain(place, "predict", "run", "good.csv", "--output", "g.csv", "--overwrite", processes=processes)
    expected = polars.read_csv(place / "g.csv")["label"]
    assert found["label"].drop_nulls().to_list() == expected.to_list()
    figures = []
    for data in ("bad.csv", "good.csv"):
        done = disttrain(place, "evaluate", "run", data, "--json", *how, processes=processes)
        assert done.returncode == 0, done.stderr
        figures.append(json.loads(re.sub(r"\[\d+\]<stdout>:", "", done.stdout)))
    assert figures[0]["weightless"] == len(BAD)
    np.testing.assert_allclose(list(figures[0]["values"].values()), list(figures[1]["values"].values()), rtol=1e-5)
    assert figures[0]["classes"]["confusion"] == figures[1]["classes"]["confusion"]


def test_too_many_are_refused_and_nothing_is_written(place):
    words = ("predict", "run", "bad.csv", "--output", "none.csv", "--on-bad-row", "skip", "--max-bad-fraction", 0.0005)
    done = disttrain(place, *words)
    assert done.returncode == 3
    assert re.search(
        r"[23] of 3,000 rows are bad, more than --max-bad-fraction 0.0005 allows; one is bad.csv", done.stderr
    )
    assert not (place / "none.csv").exists()
