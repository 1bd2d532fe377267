# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is read by the scripts that source this
# Sourced by local.sh, horovod.sh and mpi.sh: the Python, the hosts, and how a command is started.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=$(basename "$0" .sh)
fail() { echo "$name: $*" >&2 && exit 2; }
# shellcheck source=launch/arguments.sh
. "$root/launch/arguments.sh"

pythons=("$root/.venv/bin/python" python python3)
if [ -n "${PYTHON:-}" ]; then pythons=("$PYTHON"); fi
python=$(command -v "${pythons[@]}" | head -n 1 || true)
[ -n "$python" ] || fail "there is no ${PYTHON:-python}; to make .venv, run: launch/setup.sh"
[[ :${PYTHONPATH:-}: == *:"$root":* ]] || export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # workers find disttrain anywhere
count_gpus() { nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true; }

find_hosts() { # sets $hosts (HOST:SLOTS,...) and $np
  local gpus slots count
  gpus=$(count_gpus)
  if [ -n "${DISTTRAIN_HOSTS:-}" ]; then hosts=$DISTTRAIN_HOSTS
  elif [ -n "${DISTTRAIN_HOSTS_FILE:-}" ]; then hosts=$("$root/launch/discovery/hosts-file.sh" "$DISTTRAIN_HOSTS_FILE")
  elif [ -n "${SLURM_JOB_NODELIST:-}${PBS_NODEFILE:-}" ]; then hosts=$("$root/launch/discovery/job.sh")
  elif [ -n "${LSB_JOBID:-}" ]; then fail "an LSF job's hosts are not found out; name them: -H HOST:SLOTS,..."
  else hosts=localhost:${DISTTRAIN_NP:-$((gpus ? gpus : 2))}; fi
  hosts=${hosts//$'\n'/,}
  [[ ,$hosts =~ ^(,[A-Za-z0-9_.-]+:[1-9][0-9]*)+$ ]] || fail "expected hosts as HOST:SLOTS,HOST:SLOTS,..., found '$hosts'"
  slots=0
  for count in ${hosts//,/ }; do slots=$((slots + ${count#*:})); done
  np=${DISTTRAIN_NP:-$slots}
  [ "$np" -le "$slots" ] || fail "-np $np is more than the $slots slots of $hosts"
}

start() { # start COMMAND...: prints it for --dry-run, else runs it
  if [ -n "$dry_run" ]; then printf -v line '%q ' "$@" && echo "${line% }" && exit; fi
  exec "$python" "$root/launch/supervise.py" "$@"
}
