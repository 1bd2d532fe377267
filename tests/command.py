"""Runs the command as a user does: in a process of its own, alone or under horovodrun, in a directory of its own."""

import csv
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from warm import Warm

ROOT = Path(__file__).resolve().parent.parent
HOROVODRUN = Path(sys.executable).with_name("horovodrun")
LAUNCHER = [sys.executable, str(ROOT / "tests" / "horovodrun.py"), "--gloo"]  # starts four seconds sooner
TIMEOUT_S = 300


@dataclass
class Finished:
    """The result of a command that has ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def complaints(self) -> list[str]:
        """Returns what disttrain itself printed on stderr, without the launcher's prefix."""
        return [line[line.index("disttrain:") :] for line in self.stderr.splitlines() if "disttrain:" in line]


def command_line(*arguments, processes: int | None = None) -> list[str]:
    """`python -m disttrain`, under `horovodrun --gloo` where a number of processes is given."""
    launcher = [*LAUNCHER, "-np", str(processes)] if processes else []
    return [*launcher, sys.executable, "-m", "disttrain", *map(str, arguments)]


def environment(directory: Path, **extra: str) -> dict[str, str]:
    """Returns this process's environment without variables that would change a run, and with caches in `directory`."""
    changing = ("DISTTRAIN_", "HOROVOD_", "TF_CPP_")  # TensorFlow sets the last one itself when it is imported
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(directory), str(ROOT / "tests" / "without_jax")])
    return kept | {"DISTTRAIN_CACHE_DIR": str(directory / "cache"), "PYTHONUNBUFFERED": "1"} | extra


def disttrain(directory: Path, *arguments, processes: int | None = None, cold: bool = False, **extra: str) -> Finished:
    """Runs the command in `directory` to its end; one process alone starts warm (see warm.py), unless `cold`."""
    if processes or cold:
        return finished(directory, command_line(*arguments, processes=processes), **extra)
    with tempfile.TemporaryDirectory() as place:
        streams = [Path(place) / name for name in ("stdout", "stderr")]
        running = Warm([*map(str, arguments)], directory, environment(directory, **extra), *streams)
        try:
            running.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            raise
        return Finished(running.returncode, *(path.read_text() for path in streams))


def finished(directory: Path, command: list[str], **extra: str) -> Finished:
    """Runs any command in `directory` to its end, with `environment`."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(directory, **extra),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def trained(
    directory: Path, name: str, *arguments, processes: int | None = None, cold: bool = False, **extra: str
) -> Path:
    """Trains into `directory / name`, which it returns; the command must succeed."""
    done = disttrain(directory, *arguments, "--output", name, processes=processes, cold=cold, **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / name


def history(run: Path) -> dict[str, list[float]]:
    """The columns of a run's history.csv."""
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def weights(run: Path) -> list[np.ndarray]:
    """The trained model's weights, as plain Keras loads them."""
    return keras.saving.load_model(run / "model.keras").get_weights()


def write_csv(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    """Writes a CSV with a header; its numbers read back as exactly these float32 [rows, features], [rows, targets]."""
    names = [f"x{i}" for i in range(x.shape[1])] + [f"y{i}" for i in range(y.shape[1])]
    rows = np.concatenate([x, y], axis=1).astype(np.float64)
    np.savetxt(path, rows, fmt="%.17g", delimiter=",", header=",".join(names), comments="")
    return path


def regression_rows(num_rows: int, num_features: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [rows, num_features] and one noisy target [rows, 1], float32."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (num_rows, num_features)).astype(np.float32)
    y = np.sin(2 * x).sum(axis=1, keepdims=True) + random.normal(0, 0.1, (num_rows, 1))
    return x, y.astype(np.float32)
