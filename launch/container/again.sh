#!/usr/bin/env bash
# Runs a command again in its container where that may help, so that a lost pod takes no other pod with it.
set -euo pipefail

usage="usage: launch/container/again.sh COMMAND...

Runs COMMAND, and again 5 s after it has ended with
  75        a checkpoint is written, as before another worker's pod is preempted: always
  4, 6, 7   a store or another worker failed, or hung
  205, 255  mpirun has lost a host, or ssh to it: these five 3 times, and once more an hour
Ends with COMMAND's last exit code. SIGTERM is handed on, and COMMAND not run again."
case ${1:-} in
  -h | --help) echo "$usage" && exit ;;
esac
asked='' running='' tries=0
trap 'asked=1 signalled=1; [ -z "$running" ] || kill -TERM "$running" 2>/dev/null || true' TERM

while [ -z "$asked" ]; do
  "$@" &
  running=$!
  [ -z "$asked" ] || kill -TERM "$running" 2>/dev/null || true # it came before there was anything to hand it to
  while signalled='' code=0 && { wait "$running" || code=$?; } && [ -n "$signalled" ]; do :; done # a signal ends a wait
  running=''
  case $code in
    75) ;;
    4 | 6 | 7 | 205 | 255) tries=$((tries + 1)) && [ "$tries" -le $((3 + SECONDS / 3600)) ] || break ;;
    *) break ;;
  esac
  [ -n "$asked" ] || { echo "again: it ended with $code, and is run again in 5 s" >&2 && sleep 5; }
done
exit "$code"
