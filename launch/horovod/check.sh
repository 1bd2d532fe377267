#!/usr/bin/env bash
# Checks that the Horovod of PYTHON's environment has PARTS and reduces between two processes.
set -euo pipefail
case ${1:-} in
  -h | --help) echo "usage: launch/horovod/check.sh PYTHON PART... (called by launch/install-horovod.sh)" && exit ;;
esac
python=$1 parts=("${@:2}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=$(mktemp)
trap 'rm -f "$output"' EXIT
fail() {
  tail -n 20 "$output" >&2
  echo "install-horovod: $*" >&2
  exit 1
}
limit=()
if command -v timeout >/dev/null; then limit=(timeout 120); fi

"$python" -c 'import horovod.tensorflow' >"$output" 2>&1 || fail "Horovod does not load"
horovodrun=("${limit[@]}" "$python" -m horovod.runner.launch)
"${horovodrun[@]}" --check-build >"$output" 2>&1 || fail "horovodrun does not start"
for part in "${parts[@]}"; do
  grep -qF "[X] $part" "$output" || fail "Horovod was built without $part"
done

# On the CPU: two processes on one GPU are no case for NCCL.
export CUDA_VISIBLE_DEVICES=-1
for controller in Gloo MPI; do
  [[ " ${parts[*]} " == *" $controller "* ]] || continue
  echo "Checking an all-reduce between two processes over $controller"
  "${horovodrun[@]}" "--${controller,,}" -np 2 "$python" "$here/allreduce.py" >"$output" 2>&1 ||
    fail "the all-reduce over $controller failed"
done
