#!/usr/bin/env bash
# Copies a run's results out of their volume, by a pod that holds it: the step fetch of launch/k8s.sh.
# usage: k8s/fetch.sh NAME FOLDER [--dry-run] KUBECTL ...
set -euo pipefail
name=$1 folder=$2 dry_run='' && shift 2
if [ "$1" = --dry-run ]; then dry_run=1 && shift; fi
kubectl=("$@") pod=disttrain-fetch-$name results=runs/$name part=runs/.$name.part
run() { if [ -n "$dry_run" ]; then printf -v line '%q ' "$@" && echo "${line% }"; else "$@"; fi; }
fail() { echo "k8s: $*" >&2 && exit 1; }
in_pod() { run "${kubectl[@]}" exec "$pod" -- "$@"; }
listing=(find . -type f ! -name '*.part' ! -name in-use.json) # of a run that goes on the contents may grow meanwhile

remove_pod() { run "${kubectl[@]}" delete --ignore-not-found --kustomize "$folder/fetch"; }
leave() { local status=$? && { remove_pod || true; } && rm -rf "$part" "$part.list" && exit "$status"; }
remove_pod # one that an earlier fetch left would be waited for in vain
trap leave EXIT
trap 'exit 130' INT TERM
run "${kubectl[@]}" apply --kustomize "$folder/fetch"
run "${kubectl[@]}" wait --for=condition=Ready --timeout=10m "pod/$pod"
if [ -n "$dry_run" ]; then
  in_pod tar -C /results/run -cf - . && in_pod env -C /results/run "${listing[@]}" && exit
fi
rm -rf "$part" && mkdir -p "$part"
in_pod tar -C /results/run -cf - . | tar -C "$part" -xf - || fail "the results were not copied whole; nothing was changed here"
in_pod env -C /results/run "${listing[@]}" | sort >"$part.list"
missing=$(cd "$part" && "${listing[@]}" | sort | comm -13 - "../.$name.part.list")
[ -z "$missing" ] || fail "not copied: $missing"
[ -n "$(find "$part" -type f -print -quit)" ] || fail "there is nothing to fetch: the run has written no results yet"
mkdir -p "$results"
cp -a "$part/." "$results/"
echo "$results: $(find "$results" -type f | wc -l) files"
