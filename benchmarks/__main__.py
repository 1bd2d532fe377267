"""Runs all benchmarks one after the other; prints their tables and writes a JSON file for each.

python -m benchmarks
python -m benchmarks --only end_to_end --directory runs/benchmarks
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import ROOT

LONG = ("launch_settings", "network", "checkpoint", "tables", "scaling")  # minutes to half an hour each
SCRIPTS = (
    "parse",
    "columns",
    "formats",
    "index",
    "stream",
    "step",
    "allreduce",
    "predict",
    "memory",
    "end_to_end",
    *LONG,
)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="these scripts alone")
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "benchmarks", help="for NAME.json")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.only if not run(name, options.directory.resolve() / f"{name}.json")]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(name, results):
    print(f"\n== python -m benchmarks.{name}: {first_line(name)}", flush=True)
    return (
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json", str(results)], cwd=ROOT).returncode == 0
    )


def first_line(name):
    return (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1].splitlines()[0]


if __name__ == "__main__":
    main()
