#!/usr/bin/env bash
# For horovodrun's --host-discovery-script: the hosts that a file names; edit it while the run goes on.
set -euo pipefail

usage="usage: launch/discovery/hosts-file.sh FILE

Prints 'HOST:SLOTS' for each line of FILE, for horovodrun:

  --host-discovery-script 'launch/discovery/hosts-file.sh hosts.txt'

Lines are 'HOST:SLOTS', 'HOST slots=SLOTS' or 'HOST' (one slot); what follows a # is a
comment. horovodrun looks once a second: add a line to bring a host in, delete it to
let the host go. Replace the file whole ('mv new.txt hosts.txt') where it is long.

environment:
  DISTTRAIN_HOSTS_FILE  FILE, where no argument names it"
fail() {
  echo "hosts-file: $*" >&2
  exit 2
}
case ${1:-} in
  -h | --help) echo "$usage" && exit ;;
esac
[ $# -le 1 ] || fail "one file, not $#; see --help"
file=${1:-${DISTTRAIN_HOSTS_FILE:-}}
[ -n "$file" ] || fail "name a file, or set DISTTRAIN_HOSTS_FILE; see --help"
[ -f "$file" ] && [ -r "$file" ] || fail "$file: there is no such file that can be read"

number=0
printed=' '
while IFS= read -r line || [ -n "$line" ]; do
  number=$((number + 1))
  line=${line%%#*}
  [[ $line =~ [^[:space:]] ]] || continue
  [[ $line =~ ^[[:space:]]*([A-Za-z0-9._-]+)(:|[[:space:]]+slots=)?([0-9]*)[[:space:]]*$ ]] ||
    fail "$file, line $number: expected 'HOST:SLOTS', 'HOST slots=SLOTS' or 'HOST', found '$line'"
  host=${BASH_REMATCH[1]} separator=${BASH_REMATCH[2]} slots=${BASH_REMATCH[3]}
  if [ -z "$separator" ]; then slots=1; fi
  [[ $slots =~ ^[1-9][0-9]*$ ]] || fail "$file, line $number: expected a number of slots from 1, found '$slots'"
  [[ $printed != *" $host "* ]] || fail "$file, line $number: $host is listed a second time"
  printed+="$host "
  echo "$host:$slots"
done <"$file"
