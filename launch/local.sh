#!/usr/bin/env bash
# Trains on this machine, with all its devices.
set -euo pipefail
# shellcheck source=launch/workers.sh
. "$(dirname "${BASH_SOURCE[0]}")/workers.sh"

usage="usage: launch/local.sh [--dry-run] [-- ARGUMENTS]

Runs 'python -m disttrain ARGUMENTS' in one process. Where the machine has several
GPUs, it starts launch/horovod.sh instead, with a process for each GPU, and says so:
one process alone uses one device.

  --dry-run  print the command, and do not run it

environment:
  PYTHON                the Python to use (default: that of .venv, else python)
  CUDA_VISIBLE_DEVICES  the GPUs to use; naming one keeps to a single process

Exit codes are disttrain's: see python -m disttrain --help."

read_arguments "$@"
gpus=$(count_gpus)
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then # as many as it names
  gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true)
fi
if [ "$gpus" -gt 1 ]; then
  echo "local: $gpus GPUs, so a process for each: launch/horovod.sh -np $gpus" >&2
  exec "$root/launch/horovod.sh" ${dry_run:+--dry-run} -np "$gpus" -H "localhost:$gpus" -- "${training[@]:2}"
fi
command=(env "PYTHONPATH=$PYTHONPATH" "$python" "${training[@]}")
if [ -n "$dry_run" ]; then start "${command[@]}"; fi
exec "${command[@]}"
