"""Starts runs that tests stop, kill or damage, and compares their results with those of undisturbed runs."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
import psutil
from command import ROOT, command_line, environment, regression_rows, write_csv
from counting import NUM_ROWS
from warm import Warm

from disttrain.checkpoints.file import Checkpoint, position_of, read_checkpoint

PATIENCE_S = 240
STOPPED = 75


def write_data(directory: Path) -> None:
    """Writes data.csv and validation.csv, whose first column is the row number."""
    for name, num_rows, seed in (("data.csv", NUM_ROWS, 0), ("validation.csv", 307, 1)):
        x, y = regression_rows(num_rows, seed=seed)
        write_csv(directory / name, np.concatenate([np.arange(num_rows, dtype=np.float32)[:, None], x], axis=1), y)


class Run:
    """The command in a process of its own, warm (see warm.py) or cold, or under horovodrun; its output is in a file."""

    def __init__(
        self, directory: Path, *arguments, processes: int | None = None, cold: bool = False, **extra: str
    ) -> None:
        self.log = directory / f"log-{time.monotonic_ns()}.txt"
        self.log.touch()
        self.released = directory / "release"
        self.released.unlink(missing_ok=True)
        environ = environment(directory, **extra)
        environ["PYTHONPATH"] += os.pathsep + str(ROOT / "tests")
        self.process: subprocess.Popen[bytes] | Warm
        if not processes and not cold:
            self.process = Warm([*map(str, arguments)], directory, environ, self.log, self.log)
            return
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command_line(*arguments, processes=processes), cwd=directory, env=environ, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.log.read_text()

    def wait_until(self, is_so, what: str, poll_s: float = 0.001) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, f"not {what}: {self.text()}"
            assert self.process.poll() is None, f"ended before {what}: {self.text()}"
            time.sleep(poll_s)

    def release(self) -> None:
        """Lets a run continue that `HOLD_AT` holds; see counting.py."""
        self.released.touch()

    def wait_for(self, words: str, times: int = 1) -> None:
        self.wait_until(lambda: self.text().count(words) >= times, words)

    def workers(self) -> list[int]:
        """Returns the process ids of the ranks that have started, in the order of ranks."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if process.cmdline()[1:3] == ["-m", "disttrain"]:
                    found.append((int(process.environ()["HOROVOD_RANK"]), process.pid))
            except psutil.Error:
                continue
        return [pid for _, pid in sorted(found)]

    def finish(self, *codes: int) -> str:
        """Waits for the end, which must have one of these exit codes (default: 0); returns the output."""
        try:
            found = self.process.wait(PATIENCE_S)
        finally:
            self.close()
        assert found in (codes or (0,)), f"exit code {found}: {self.text()}"
        return self.text()

    def close(self) -> None:
        """Kills all processes that are left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


def run(directory: Path, *arguments, code: int = 0, processes: int | None = None, **extra: str) -> str:
    """Runs the command to its end, which must have this exit code; returns the output."""
    return Run(directory, *arguments, processes=processes, **extra).finish(code)


def checkpoints(place: Path) -> list[Path]:
    """The checkpoints in a directory, the furthest last."""
    return sorted(path for path in place.glob("*.ckpt") if position_of(path.name))


def read(path: Path) -> Checkpoint:
    return read_checkpoint(path.read_bytes(), path.name)


def assert_same_end(run: Path, other: Path) -> None:
    """Asserts that both runs' last checkpoints, models and histories are the same, bit for bit."""
    ours, theirs = (read(checkpoints(place / "checkpoints")[-1]) for place in (run, other))
    assert ours.position == theirs.position
    assert set(ours.arrays) == set(theirs.arrays)
    for name in ours.arrays:
        np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name], name)
    assert ours.about["callbacks"] == theirs.about["callbacks"]
    for mine, other_one in zip(model(run).get_weights(), model(other).get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other_one)
    assert timeless_history(run) == timeless_history(other)


def timeless_history(run: Path) -> list[str]:
    """The lines of history.csv without the times."""
    return [re.sub(r",[\d.]+,\d+$", "", line) for line in (run / "history.csv").read_text().splitlines()]


def model(run: Path) -> keras.Model:
    return keras.saving.load_model(run / "model.keras")


def row_counts(run: Path) -> np.ndarray:
    """Returns how often each row was used, as counted by the model of `counting`, float [NUM_ROWS]."""
    return np.asarray(model(run).get_layer("rows").counts)
