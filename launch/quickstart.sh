#!/usr/bin/env bash
# Sets disttrain up and trains: on the built-in sample, or as the arguments say.
set -euo pipefail

usage="usage: launch/quickstart.sh [ARGUMENTS]

Makes .venv in the repository root if it is not there (a minute or two), then runs
'python -m disttrain ARGUMENTS' in it. Without arguments that trains a small model on
the built-in sample: no Horovod, no server, no cloud.

For what ARGUMENTS can be: launch/quickstart.sh train --help
For which Python is used:  launch/setup.sh --help"
case ${1:-} in
  -h | --help) echo "$usage" && exit ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/launch/setup.sh"
exec "$root/.venv/bin/python" -m disttrain "$@"
