#!/usr/bin/env bash
# The hosts of the scheduler's job, for launch/horovod.sh and launch/mpi.sh: of Slurm or PBS.
set -euo pipefail

usage="usage: launch/discovery/job.sh

Prints 'HOST:SLOTS' for each host of the Slurm or PBS job that it runs in.

environment, as the scheduler sets it:
  SLURM_JOB_NODELIST, SLURM_TASKS_PER_NODE  the nodes, such as node[1-4], and their
                                            tasks, such as 8(x3),4
  PBS_NODEFILE                              a file with a line for each slot"
fail() {
  echo "job: $*" >&2
  exit 2
}
case ${1:-} in
  '') ;;
  -h | --help) echo "$usage" && exit ;;
  *) fail "unknown argument '$1'; see --help" ;;
esac

if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
  slots=()
  for part in ${SLURM_TASKS_PER_NODE//,/ }; do
    [[ $part =~ ^([1-9][0-9]*)(\(x([0-9]+)\))?$ ]] ||
      fail "SLURM_TASKS_PER_NODE: expected such as 8(x3),4, found '$SLURM_TASKS_PER_NODE'"
    for ((i = 0; i < ${BASH_REMATCH[3]:-1}; i++)); do slots+=("${BASH_REMATCH[1]}"); done
  done
  names=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
  mapfile -t hosts <<<"$names"
  [ ${#hosts[@]} = ${#slots[@]} ] ||
    fail "$SLURM_JOB_NODELIST is ${#hosts[@]} nodes, but SLURM_TASKS_PER_NODE=$SLURM_TASKS_PER_NODE is for ${#slots[@]}"
  for i in "${!hosts[@]}"; do echo "${hosts[i]}:${slots[i]}"; done
elif [ -n "${PBS_NODEFILE:-}" ]; then
  [ -r "$PBS_NODEFILE" ] || fail "PBS_NODEFILE: there is no $PBS_NODEFILE that can be read"
  declare -A counts=()
  hosts=()
  while read -r host; do
    [ -n "${counts[$host]:-}" ] || hosts+=("$host")
    counts[$host]=$((${counts[$host]:-0} + 1))
  done <"$PBS_NODEFILE"
  for host in "${hosts[@]}"; do echo "$host:${counts[$host]}"; done
else
  fail "this is no job of Slurm or PBS: neither SLURM_JOB_NODELIST nor PBS_NODEFILE is set"
fi
