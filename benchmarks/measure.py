"""What the benchmarks share: runs commands, times functions, describes the machine, writes tables and JSON files."""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]

PACKAGES = (
    "disttrain",
    "horovod",
    "jax",
    "keras",
    "numba",
    "numpy",
    "polars",
    "pyarrow",
    "tensorflow",
    "tensorflow-cpu",
)


def printed(command, environ):
    """Runs a command at the top of the repository and returns what it prints; exits with the end of it on failure."""
    words = list(map(str, command))
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def median_s(function, repeats):
    """Returns the median wall time of `repeats` calls, in seconds, after one call that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begun_s = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun_s)
    return statistics.median(times)


def machine():
    """Returns the machine's processor, memory, versions of packages, and current load."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def write_json(path, results):
    """Writes `{"machine": …, "results": …}`."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"machine": machine(), "results": results}, file, indent=2)
        file.write("\n")


def print_table(titles, rows):
    """Prints aligned columns: the first to the left, the others to the right."""
    table = [[str(cell) for cell in row] for row in [titles, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(titles))]
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]), flush=True)


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
