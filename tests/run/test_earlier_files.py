"""What the first version wrote still opens: a configuration, an index, a cache and a checkpoint, in tests/earlier."""

import os
import shutil

import pytest
from command import ROOT, disttrain, history

from disttrain.data.csv.kept_index import load_counts
from disttrain.data.csv.source import Source
from disttrain.data.row_cache import open_cache

EARLIER = ROOT / "tests" / "earlier"
WRITTEN_AT = "/data/rows.csv"  # where the file lay then, in seconds of a day in 2023
TIME_NS = 1_700_000_000 * 10**9


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A copy of all, in this folder, with the time that the file had."""
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    os.utime(tmp_path / "rows.csv", ns=(TIME_NS, TIME_NS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def source(earlier, monkeypatch):
    """The file, opened as if it lay where it did then."""
    monkeypatch.setattr(os.path, "abspath", lambda path: WRITTEN_AT)
    with Source.open("rows.csv", targets=["y"], cache_dir=earlier) as opened:
        yield opened


def test_an_index_of_an_earlier_format_is_made_anew_in_its_place(source, earlier):
    assert source.num_rows == 120
    assert not len(load_counts(earlier, source.text).missing)
    assert len(list((earlier / "index").iterdir())) == 2


def test_a_cache_has_all_rows(source, earlier):
    with open_cache(earlier / "cache", source) as cache:
        assert cache.num_rows == 120


def test_a_sample_of_targets_is_found(source, earlier):
    assert source.load_finding(earlier, "targets-y") is not None


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_by_the_options_of_a_file(earlier):
    (earlier / "out").mkdir()
    shutil.move(earlier / "checkpoints", earlier / "out")
    done = disttrain(earlier, "--config", "run.toml", "--output", "out", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert "Going on from the checkpoint of epoch 1, step 12" in done.stdout
    assert history(earlier / "out")["epoch"] == [1, 2]
