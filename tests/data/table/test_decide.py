"""What is decided about columns: their kinds, scales and gaps, what is said of it, and what is refused."""

from functools import partial

import pytest

from disttrain.config.option_types import read_class_weights, read_kinds, read_missing
from disttrain.data.csv.headers import HowRead, read_text
from disttrain.data.csv.kept_statistics import statistics_of
from disttrain.data.csv.look import looks_plain
from disttrain.data.csv.open_csv import OpenCsv
from disttrain.data.csv.value_reader import text_at
from disttrain.data.table.checks import sorted_warning
from disttrain.data.table.decide import Decider, TargetUse
from disttrain.data.table.requests import Requests
from disttrain.errors import DataError, UsageError

NUMBERS = TargetUse(takes_classes=True, may_scale=True, may_shift=True)


@pytest.fixture
def decide(tmp_path):
    """Writes columns, given by name as lists of texts, and decides about them."""

    def make(columns, *, targets=("y",), features=None, use=NUMBERS, kinds=(), missing=("error",), **asked):
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
        (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
        default, own = read_missing(missing)
        requests = Requests(kinds=read_kinds(kinds), default_missing=default, missing=own, **asked)
        text = read_text([str(tmp_path / "a.csv")], HowRead(tmp_path))
        with OpenCsv.choose(text, targets=targets, features=features, weight=requests.weight) as opened:
            requests.check_names(opened.header.names, "a.csv")
            found = statistics_of(opened, requests, lambda wanted: wanted.join([wanted.gather(0, 1, 1)]))
            statistics = found.statistics
            decider = Decider(
                statistics, requests, "a.csv",
                partial(found.index.place, opened.text), partial(text_at, text), is_explicit=features is not None,
            )  # fmt: skip
            return decider.decide(opened.feature_names, opened.target_names, use), statistics

    return make


def spread(low, high, count=100):
    return [low + (high - low) * number / (count - 1) for number in range(count)]


def test_kinds_follow_from_what_columns_hold(decide):
    decided, _ = decide(
        {
            "number": spread(0, 1),
            "city": ["Rome", "Lima"] * 50,
            "day": [f"2024-01-{1 + number % 28:02}" for number in range(100)],
            "same": [7] * 100,
            "note": [f"note {number}" for number in range(100)],
            "y": spread(0, 1),
        }
    )
    kinds = {column.name: column.kind for column in (*decided.table.columns, *decided.table.left_out)}
    assert kinds == {
        "number": "number", "city": "category", "day": "time", "same": "constant", "note": "text", "y": "number",
    }  # fmt: skip
    assert [column.name for column in decided.table.left_out] == ["same", "note"]
    said = " ".join(decided.remarks)
    assert "'same' always holds the same: left out" in said
    assert "to use it, add --kinds note=category" in said


def test_columns_that_are_named_are_never_left_out(decide):
    columns = {"same": [7] * 100, "note": [f"note {number}" for number in range(100)], "y": spread(0, 1)}
    decided, _ = decide(columns, features=("same", "note"))
    assert [column.kind for column in decided.table.features] == ["number", "category"]


@pytest.mark.parametrize(
    ("numbers", "is_scaled"),
    [
        (spread(0, 1), False),
        (spread(-8, 8), True),
        (spread(-5, 5), False),
        (spread(1000, 1001), True),
        (spread(0, 1e-3), True),
        ([0.0] * 99 + [1e6], True),
    ],
)
def test_numbers_are_scaled_where_they_are_not_of_ordinary_size(decide, numbers, is_scaled):
    decided, statistics = decide({"x": numbers, "z": spread(0, 1), "y": spread(0, 1)}, scale="auto")
    x, z, y = decided.table.columns
    assert (x.scale != 1, z.scale != 1) == (is_scaled, is_scaled)
    assert (y.unit, y.offset) == (1, 0)
    if is_scaled:
        assert (x.offset, x.scale) == (statistics.of("x").mean, statistics.of("x").std)
        assert "--scale none" in decided.remarks[0]


def test_a_target_is_shifted_only_where_no_loss_and_metric_notices(decide):
    columns = {"x": spread(0, 1), "y": spread(1000, 2000)}
    (_, shifted), _ = decide(columns, scale="auto")[0].table.columns, None
    kept = decide(columns, scale="auto", use=TargetUse(may_scale=True))[0].table.columns[1]
    assert (shifted.offset, kept.offset) == (pytest.approx(1500), 0)
    assert not decide(columns, scale="auto", use=TargetUse(may_scale=True))[0].table.is_plain
    assert shifted.unit == kept.unit == pytest.approx(291.6, abs=0.1)


REFUSED = {
    "a text among numbers": ({"x": [1, "oops", *range(98)]}, {}, DataError, ["line 3", "'x'", "'oops'", "as in 99 of"]),
    "gaps": ({"x": ["", *range(98), "NA"]}, {}, DataError, ["line 2: nothing stands in 'x' (2 rows)", "median"]),
    "gaps in the target": ({"x": range(3), "y": [1, "", 2]}, {}, DataError, ["line 3", "'y' (1 row)", "y=drop"]),
    "an unknown column": ({"x": range(3)}, {"kinds": ("z=category",)}, UsageError, ["--kinds z", "no such column"]),
    "a word for a number": ({"x": [1, "", 3]}, {"missing": ("x=Rome",)}, UsageError, ["x=Rome", "holds numbers"]),
    "a mean of texts": ({"x": list("aba")}, {"missing": ("x=mean",)}, UsageError, ["a category", "of their own"]),
    "weights that are texts": ({"x": range(3), "w": list("abc")}, {"weight": "w"}, DataError, ["'w'", "weights"]),
    "weights below 0": ({"x": range(3), "w": [1, -1, 1]}, {"weight": "w"}, DataError, ["'w'", "0 or more"]),
    "text labels": ({"x": range(3), "y": list("aba")}, {"use": TargetUse()}, UsageError, ["'y' holds texts", "--loss"]),
    "an unknown class": (
        {"x": range(3), "y": list("aba")}, {"class_weights": {"c": 1.0}}, UsageError, ["no such class", "a, b"],
    ),
    "only texts": ({"x": [f"n{number}" for number in range(60)]}, {}, DataError, ["no feature column is left", "'x'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_remedy(decide, case):
    columns, asked, error, words = REFUSED[case]
    count = len(columns["x"])
    with pytest.raises(error) as caught:
        decide({"y": spread(0, 1, count), **columns}, **asked)
    for word in words:
        assert word in str(caught.value)


def test_gaps_are_filled_marked_or_dropped(decide):
    columns = {name: [1, "", 3, 8] for name in "abcd"} | {"city": ["x", "NA", "y", "x"], "y": spread(0, 1, 4)}
    decided, _ = decide(columns, missing=("median", "b=mean", "c=indicator", "d=drop"))
    a, b, c, d, city, _ = decided.table.columns
    assert (a.fill, b.fill, c.fill, d.fill) == (3, 4, 4, None)
    assert c.slots == ("c", "c:missing")
    assert (d.drops, decided.table.is_weighted) == (True, True)
    assert (city.categories, city.num_tokens, city.gap_index) == (("x", "y"), 4, 3)
    assert decide(columns, missing=("0", "city=y"))[0].table.columns[4].gap_index == 2


def test_a_vocabulary_is_cut_and_that_is_said(decide):
    columns = {"city": [*"aaabbc", *"defg" * 20], "y": spread(0, 1, 86)}
    decided, _ = decide(columns, max_categories=5)
    assert decided.table.columns[0].categories == ("d", "e", "f", "g", "a")
    assert "'city' has 7 categories, of which the 5 most frequent are kept; the rest, in 3 rows" in decided.remarks[0]


def test_class_weights_may_be_balanced(decide):
    labels = ["no"] * 75 + ["yes"] * 25
    decided, _ = decide({"x": spread(0, 1), "y": labels}, class_weights=read_class_weights(("balanced",)))
    assert decided.table.class_weights == {0.0: pytest.approx(2 / 3), 1.0: pytest.approx(2)}


def test_codes_and_sorted_targets_are_told_of(decide):
    decided, statistics = decide({"zip": range(10_000, 10_100), "y": range(100)})
    assert "'zip' was taken for numbers; if these are codes, add --kinds zip=category" in decided.remarks
    assert "sorted by its target 'y'" in sorted_warning(statistics, ["y"], "a.csv")
    assert not sorted_warning(decide({"x": range(4), "y": [1, 3, 2, 4]})[1], ["y"], "a.csv")


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("0.5,1\n0.25,0\n", True),
        ("0.5,1\n,0\n", False),
        ("0.5,1\nNaN,0\n", False),
        ("0.5,1\n0.25,x\n", False),
        ("0.5,100\n0.25,0\n", False),
        ("1,1\n1,0\n", False),
    ],
)
def test_a_look_tells_plain_numbers(tmp_path, text, is_plain):
    (tmp_path / "a.csv").write_text("x,y\n" + text)
    with OpenCsv.choose(read_text([str(tmp_path / "a.csv")], HowRead(tmp_path))) as opened:
        assert looks_plain(opened.text, opened.layout, any_size=False) == is_plain


def test_a_look_at_a_large_file_sees_its_middle(tmp_path):
    lines = ["0.25,0.5\n"] * 3_000_000
    lines[1_000_000:1_100_000] = ["0.25,7777\n"] * 100_000
    (tmp_path / "a.csv").write_text("".join(["x,y\n", "0.5,1\n", *lines]))
    with OpenCsv.choose(read_text([str(tmp_path / "a.csv")], HowRead(tmp_path))) as opened:
        assert not looks_plain(opened.text, opened.layout, any_size=False)
