#!/usr/bin/env bash
# Before sshd gets its signal: lets the training in this pod write a checkpoint and end, and waits until it has.
set -euo pipefail
training() {
  local process
  for process in /proc/[0-9]*; do
    if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q -- '^[^ ]*python[^ ]* -m disttrain '; then echo "${process#/proc/}"; fi
  done
}
for process in $(training); do kill -TERM "$process" 2>/dev/null || true; done
while [ -n "$(training)" ]; do sleep 1; done
