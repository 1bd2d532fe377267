#!/usr/bin/env bash
# Trains on this machine, with all its devices.
set -euo pipefail
# shellcheck source=launch/workers.sh
. "$(dirname "${BASH_SOURCE[0]}")/workers.sh"

usage="usage: launch/local.sh [--dry-run] [-- ARGUMENTS]

Runs 'python -m disttrain ARGUMENTS' in one process, which uses all GPUs of the
machine; without any, it uses the CPU. For a process on each GPU: launch/horovod.sh.

  --dry-run  print the command, and do not run it

environment:
  PYTHON                the Python to use (default: that of .venv, else python)
  CUDA_VISIBLE_DEVICES  the GPUs to use

Exit codes are disttrain's: see python -m disttrain --help."

read_arguments "$@"
command=(env "PYTHONPATH=$PYTHONPATH" "$python" "${training[@]}")
if [ -n "$dry_run" ]; then start "${command[@]}"; fi
exec "${command[@]}"
