# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is read by the scripts that source this
# Sourced by local.sh, horovod.sh and mpi.sh: their arguments, the Python, the hosts, and how a command is started.
: "${usage:?}" "${root:?}"
name=$(basename "$0" .sh)
fail() { echo "$name: $*" >&2 && exit 2; }

pythons=("$root/.venv/bin/python" python python3)
if [ -n "${PYTHON:-}" ]; then pythons=("$PYTHON"); fi
python=$(command -v "${pythons[@]}" | head -n 1 || true)
[ -n "$python" ] || fail "there is no ${PYTHON:-python}; to make .venv, run: launch/setup.sh"
[[ :${PYTHONPATH:-}: == *:"$root":* ]] || export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # workers find disttrain anywhere
count_gpus() { nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true; }

# An option sets the variable of its name, which may have been set before.
declare -A variables=([-np]=NP [-H]=HOSTS [--hostfile]=HOSTS_FILE [--network-interface]=NETWORK_INTERFACE
  [--ssh-port]=SSH_PORT [--ssh-key]=SSH_KEY [--min-np]=MIN_NP [--max-np]=MAX_NP [--discovery]=DISCOVERY)

read_arguments() { # sets $dry_run, $training and DISTTRAIN_...; takes the options that $usage names
  dry_run=''
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
      -h | --help) echo "$usage" && exit ;;
      --dry-run) dry_run=1 && shift && continue ;;
    esac
    [[ -n $1 && -n ${variables[$1]:-} && $usage == *"  $1 "* ]] ||
      fail "unknown argument '$1' (what is for disttrain goes after --); see --help"
    [ -n "${2:-}" ] || fail "$1 needs a value; see --help"
    case $1 in -H | --hostfile) unset DISTTRAIN_HOSTS DISTTRAIN_HOSTS_FILE ;; esac
    printf -v "DISTTRAIN_${variables[$1]}" %s "$2"
    shift 2
  done
  training=(-m disttrain "${@:2}")
  for count in DISTTRAIN_NP DISTTRAIN_MIN_NP DISTTRAIN_MAX_NP DISTTRAIN_SSH_PORT; do
    [[ ${!count:-1} =~ ^[1-9][0-9]*$ ]] || fail "$count must be a whole number from 1, not '${!count}'"
  done
}

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
