# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is read by the scripts that source this
# Sourced by workers.sh: the options of local.sh, horovod.sh and mpi.sh, and what their --help has in common.
usage='' # what --help prints, and so which options there are: set by each

options_of_hosts="Runs 'python -m disttrain ARGUMENTS' in every worker. Hosts are those of -H, else of
--hostfile, else of the scheduler's job (Slurm, PBS), else this machine.

  -np N                  workers (default: the hosts' slots; on this machine its GPUs,
                         or 2 without one)
  -H A:2,B:2             hosts and their slots
  --hostfile FILE        a line 'HOST:SLOTS' or 'HOST slots=SLOTS' for each host
  --network-interface I  the interface between the hosts, of one name on all of them
  --ssh-port PORT        of all other hosts (default: 22)
  --ssh-key FILE         private key for them (default: ssh's own)"
how_it_ends="SIGTERM and Ctrl-C let the workers write a checkpoint first, and then it ends with 75.
Exit codes are disttrain's: see python -m disttrain --help."

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
      fail "unknown argument '$1' (arguments for disttrain go after --); see --help"
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
