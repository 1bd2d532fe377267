#!/usr/bin/env bash
# Trains with one worker per GPU or slot, on one machine or several, by horovodrun over Gloo.
set -euo pipefail

usage="usage: launch/horovod.sh [OPTIONS] [-- ARGUMENTS]

Runs 'python -m disttrain ARGUMENTS' in every worker. Hosts are those of -H, else of
--hostfile, else of the scheduler's job (Slurm, PBS), else this machine.

  -np N                  workers (default: the hosts' slots; on this machine its GPUs,
                         or 2 without one)
  -H A:2,B:2             hosts and their slots
  --hostfile FILE        a line 'HOST:SLOTS' or 'HOST slots=SLOTS' for each host
  --network-interface I  the interface between the hosts, of one name on all of them
  --ssh-port PORT        of all other hosts (default: 22)
  --ssh-key FILE         private key for them (default: ssh's own)
  --discovery SCRIPT     elastic: prints the hosts whenever it is asked, as those in
                         launch/discovery/ do; workers may come and go
  --min-np N             elastic: fewer workers wait for more (default: -np)
  --max-np N             elastic: no more workers than these
  --dry-run              print the command, and do not run it

environment: DISTTRAIN_NP, _HOSTS, _HOSTS_FILE, _NETWORK_INTERFACE, _SSH_PORT, _SSH_KEY,
  _DISCOVERY, _MIN_NP, _MAX_NP stand for these options; DISTTRAIN_HOROVODRUN_FLAGS holds
  more flags for horovodrun, split at spaces; PYTHON is the Python of all hosts.

SIGTERM and Ctrl-C let the workers write a checkpoint first, and then it ends with 75.
Exit codes are disttrain's: see python -m disttrain --help."
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/workers.sh
. "$root/launch/workers.sh"

read_arguments "$@"
horovodrun=$(command -v "${python%/*}/horovodrun" || command -v horovodrun) ||
  fail "there is no horovodrun beside $python; run: launch/install-horovod.sh $python"
command=(env "PYTHONPATH=$PYTHONPATH" "$horovodrun" --gloo)
if [ -n "${DISTTRAIN_DISCOVERY:-}" ]; then
  command+=(-np "${DISTTRAIN_NP:-${DISTTRAIN_MIN_NP:-2}}" --host-discovery-script "$DISTTRAIN_DISCOVERY")
  [ -z "${DISTTRAIN_MIN_NP:-}" ] || command+=(--min-np "$DISTTRAIN_MIN_NP")
  [ -z "${DISTTRAIN_MAX_NP:-}" ] || command+=(--max-np "$DISTTRAIN_MAX_NP")
else
  [ -z "${DISTTRAIN_MIN_NP:-}${DISTTRAIN_MAX_NP:-}" ] ||
    fail "--min-np and --max-np need --discovery SCRIPT, such as 'launch/discovery/hosts-file.sh hosts.txt'"
  find_hosts
  command+=(-np "$np" -H "$hosts")
fi
[ -z "${DISTTRAIN_NETWORK_INTERFACE:-}" ] || command+=(--network-interface "$DISTTRAIN_NETWORK_INTERFACE")
[ -z "${DISTTRAIN_SSH_PORT:-}" ] || command+=(-p "$DISTTRAIN_SSH_PORT")
[ -z "${DISTTRAIN_SSH_KEY:-}" ] || command+=(-i "$DISTTRAIN_SSH_KEY")
read -ra more <<<"${DISTTRAIN_HOROVODRUN_FLAGS:-}"
start "${command[@]}" "${more[@]}" "$python" "${training[@]}"
