"""Which checkpoint a run resumes from, and which belong to other runs: those are kept, whatever the options say."""

from pathlib import Path

import numpy as np
import pytest

from disttrain.checkpoints.file import Checkpoint, Position, file_name
from disttrain.checkpoints.store import CheckpointStore
from disttrain.config import TrainConfig
from disttrain.errors import UsageError
from disttrain.run.identity import check_keep_best
from disttrain.run.resume import RunPaths, find_checkpoint, how_to_go_on


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(place, *epochs, resume="auto"):
    """Writes checkpoints at the ends of these epochs, of a run that began with this `--resume`."""
    with CheckpointStore(str(place), keep=9) as store:
        for epoch in epochs:
            about = {"run": {"options": {"resume": resume}}}
            store.save(Checkpoint(Position(epoch, 0), about, {"weights/00000": np.zeros(3, np.float32)}))


def found(**options):
    """Returns the epoch of the checkpoint that is found, and its path if it is outside the run's directory."""
    config = TrainConfig(**options)
    paths, checkpoint = find_checkpoint(RunPaths.of(config, Path("default")), config, pytest.fail)
    return (checkpoint.position.epoch if checkpoint is not None else None), paths.resume_from


def test_the_newest_in_its_own_directory_is_gone_on_from(here):
    assert found(output="a") == (None, None)
    fill(here / "a" / "checkpoints", 1, 2)
    for options in ({"output": "a"}, {"resume": "a"}, {"resume": "a/", "output": here / "a"}):
        assert found(**options) == (2, None)
    assert found(resume=str(here / "a" / "checkpoints"), output="a") == (2, None)  # however it is written
    assert found(resume="a", output="b") == (2, "a/checkpoints")


def test_a_checkpoint_is_named_from_within_its_directory_too(here, monkeypatch):
    fill(here / "a" / "checkpoints", 1, 2)
    monkeypatch.chdir(here / "a" / "checkpoints")
    name = file_name(Position(1, 0))
    assert found(resume=name, output=here / "b") == (1, name)


# Checkpoints of another run lie in D, and nothing released them.
REFUSED = {
    "it keeps none itself": {"checkpoint_every": "never"},
    "it starts anew": {"resume": "never"},
    "it begins from one of them": {"resume": f"D/{file_name(Position(1, 0))}"},
    "it begins from elsewhere": {"resume": "a"},
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_run_that_does_not_go_on_from_the_checkpoints_in_its_place_is_refused(here, why):
    fill("D", 1, 2, 3)
    fill("a/checkpoints", 1)
    with pytest.raises(UsageError, match=r"D: holds checkpoints of an? .*; name another directory"):
        found(checkpoint_dir="D", output="new", **REFUSED[why])


def test_they_are_passed_by_where_they_may_go(here):
    fill("D", 1, 2)
    assert found(checkpoint_dir="D", output="new", overwrite=True) == (None, None)


def test_a_run_that_began_from_a_checkpoint_elsewhere_goes_on_from_its_own(here):
    """By the same command as at first."""
    fill("a/checkpoints", 1, 2, 3)
    begun = {"resume": f"a/checkpoints/{file_name(Position(2, 0))}", "output": "b"}
    assert found(**begun) == (2, begun["resume"])
    fill("b/checkpoints", 3, 4, resume=begun["resume"])
    assert found(**begun) == (4, None)
    with pytest.raises(UsageError, match="of a run that did not begin from a; name another directory, or go on with"):
        found(resume="a", output="b")
    assert found(output="b") == (4, None)


# The options of a run that was stopped, and how it goes on.
STOPPED = [
    ({"output": "a"}, "the same command again"),
    ({"output": "a", "overwrite": True}, "the same command again, without --overwrite"),
    ({}, "--resume runs/x"),
    ({"overwrite": True}, "--resume runs/x, without --overwrite"),
    ({"checkpoint_dir": "s3://bucket/a"}, "the same command with --output runs/x"),
    ({"resume": "s3://bucket/b", "checkpoint_dir": "s3://bucket/a"}, "the same command with --output runs/x"),
]


@pytest.mark.parametrize(("options", "how"), STOPPED)
def test_a_user_is_told_how_a_stopped_run_goes_on(options, how):
    config = TrainConfig(**options)
    assert how_to_go_on(RunPaths.of(config, Path("runs/x")), config) == f"to go on: {how}"


def test_a_value_by_which_the_best_stays_must_be_one_that_there_is():
    """Else the best checkpoint would be none, for ever and unnoticed."""
    config = {"validation_data": "held_out.csv"}
    for name in ("loss", "mse", "val_loss", "val_mse:max"):
        check_keep_best(TrainConfig(**config, keep_best=name), ["mse"])
    with pytest.raises(UsageError, match=r"--keep-best val_los: .*; the values are loss, mse, val_loss, val_mse$"):
        check_keep_best(TrainConfig(**config, keep_best="val_los"), ["mse"])
    with pytest.raises(UsageError, match=r"--keep-best val_loss: .*; the values are loss, mse$"):
        check_keep_best(TrainConfig(keep_best="val_loss"), ["mse"])
