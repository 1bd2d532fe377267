"""From text to float32, beside Python's csv: every delimiter, quotes anywhere, with and without a last line's end."""

import csv_fuzz
import numpy as np
import pytest

from disttrain import batches
from disttrain.errors import DataError


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*which float32 rounds to")
def test_every_line_is_read_as_pythons_csv_reads_it_or_refused():
    """Ten million were run once: docs/records/reliability.md."""
    csv_fuzz.run(40_000, seed=11)


@pytest.mark.parametrize("delimiter", [",", "\t", " ", "\x1f", "|"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_ends_with_or_without_a_newline(tmp_path, delimiter, end):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(delimiter.join(row) for row in ("xy", "11", "33")) + end, newline="")
    ((x, y),) = batches(path, 9, delimiter=delimiter, cache_dir=tmp_path)
    assert x.tolist() == y.tolist() == [[1], [3]]


FAULTY = [
    # what is read, delimiter, the line and what stands there
    ("x\ty\n1\t2\n\t\n3\t4\n", "\t", "line 3: column 'x' is empty"),
    ("x y\n1 2\n \n3 4\n", " ", "line 3: column 'x' is empty"),
    ("x\ty\n1\t2\n \t \n", "\t", "line 3: column 'x' is empty"),
    ("x\x1fy\n1\x1f2\n\x1f\n", "\x1f", "line 3: column 'x' is empty"),
    ("x,y\n1,2\n3,4\n" + "\0" * 64, ",", "line 4: the line holds NUL bytes"),
    ("x,y\n1,2\n3,4" + "\0" * 64, ",", "line 3: the line holds NUL bytes"),
    ("x,y\n1,2\n\x1a", ",", "line 3: the row has 1 field, expected 2: '\\\\x1a'"),  # how DOS ended a text
    ('a,b\n1,2\n3,4,5"\n', ",", "line 3: the row has 3 fields, expected 2"),
    ('a,b\n1,2\n3,4,"5\n', ",", "line 3: field 3 holds"),
    ("x,y\n1,2\n# note\n", ",", "line 3: the row has 1 field.*to skip lines that begin with '#', add --comment"),
]


@pytest.mark.parametrize(("text", "delimiter", "says"), FAULTY)
def test_what_is_no_row_is_an_error_that_names_the_line(tmp_path, text, delimiter, says):
    path = tmp_path / "a.csv"
    path.write_text(text, newline="")
    with pytest.raises(DataError, match=says):
        list(batches(path, 9, delimiter=delimiter, cache_dir=tmp_path))


CHOSEN = [
    # columns that matter only if they are chosen
    'a,b,a,y\n1,"5" disk",3,4\n',
    ",,b,y\n8,7,1,4\n",
    'b,t,y\n1,5" pipe,4\n',
    'b,t,y\n1,"say ""hi"" now",4\n',
]


@pytest.mark.parametrize("text", CHOSEN)
def test_columns_that_nobody_chose_stop_nothing(tmp_path, text):
    (tmp_path / "a.csv").write_text(text.replace("a,b,a", "a,x,b") if text.startswith("a,b,a") else text)
    ((x, y),) = batches(tmp_path / "a.csv", 9, features="b", target="y", cache_dir=tmp_path)
    assert np.hstack([x, y]).tolist() in ([[1, 4]], [[3, 4]])
