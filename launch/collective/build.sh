#!/usr/bin/env bash
# Builds the wheel of the compiled all-reduce with PYTHON into FOLDER, against the TensorFlow of PYTHON's environment.
set -euo pipefail
case ${1:-} in
  -h | --help) echo "usage: launch/collective/build.sh PYTHON FOLDER (called by launch/install-horovod.sh)" && exit ;;
esac
python=$1 folder=$(mkdir -p "$2" && cd "$2" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
log=$folder/build.log
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  tail -n 5 "$log" >&2
  echo "install-horovod: the compiled all-reduce $*; gradients go through Horovod, slower. The whole log is $log" >&2
  exit 1
}

cp "$here"/{collective.cc,nccl.cc,pyproject.toml,setup.py} "$work"
"$python" -m pip wheel --verbose --disable-pip-version-check --no-deps --no-build-isolation --no-cache-dir \
  --wheel-dir "$work/wheel" "$work" >"$log" 2>&1 || fail "did not build"
wheel=$(echo "$work"/wheel/disttrain_collective-*.whl)
"$python" - "$wheel" "$work" >>"$log" 2>&1 <<'END' || fail "does not load"
import ctypes, importlib.util, pathlib, sys, zipfile
wheel, work = sys.argv[1:]
zipfile.ZipFile(wheel).extractall(work)
ctypes.CDLL(str(pathlib.Path(importlib.util.find_spec("tensorflow").origin).with_name("libtensorflow_cc.so.2")))
(library,) = pathlib.Path(work).glob("disttrain_collective.*.so")
ctypes.CDLL(str(library))
END
cp "$wheel" "$folder/.new.$$"
mv -f "$folder/.new.$$" "$folder/$(basename "$wheel")"
