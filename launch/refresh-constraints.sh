#!/usr/bin/env bash
# Writes launch/constraints.txt: the newest versions that pyproject.toml allows, with hashes, in sections.
set -euo pipefail

usage="usage: launch/refresh-constraints.sh

Resolves pyproject.toml for Python 3.10 to 3.13 and every platform, and writes
launch/constraints.txt: exact versions with hashes. Takes about a minute.
Needs uv (pip install uv) and Python 3.11 or newer."
case ${1:-} in
  -h | --help) echo "$usage" && exit ;;
  ?*) echo "refresh-constraints: unknown argument '$1'; see --help" >&2 && exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v uv >/dev/null || { echo "refresh-constraints: uv is not installed; run: pip install uv" >&2 && exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

resolve() { # resolve NAME ARGUMENTS...: writes $work/NAME
  echo "Resolving: $1"
  uv --no-config pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
    --only-binary :all: --output-file "$work/$1" pyproject.toml "${@:2}"
}
resolve everything --all-extras --group launch
resolve base --extra horovod --group launch --constraints "$work/everything"
resolve stores --extra horovod --extra s3 --extra gcs --extra azure --extra http --group launch --constraints "$work/everything"
resolve cuda --extra horovod --extra cuda --group launch --constraints "$work/everything"

"${PYTHON:-python3}" - "$work" launch/constraints.txt <<'PYTHON'
import re
import sys
from pathlib import Path

work, target = map(Path, sys.argv[1:])
names = ("everything", "base", "cuda", "stores")
everything, base, cuda, stores = (re.split(r"\n(?=\S)", (work / name).read_text().strip()) for name in names)


def named(blocks):
    """The blocks that pin the versions of `blocks`: their markers may differ, where other extras ask for them, too."""
    pins = {block.split()[0] for block in blocks}
    return lambda block: block.split()[0] in pins


sections = {
    "tensorflow-cpu": ("Linux on x86_64 without an NVIDIA GPU", lambda block: block.startswith("tensorflow-cpu==")),
    "tensorflow": ("every other machine", lambda block: block.startswith("tensorflow==")),
    "base": ("what training needs, and Horovod's build", named(base)),
    "cuda": ("CUDA libraries, on Linux with an NVIDIA GPU", named(cuda)),
    "stores": ("object stores", named(stores)),
    "all": ("tests, benchmarks", lambda block: True),
}
lines = ["# Exact versions with hashes, made by launch/refresh-constraints.sh from pyproject.toml: do not edit.",
         "# launch/setup.sh installs the sections that it is asked for."]
left = everything + [block for block in base + cuda + stores if not named(everything)(block)]
for section, (purpose, belongs) in sections.items():
    lines += ["", f"# [{section}] {purpose}", *filter(belongs, left)]
    left = [block for block in left if not belongs(block)]
target.with_suffix(".new").write_text("\n".join(lines) + "\n")
target.with_suffix(".new").replace(target)
print(f"Wrote {target}: {len(everything)} packages")
PYTHON
