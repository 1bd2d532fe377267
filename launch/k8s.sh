#!/usr/bin/env bash
# Trains in the pods of a Kubernetes cluster: renders, validates, applies, follows, fetches and deletes a run of k8s/.
set -euo pipefail
usage="usage: launch/k8s.sh STEP [--dry-run] [-- ARGUMENTS]

Runs 'python -m disttrain ARGUMENTS' in the cluster that kubectl reaches, in steps:
  render     writes k8s/runs/RUN from the environment, and prints what it stands for
  validate   renders, and asks the cluster whether it would take that
  apply      renders, and starts the run
  follow     prints the leader's log until the run ends, and exits with 0 if it is done
  fetch      copies the results from their volume to runs/RUN
  delete     removes the run from the cluster, all but the results' volume
  --dry-run  print the commands for the cluster, and do not run them

environment: DISTTRAIN_RUN, the run's name (1), DISTTRAIN_NAMESPACE, and to render
  DISTTRAIN_IMAGE       NAME:TAG or NAME@DIGEST (default: disttrain:latest)
  DISTTRAIN_OVERLAY     single-node (the default), indexed, mpijob or elastic
  DISTTRAIN_COMPONENTS  of gpu, pvc, object-store, tensorboard (default: none)
  DISTTRAIN_PODS, _GPUS pods that train (default: 2), GPUs of each with gpu (1)
  DISTTRAIN_CPUS        CPUs that each of these pods asks for (2; with gpu 8)
  DISTTRAIN_ROWS        rows of the file that k8s/runs/RUN/data makes (500e6)
  DISTTRAIN_MIN_NP      elastic: fewer workers wait for more (1); _MAX_NP: no more
  DISTTRAIN_STORE       with object-store: the URL where the results go"
fail() { echo "k8s: $*" >&2 && exit 2; }
run() { if [ -n "$dry_run" ]; then printf -v line '%q ' "$@" && echo "${line% }"; else "$@"; fi; }
case ${1:-} in -h | --help) echo "$usage" && exit ;; esac
step=${1:-} dry_run=''
if [ "${2:-}" = --dry-run ]; then dry_run=1 && set -- "$step" "${@:3}"; fi
[ "${2:---}" = -- ] || fail "unknown argument '$2' (arguments for disttrain go after --); see --help"
name=${DISTTRAIN_RUN:-1} && folder=k8s/runs/$name && cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ $name =~ ^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$ ]] || fail "DISTTRAIN_RUN must be of a-z, 0-9 and -, not '$name'"
about() { sed -n "s/^# $1: //p" "$folder/run/kustomization.yaml"; } # what k8s/write_run.py noted there
case $step in
  render | validate | apply) python3 k8s/write_run.py "$folder" "${@:3}" ;;
  follow | fetch | delete) [ -d "$folder" ] || fail "there is no $folder; render it, or name another in DISTTRAIN_RUN" ;;
  *) fail "unknown step '$step'; see --help" ;;
esac
kubectl=(kubectl ${DISTTRAIN_NAMESPACE:+--namespace "$DISTTRAIN_NAMESPACE"})
case $step in
  render) kubectl kustomize "$folder/run" ;;
  validate) run "${kubectl[@]}" apply --dry-run=server --validate=strict --kustomize "$folder/run" ;;
  apply) # what cannot be changed of a run that is there would be told on a page
    errors=$(mktemp) && trap 'rm -f "$errors"' EXIT
    run "${kubectl[@]}" apply --kustomize "$folder/run" 2>"$errors" || {
      ! grep -q 'field is immutable' "$errors" ||
        fail "run $name already exists with other settings: launch/k8s.sh delete removes it, or name another in DISTTRAIN_RUN"
      cat "$errors" >&2 && exit 1
    }
    cat "$errors" >&2 ;;
  # The pods too: another run's would find theirs on the volume.
  delete) run "${kubectl[@]}" delete --ignore-not-found --cascade=foreground --kustomize "$folder/delete" ;;
  fetch)
    [ -d "$folder/fetch" ] || fail "the results are in $(about store)"
    k8s/fetch.sh "$name" "$folder" ${dry_run:+--dry-run} "${kubectl[@]}" ;;
  follow) k8s/follow.sh "$name" "$(about kind)" "$(about leader)" "$(about container)" ${dry_run:+--dry-run} "${kubectl[@]}" ;;
esac
