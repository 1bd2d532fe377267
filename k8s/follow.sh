#!/usr/bin/env bash
# Prints a run's log, what keeps its pods waiting and why they failed: the step follow of launch/k8s.sh.
# usage: k8s/follow.sh NAME KIND LEADER CONTAINER [--dry-run] KUBECTL ...
set -euo pipefail
name=$1 kind=$2 leader=$3 container=$4 dry_run='' && shift 4
if [ "$1" = --dry-run ]; then dry_run=1 && shift; fi
kubectl=("$@") here=$(dirname "${BASH_SOURCE[0]}") told=''
run() { if [ -n "$dry_run" ]; then printf -v line '%q ' "$@" && echo "${line% }"; else "$@"; fi; }
pods() { run "${kubectl[@]}" get pods --selector "${leader%%,*}" -o json; }

tell_pods() { # what each pod waits for, or why it ended, once; with the last event of one that waits
  local news line pod
  news=$(pods | python3 "$here/pods.py" "$@") || return 0
  [ "$news" != "$told" ] || return 0
  told=$news
  while IFS=$'\t' read -r pod line; do
    [ -n "$pod" ] || continue
    event=$("${kubectl[@]}" get events --field-selector "involvedObject.name=$pod" --sort-by .lastTimestamp \
      -o 'jsonpath={.items[-1:].reason}{" "}{.items[-1:].message}' 2>/dev/null || true)
    echo "k8s: $pod: $line${event:+ ($event)}" >&2
  done <<<"$news"
}

logs=(logs --follow --tail -1 --selector "$leader" --container "$container" --max-log-requests 99)
while state=$(run "${kubectl[@]}" get "$kind" "disttrain-$name" -o 'jsonpath={.status.conditions}') || exit; do
  [ -n "$dry_run" ] || tell_pods
  # One pod after another, where some were preempted; that there is none yet is told above.
  run "${kubectl[@]}" "${logs[@]}" 2> >(grep -v -e '^No resources found' -e 'is waiting to start' >&2 || true) || true
  case $state in
    *'"status":"True","type":"Complete"'* | *'"status":"True","type":"Succeeded"'*) exit ;;
    *'"status":"True","type":"Failed"'*)
      tell_pods --ended
      for pod in $(pods | python3 "$here/pods.py" --failed); do # any of them may have the cause
        echo "k8s: the end of $pod:" >&2
        "${kubectl[@]}" logs --tail 20 --container "$container" "$pod" >&2 || true
      done
      echo "k8s: failed: $state" >&2 && exit 1 ;;
  esac
  [ -z "$dry_run" ] || { pods && echo "$state" && exit; } # the first round
  sleep 2 && logs=("${logs[@]:0:8}" --since-time "$(date -u +%FT%TZ)")
done
