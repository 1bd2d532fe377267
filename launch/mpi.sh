#!/usr/bin/env bash
# Trains with one worker per GPU or slot, on one machine or several, by Open MPI's mpirun.
set -euo pipefail
# shellcheck source=launch/workers.sh
. "$(dirname "${BASH_SOURCE[0]}")/workers.sh"

usage="usage: launch/mpi.sh [OPTIONS] [-- ARGUMENTS]

$options_of_hosts
  --dry-run              print the command, and do not run it

environment: DISTTRAIN_NP, _HOSTS, _HOSTS_FILE, _NETWORK_INTERFACE, _SSH_PORT, _SSH_KEY
  stand for these options; DISTTRAIN_MPIRUN_FLAGS holds more flags for mpirun, split at
  spaces; PYTHON is the Python of all hosts.

$how_it_ends"

read_arguments "$@"
mpirun=$(command -v mpirun) ||
  fail "there is no mpirun; run: apt-get install openmpi-bin libopenmpi-dev, and then launch/install-horovod.sh"
version=$("$mpirun" --version 2>&1 | head -n 1) || true
[[ $version == *"(Open MPI) 4."* ]] || # 5 starts its daemons by other settings than those below
  fail "expected Open MPI 4, as in Debian 12 and Ubuntu 24.04, found $mpirun of '$version'; or use launch/horovod.sh"
places='import importlib.util as u; print(*u.find_spec("horovod").submodule_search_locations)'
horovod=$("$python" -c "$places" 2>/dev/null) || horovod='' # one without MPI would take each worker for the only one
grep -qs libmpi "$horovod"/tensorflow/mpi_lib*.so ||
  fail "$python has no Horovod with MPI; run: launch/install-horovod.sh $python"
find_hosts

command=(env "PYTHONPATH=$PYTHONPATH")
if [ "$(id -u)" = 0 ]; then command+=(OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1); fi # as in containers
command+=("$mpirun" -np "$np")
passed='PATH|PYTHONPATH|LD_LIBRARY_PATH|XLA_FLAGS|(DISTTRAIN|AWS|GOOGLE|AZURE|HOROVOD|NCCL|TF)_.*'
# In a Slurm job mpirun takes the job's nodes by itself, and starts there by srun; elsewhere by ssh, and there a daemon
# whose host is cut off would wait for mpirun for ever.
if [ -z "${SLURM_JOB_NODELIST:-}" ] || [ -n "${DISTTRAIN_HOSTS:-}${DISTTRAIN_HOSTS_FILE:-}" ]; then
  command+=(-H "$hosts" -mca orte_launch_agent "$python $root/launch/supervise.py orted")
  passed+='|CUDA_VISIBLE_DEVICES' # Slurm gives each of its nodes that node's own
fi
# Else each worker gets one core, whatever threads it has, and two runs on one machine get the same ones. With as many
# workers as cores and nothing else there, --bind-to core is a little faster (docs/performance.md).
command+=(--bind-to none --map-by slot)
command+=(-mca pml ob1 -mca btl '^openib') # TCP and shared memory; openib fails with threads, and NCCL needs no help
interface=${DISTTRAIN_NETWORK_INTERFACE:-} # else it tries them all, and waits for those that lead nowhere
if [ -n "$interface" ]; then
  command+=(-mca btl_tcp_if_include "$interface" -mca oob_tcp_if_include "$interface" -x "NCCL_SOCKET_IFNAME=$interface")
fi
ssh="-o BatchMode=yes${DISTTRAIN_SSH_PORT:+ -p $DISTTRAIN_SSH_PORT}${DISTTRAIN_SSH_KEY:+ -i $DISTTRAIN_SSH_KEY}"
command+=(-mca plm_rsh_args "$ssh") # BatchMode: a missing key is an error, not a question nobody sees
for variable in $(compgen -e | grep -xE "$passed" | sort); do command+=(-x "$variable"); done # else other hosts get none
read -ra more <<<"${DISTTRAIN_MPIRUN_FLAGS:-}"
start "${command[@]}" "${more[@]}" "$python" "${training[@]}"
