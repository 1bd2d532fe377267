"""A run survives output that cannot be printed, and files that killed or foreign writers left."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from command import command_line, disttrain, environment, regression_rows, trained, write_csv

from disttrain.checkpoints.file import Checkpoint, Position, file_name, read_checkpoint, write_checkpoint
from disttrain.errors import CheckpointError
from disttrain.storage.local import ABANDONED_S, remove_parts


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("output")
    write_csv(place / "a.csv", *regression_rows(500))
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirected",
    [pytest.param(how, marks=pytest.mark.slow) for how in (">&-", "2>&-", "<&- >&- 2>&-")] + [">/dev/full 2>&1"],
)
def test_closed_or_full_output_ends_no_run(place, redirected):
    name = f"run{abs(hash(redirected))}"
    command = " ".join(command_line("--data", "a.csv", "--epochs", 2, "--output", name))
    done = subprocess.run(["sh", "-c", f"{command} {redirected}"], cwd=place, env=environment(place), timeout=120)
    assert done.returncode == 0
    assert {"model.keras", "history.csv", "config.json"} <= set(os.listdir(place / name))


@pytest.mark.slow
def test_a_directory_for_temporary_files_that_is_full_or_missing_is_no_matter(place):
    trained(place, "untemporary", "--data", "a.csv", "--epochs", 1, cold=True, TMPDIR="/nonexistent")


@pytest.mark.slow
def test_parts_of_killed_runs_go(place):
    path = trained(place, "parts", "--data", "a.csv", "--epochs", 1)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f".history.csv.{ended.pid}-00ff00ff.part", f".mine.csv.{ended.pid}-00ff00ff.part"):
        (path / name).write_text("half")
    (path / f".model.keras.{ended.pid}-00ff00ff.part").mkdir()
    (path / f".model.keras.{ended.pid}-00ff00ff.part/model.keras").touch()
    trained(place, "parts", "--data", "a.csv", "--epochs", 2)
    assert [name for name in os.listdir(path) if name.endswith(".part")] == [f".mine.csv.{ended.pid}-00ff00ff.part"]


def test_where_others_may_write_only_old_parts_go(tmp_path):
    old, new = (tmp_path / f".a.npz.{number}-00ff.part" for number in (1, 2))
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - ABANDONED_S - 1,) * 2)
    remove_parts(tmp_path, r"a\.npz", with_living_writers=True)
    assert os.listdir(tmp_path) == [new.name]
    remove_parts(tmp_path / "nowhere", "a", with_living_writers=True)


# -- checkpoints with right digests and foreign content


def rewritten(tmp_path, change):
    """A checkpoint whose about.json was changed, with the digests that belong to it."""
    import hashlib
    import io
    import zipfile

    stream = io.BytesIO()
    write_checkpoint(Checkpoint(Position(1, 2), {"a": 1}, {"weights": np.ones(3)}), stream)
    archive = zipfile.ZipFile(io.BytesIO(stream.getvalue()))
    content = json.loads(archive.read("about.json"))
    change(content)
    data = stream.getvalue()
    end = data.rindex(b"disttrain checkpoint format")
    _, _, _, _, _, tail, _, about, *_ = data[end:].split()
    tail_start, about_start = int(tail), int(about.split(b"+")[0])
    text = json.dumps(content).encode()
    new = data[tail_start:about_start] + text
    comment = b"disttrain checkpoint format 1 tail %015d about %015d+%015d sha256 " % (
        tail_start,
        about_start,
        len(text),
    )
    whole = new + comment
    return data[:tail_start] + whole + hashlib.sha256(whole).hexdigest().encode()


FOREIGN = [
    lambda content: content.pop("position"),
    lambda content: content.update(position=[1, 2]),
    lambda content: content.update(position={"epoch": "x", "step": 2}),
    lambda content: content.update(about=3),
    lambda content: content.update(arrays=3),
    lambda content: content.update(marker=None),
    lambda content: content["arrays"][0].pop("dtype"),
    lambda content: content["arrays"][0].update(dtype="no such"),
    lambda content: content["arrays"][0].update(dtype="|O"),
    lambda content: content["arrays"][0].update(shape=[10**15]),
    lambda content: content["arrays"][0].update(shape=[10**30]),
    lambda content: content["arrays"][0].update(shape="x"),
    lambda content: content["arrays"][0].update(stop=10**15, shape=[10**14]),
    lambda content: content["arrays"][0].update(data=-5),
]


@pytest.mark.parametrize("change", FOREIGN)
def test_a_checkpoint_with_right_digests_and_foreign_content_is_refused(tmp_path, change):
    with pytest.raises(CheckpointError, match="here: has correct digests, but not the content that disttrain writes"):
        read_checkpoint(rewritten(tmp_path, change), "here")


@pytest.mark.parametrize(
    "about", [{}, {"standing": 3}, {"standing": {"results": [], "progress": {}, "stopped_early": 1}}]
)
@pytest.mark.slow
def test_a_checkpoint_of_something_else_starts_no_run(place, about):
    directory = place / f"foreign{len(str(about))}" / "checkpoints"
    directory.mkdir(parents=True)
    with (directory / file_name(Position(1, 2))).open("wb") as stream:
        write_checkpoint(Checkpoint(Position(1, 2), about, {}), stream)
    done = disttrain(place, "--data", "a.csv", "--epochs", 2, "--output", directory.parent)
    assert done.returncode == 2, done.stderr
    assert "is whole, but not from a disttrain run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_in_a_pod_nothing_is_advised_that_would_start_anew_with_each_pod(place):
    (place / "held").mkdir()
    (place / "held/model.keras").touch()
    for environ in ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}):
        done = disttrain(place, "--data", "a.csv", "--output", "held", **environ)
        assert done.returncode == 2
        assert ("choose another DISTTRAIN_RUN" in done.stderr) == bool(environ), done.stderr
