#!/usr/bin/env bash
# Trains on the hosts of the MPI operator's list, when sshd answers on all of them; ends with 7 where one does not within
# WAIT_S seconds. launch/container/again.sh, above it, comes back to it when a worker was lost.
set -euo pipefail
hostfile=/etc/mpi/hostfile
while read -r host _; do
  said=''
  until (exec 3<>"/dev/tcp/$host/$DISTTRAIN_SSH_PORT") 2>/dev/null; do
    [ -n "$said" ] || echo "launcher: waiting for sshd on $host, port $DISTTRAIN_SSH_PORT" >&2
    said=1
    if [ "$SECONDS" -ge "${WAIT_S:-600}" ]; then
      echo "launcher: $host did not answer in $SECONDS s; if its pod has failed, delete it, and the operator makes" \
        "another: kubectl delete pod ${host%%.*}" >&2
      exit 7
    fi
    sleep 2
  done
done <"$hostfile"
exec /opt/disttrain/launch/mpi.sh --hostfile "$hostfile" -- --backend horovod "$@"
