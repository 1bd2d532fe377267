"""What the command does if there are checkpoints already: resumes, adds epochs, or says why it cannot."""

import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from command import command_line, disttrain, environment, history, regression_rows, trained, weights, write_csv
from faults import Run, checkpoints, read

from disttrain.checkpoints.file import position_of

OPTIONS = ("--data", "data.csv", "--batch-size", 50, "--epochs", 2, "--checkpoint-every", "epoch", "--keep", 5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("going_on")
    write_csv(directory / "data.csv", *regression_rows(1003))
    write_csv(directory / "other.csv", *regression_rows(1009, seed=3))
    return directory


@pytest.fixture(scope="module")
def done(place):
    """A run of two epochs that has ended."""
    return trained(place, "done", *OPTIONS)


@pytest.fixture
def copy(place, done, request):
    """A copy of that run, to be resumed."""
    name = re.sub(r"\W", "", request.node.name)
    return shutil.copytree(done, place / name)


@pytest.mark.slow
def test_a_run_that_has_ended_is_not_trained_again(done, place):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    again = disttrain(place, *OPTIONS, "--output", "done")
    assert (again.returncode, again.stderr) == (0, "")
    assert "done: already trained; --epochs adds epochs, --overwrite starts over\n" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


@pytest.mark.slow
def test_what_differs_is_shown_side_by_side_with_the_remedy(done, place):
    other = ("--data", "other.csv", "--batch-size", 20, "--hidden", 4, "--num-shards", 2, "--epochs", 3)
    other += ("--metrics", "mse,mae")
    refused = disttrain(place, *other, "--output", "done")
    assert refused.returncode == 2
    text = re.sub(r"(?m)^disttrain: ", "", refused.stderr)
    assert text.startswith("done/checkpoints/epoch-00002-step-000000021.ckpt belongs to another run:\n"), text
    for name, kept, now, remedy in (
        ("data", r"data\.csv \(\S+\)", r"other\.csv \(\S+\)", "put the file back, or start over with --overwrite"),
        ("rows", "1,003", "1,009", "put the file back.*"),
        ("batch size", "50", "20", "--batch-size 50, or.*"),
        ("num shards", "1", "2", "--num-shards 1, or.*"),
        ("metrics", "mse", "mse,mae", "--metrics mse, or.*"),
        ("model", r"\S+/dense/kernel \[3, 16\] float32", r"\S+/dense/kernel \[3, 4\] float32", ".* --hidden.*"),
    ):
        lines = (
            f"  {name}",
            f"    in the checkpoint: {kept}",
            f"    in this run:       {now}",
            f"    what to do:        {remedy}",
        )
        assert re.search(r"(\n {5,}.*)*\n".join(lines), text), f"{name}: {text}"
    assert "optimizer" not in text  # which differs as the model does


@pytest.mark.slow
def test_starting_anew_beside_checkpoints_is_refused_unless_they_may_go(copy, place):
    refused = disttrain(place, *OPTIONS, "--output", copy.name, "--resume", "never")
    assert (refused.returncode, len(refused.complaints)) == (2, 1)
    assert "holds checkpoints of an earlier run; name another directory or add --overwrite" in refused.complaints[0]
    assert len(checkpoints(copy / "checkpoints")) == 2
    trained(place, copy.name, *OPTIONS[2:], "--data", "other.csv", "--overwrite")
    assert [path.name for path in checkpoints(copy / "checkpoints")] == [
        "epoch-00001-step-000000021.ckpt",
        "epoch-00002-step-000000021.ckpt",
    ]
    assert read(checkpoints(copy / "checkpoints")[0]).about["run"]["num_rows"] == 1009


@pytest.mark.slow
def test_more_epochs_are_added_where_a_run_ended_or_at_any_of_its_checkpoints(copy, place, done):
    """By the same command or in another directory; from the checkpoint of its first epoch or of its last."""
    more = (*OPTIONS, "--epochs", 4)
    whole = trained(place, "four", *more)
    trained(place, copy.name, *more)
    first = checkpoints(done / "checkpoints")[0]
    assert first.name.startswith("epoch-00001-")
    before = sorted(os.listdir(done))
    trained(place, "elsewhere", *OPTIONS, "--resume", first)
    trained(place, "elsewhere", *more, "--resume", first)  # goes on from its own checkpoints
    assert [path.name[:11] for path in checkpoints(place / "elsewhere" / "checkpoints")] == [
        f"epoch-0000{epoch}" for epoch in (2, 3, 4)
    ]
    assert sorted(os.listdir(done)) == before
    for ended in (copy, place / "elsewhere"):
        for ours, theirs in zip(weights(ended), weights(whole), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert history(ended)["loss"] == history(whole)["loss"]
        assert history(ended)["epoch"] == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_best_checkpoint_stays_where_the_run_goes_on(place):
    """The learning rate is so large that each epoch is worse."""
    options = (*OPTIONS[:4], "--validation-data", "other.csv", "--keep", 1, "--checkpoint-every", "epoch")
    trained(place, "best", *options, "--epochs", 2)
    best = trained(place, "best", *options, "--epochs", 4, "--learning-rate", 10)
    losses = history(best)["val_loss"]
    assert min(losses) == min(losses[:2])
    kept = [position_of(path.name).epoch for path in checkpoints(best / "checkpoints")]
    assert kept == [losses.index(min(losses)) + 1, 4]


@pytest.mark.slow
def test_a_run_without_a_checkpoint_at_the_place_that_was_named_is_an_error(place):
    refused = disttrain(place, *OPTIONS, "--resume", "nowhere", "--output", "unused")
    assert refused.returncode == 2
    assert "nowhere: has no usable checkpoint" in refused.complaints[0]
    assert not (place / "unused").exists()


ENDLESS = ("--data", "data.csv", "--batch-size", 1, "--epochs", 1_000_000, "--checkpoint-every", 500)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_the_last_checkpoint_is_whole(place):
    """A slow callback delays the checkpoint that the first Ctrl-C asks for."""
    (place / "tarrying.py").write_text(
        "import keras, time\n"
        "class Tarrying(keras.callbacks.Callback):\n"
        "    def on_epoch_end(self, epoch, logs=None):\n"
        "        if epoch == 3:\n"
        "            print('tarries', flush=True)\n"
        "            time.sleep(600)\n"
        "def callbacks():\n"
        "    return [Tarrying()]\n"
    )
    going = Run(place, *ENDLESS, "--callbacks", "tarrying:callbacks", "--output", "twice")
    going.wait_for("tarries")
    going.process.send_signal(signal.SIGINT)
    going.wait_for("SIGINT: stopping at the end of this superstep, with a checkpoint; Ctrl-C ends at once")
    time.sleep(1)
    begun_s = time.monotonic()
    going.process.send_signal(signal.SIGINT)
    told = going.finish(130)
    assert time.monotonic() - begun_s < 20
    assert told.endswith("disttrain: interrupted\n")
    assert read(checkpoints(place / "twice" / "checkpoints")[-1]).position.epoch == 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_ctrl_c_in_a_terminal_keeps_a_checkpoint(place):
    """A terminal's Ctrl-C goes to all processes in it: the shell, and the run."""
    script = f"{' '.join(command_line(*ENDLESS, '--output', 'terminal'))}; echo code $? >code.txt; sleep 100"
    tmux = ["tmux", "-L", f"disttrain-{os.getpid()}"]
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "120", "-y", "40", "bash", "-c", script],
        cwd=place, env=environment(place), check=True,
    )  # fmt: skip
    try:
        wait_until(lambda: checkpoints(place / "terminal" / "checkpoints"))
        subprocess.run([*tmux, "send-keys", "C-c"], check=True)
        wait_until((place / "code.txt").exists)
        shown = subprocess.run([*tmux, "capture-pane", "-p", "-J"], capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)
    wait_until(lambda: (place / "code.txt").read_text() == "code 75\n", 30)
    assert re.search(r"disttrain: stopped in epoch \d+, after step [\d,]+; to go on: the same command again", shown)


def wait_until(is_so, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
