#!/usr/bin/env bash
# For horovodrun's --host-discovery-script: this machine, with a slot for each GPU or else each core.
set -euo pipefail

usage="usage: launch/discovery/localhost.sh

Prints 'localhost:N', for horovodrun --host-discovery-script. Without other hosts
horovodrun also needs '--network-interface lo'.

environment:
  DISTTRAIN_SLOTS  N (default: the GPUs that nvidia-smi lists, else the cores that
                   this process may use)"
fail() {
  echo "localhost: $*" >&2
  exit 2
}
case ${1:-} in
  '') ;;
  -h | --help) echo "$usage" && exit ;;
  *) fail "unknown argument '$1'; see --help" ;;
esac

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
slots=${DISTTRAIN_SLOTS:-$([ "$gpus" = 0 ] && nproc || echo "$gpus")}
[[ $slots =~ ^[1-9][0-9]*$ ]] || fail "DISTTRAIN_SLOTS must be a whole number from 1, not '$slots'"
echo "localhost:$slots"
