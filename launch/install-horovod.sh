#!/usr/bin/env bash
# Installs Horovod, built against an environment's TensorFlow, and checks what was built.
set -euo pipefail

usage="usage: launch/install-horovod.sh [PYTHON]

Builds Horovod 0.28.1 for the TensorFlow of PYTHON's environment, installs it there
and checks it with an all-reduce between two processes. With Gloo always, with MPI
where mpicxx is found, with NCCL where TensorFlow has CUDA and nvcc is found; NCCL is
that of TensorFlow's packages (launch/setup.sh --gpu), else the system's. Then builds
and installs disttrain's compiled all-reduce for that TensorFlow (docs/launching.md).
The builds take two to five minutes; their wheels are kept, so that the next install
takes seconds.

  PYTHON  the environment's Python (default: that of the active environment,
          else of .venv in the repository root, which is made if it is not there)

environment:
  DISTTRAIN_CACHE_DIR   wheels are kept in wheels/ there (default: ~/.cache/disttrain)
  HOROVOD_CUDA_HOME, HOROVOD_NCCL_HOME   where CUDA and NCCL are, if not found"
fail() {
  echo "install-horovod: $*" >&2
  exit 2
}
case ${1:-} in
  -h | --help) echo "$usage" && exit ;;
  -*) fail "unknown argument '$1'; see --help" ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
packages=()
command -v "${CXX:-c++}" >/dev/null || packages+=(g++)
command -v cmake >/dev/null || packages+=(cmake)
command -v make >/dev/null || packages+=(make)
[ ${#packages[@]} = 0 ] || fail "building Horovod needs tools that are not installed; run: apt-get install ${packages[*]}"

if [ $# = 0 ] && [ -z "${VIRTUAL_ENV:-}" ]; then "$here/setup.sh"; fi
python=${1:-${VIRTUAL_ENV:-$here/../.venv}/bin/python}
python=$(command -v "$python") || fail "there is no Python at $python"
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
export TF_CPP_MIN_LOG_LEVEL=3 PATH=${python%/*}:$PATH

# Sets the variables that Horovod's build reads, $parts (what is built) and $depends_on (all that the wheel depends on).
# shellcheck source=launch/horovod/environment.sh
. "$here/horovod/environment.sh"

# Wheels are kept under what they depend on, as hashed here.
folder_for() {
  local key
  key=$("$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])' <<<"$1")
  echo "${DISTTRAIN_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/disttrain}/wheels/$key"
}
is_installed() { # is_installed PACKAGE WHEEL: from this very wheel
  "$python" - "$@" <<'END'
import importlib.metadata, json, pathlib, sys
try:
    origin = importlib.metadata.distribution(sys.argv[1]).read_text("direct_url.json")
except importlib.metadata.PackageNotFoundError:
    origin = None
sys.exit(json.loads(origin or '{"url": ""}')["url"] != pathlib.Path(sys.argv[2]).absolute().as_uri())
END
}
install_wheel() {
  echo "Installing $1"
  "$python" -m pip install -qq --disable-pip-version-check --no-deps --no-index --force-reinstall "$1"
}

kept=$(folder_for "$depends_on")
find_wheel() { compgen -G "$kept/horovod-*.whl" || true; }
wheel=$(find_wheel)
if [ -n "$wheel" ] && is_installed horovod "$wheel"; then
  echo "Horovod with ${parts[*]} is installed"
else
  if [ -z "$wheel" ]; then
    echo "Building Horovod with ${parts[*]} (two to five minutes)"
    "$here/horovod/build.sh" "$python" "$kept"
    wheel=$(find_wheel)
  fi
  install_wheel "$wheel"
  if ! "$here/horovod/check.sh" "$python" "${parts[@]}"; then
    "$python" -m pip uninstall -qq --yes horovod
    fail "removed Horovod again, as it does not work here; to build it anew, delete $kept"
  fi
fi

# The compiled all-reduce. Without it all works, but workers of one machine wait for Horovod in every step.
kept=$(folder_for "$about_tensorflow|${CXXFLAGS:-}|$("${CXX:-c++}" --version)|$about_nccl|$(cat "$here"/collective/*)")
find_wheel() { compgen -G "$kept/disttrain_collective-*.whl" || true; }
if [ -z "$(find_wheel)" ]; then
  echo "Building the compiled all-reduce (half a minute)"
  "$here/collective/build.sh" "$python" "$kept" || exit 0
fi
wheel=$(find_wheel)
if is_installed disttrain_collective "$wheel"; then
  echo "The compiled all-reduce is installed"
else
  install_wheel "$wheel"
fi
