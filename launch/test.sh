#!/usr/bin/env bash
# Sets everything up, Horovod too, and runs what CI runs.
set -euo pipefail

usage="usage: launch/test.sh [PYTEST ARGUMENTS]

Makes .venv in the repository root with everything that disttrain can use, builds
Horovod (the first time: two to five minutes), then runs ruff, mypy, shellcheck and
pytest. The quick part only: launch/test.sh -m 'not slow'"
case ${1:-} in
  -h | --help) echo "$usage" && exit ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/launch/setup.sh" --all
"$root/launch/install-horovod.sh" "$root/.venv/bin/python"

cd "$root"
export PATH=$root/.venv/bin:$PATH
echo "Checking the code: ruff, mypy, shellcheck"
ruff check --quiet
ruff format --check --quiet || { echo "test: not formatted; run: .venv/bin/ruff format" >&2 && exit 1; }
mypy --no-error-summary
shellcheck --external-sources .ci/run launch/*.sh launch/slurm.sbatch launch/{horovod,collective}/*.sh launch/horovod/bin/* launch/{discovery,container}/*.sh
echo "Running the tests"
# Three processes for two cores: tests wait for others' time limits a third of the time. In the order of their names,
# files that must not run beside each other (tests/conftest.py) seldom meet.
exec python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder "$@"
