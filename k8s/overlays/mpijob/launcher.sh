#!/usr/bin/env bash
# Trains on the hosts of the MPI operator's list. When a signal to one worker, as before its pod is preempted, has
# stopped all with a checkpoint, they go on as soon as the pod is back: the operator's Jobs have no podFailurePolicy.
set -euo pipefail
hostfile=/etc/mpi/hostfile
asked='' workers=''
trap 'asked=1 signalled=1; [ -z "$workers" ] || kill -TERM "$workers" 2>/dev/null || true' TERM # this pod is to go

code=75
while [ "$code" = 75 ] && [ -z "$asked" ]; do
  while read -r host _; do
    until [ -n "$asked" ] || (exec 3<>"/dev/tcp/$host/$DISTTRAIN_SSH_PORT") 2>/dev/null; do sleep 2; done
  done <"$hostfile"
  [ -z "$asked" ] || break
  /opt/disttrain/launch/mpi.sh --hostfile "$hostfile" -- --backend horovod "$@" &
  workers=$!
  while signalled='' code=0 && { wait "$workers" || code=$?; } && [ -n "$signalled" ]; do :; done # a signal ends a wait
done
exit "$code"
