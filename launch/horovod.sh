#!/usr/bin/env bash
# Trains with one worker per GPU or slot, on one machine or several, by horovodrun over Gloo.
set -euo pipefail
# shellcheck source=launch/workers.sh
. "$(dirname "${BASH_SOURCE[0]}")/workers.sh"

usage="usage: launch/horovod.sh [OPTIONS] [-- ARGUMENTS]

$options_of_hosts
  --discovery SCRIPT     elastic: prints the hosts whenever it is asked, as those in
                         launch/discovery/ do; workers may come and go
  --min-np N             elastic: fewer workers wait for more (default: -np)
  --max-np N             elastic: no more workers than these
  --dry-run              print the command, and do not run it

environment: DISTTRAIN_NP, _HOSTS, _HOSTS_FILE, _NETWORK_INTERFACE, _SSH_PORT, _SSH_KEY,
  _DISCOVERY, _MIN_NP, _MAX_NP stand for these options; DISTTRAIN_HOROVODRUN_FLAGS holds
  more flags for horovodrun, split at spaces; PYTHON is the Python of all hosts.

$how_it_ends"

read_arguments "$@"
horovodrun=$(command -v "${python%/*}/horovodrun" || command -v horovodrun) ||
  fail "there is no horovodrun beside $python; run: launch/install-horovod.sh $python"
command=(env "PYTHONPATH=$PYTHONPATH")
if [ -n "${DISTTRAIN_DISCOVERY:-}" ]; then
  np=${DISTTRAIN_NP:-${DISTTRAIN_MIN_NP:-2}}
  [ "$np" -ge "${DISTTRAIN_MIN_NP:-1}" ] || fail "-np $np is less than --min-np $DISTTRAIN_MIN_NP"
  [ "$np" -le "${DISTTRAIN_MAX_NP:-$np}" ] || fail "-np $np is more than --max-np $DISTTRAIN_MAX_NP"
  command+=("PATH=$root/launch/horovod/bin:$PATH") # an ssh that notices when its host is gone
  command+=("$horovodrun" --gloo -np "$np" --host-discovery-script "$DISTTRAIN_DISCOVERY")
  [ -z "${DISTTRAIN_MIN_NP:-}" ] || command+=(--min-np "$DISTTRAIN_MIN_NP")
  [ -z "${DISTTRAIN_MAX_NP:-}" ] || command+=(--max-np "$DISTTRAIN_MAX_NP")
else
  [ -z "${DISTTRAIN_MIN_NP:-}${DISTTRAIN_MAX_NP:-}" ] ||
    fail "--min-np and --max-np need --discovery SCRIPT, such as 'launch/discovery/hosts-file.sh hosts.txt'"
  find_hosts
  command+=("$horovodrun" --gloo -np "$np" -H "$hosts")
fi
[ -z "${DISTTRAIN_NETWORK_INTERFACE:-}" ] || command+=(--network-interface "$DISTTRAIN_NETWORK_INTERFACE")
[ -z "${DISTTRAIN_SSH_PORT:-}" ] || command+=(-p "$DISTTRAIN_SSH_PORT")
[ -z "${DISTTRAIN_SSH_KEY:-}" ] || command+=(-i "$DISTTRAIN_SSH_KEY")
read -ra more <<<"${DISTTRAIN_HOROVODRUN_FLAGS:-}"
start "${command[@]}" "${more[@]}" "$python" "${training[@]}"
