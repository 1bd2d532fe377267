#!/usr/bin/env bash
# Builds Horovod's wheel with PYTHON into FOLDER, as the HOROVOD_* variables of environment.sh say.
set -euo pipefail
case ${1:-} in
  -h | --help) echo "usage: launch/horovod/build.sh PYTHON FOLDER (called by launch/install-horovod.sh)" && exit ;;
esac
python=$1 folder=$(mkdir -p "$2" && cd "$2" && pwd)
requirement="horovod==0.28.1 --hash=sha256:92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"

log=$folder/build.log
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "The end of $log:" >&2
  tail -n 20 "$log" >&2
  echo "install-horovod: $*; the whole log is $log" >&2
  exit 1
}
# Third-party code in Horovod asks for a CMake older than CMake 4 still plays, and leaves <cstdint> out, which GCC 13 minds.
export CMAKE_POLICY_VERSION_MINIMUM=3.5 CXXFLAGS="${CXXFLAGS:-} -include cstdint"
export MAKEFLAGS=${MAKEFLAGS:--j$(getconf _NPROCESSORS_ONLN)} PIP_DISABLE_PIP_VERSION_CHECK=1

echo "$requirement" >"$work/requirements.txt"
"$python" -m pip download --no-deps --no-build-isolation --no-binary horovod --require-hashes \
  --dest "$work" --requirement "$work/requirements.txt" >"$log" 2>&1 || fail "could not download Horovod"
tar -xzf "$work"/horovod-*.tar.gz -C "$work"
source=$(cd "$work"/horovod-*/ && pwd)

edit() { # edit FILE SED-SCRIPT: changes exactly one line of the file
  sed -i.orig "$2" "$source/horovod/$1"
  [ "$(diff "$source/horovod/$1"{.orig,} | grep -c '^<')" = 1 ] || fail "$1 of Horovod is not as expected"
}
# For XLA custom calls on GPUs only, and it includes headers that TensorFlow has moved.
edit tensorflow/CMakeLists.txt '/xla_mpi_ops\.cc/d'
# TensorFlow 2.21 has no such function left: a stream tells its handle itself.
edit tensorflow/mpi_ops.cc 's/^GpuStreamHandle AsGpuStreamValue(Stream\* stream);$/template <class S> GpuStreamHandle AsGpuStreamValue(S* stream) {\
  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream); }/'
# NCCL's Python package lies beside Horovod where both are installed, and its library has no name for the linker.
# shellcheck disable=SC2016 # $ORIGIN is for CMake
edit tensorflow/CMakeLists.txt '/PROPERTIES PREFIX/s|"")|"" BUILD_RPATH "$ORIGIN/../../nvidia/nccl/lib")|'
# horovodrun asks an import of TensorFlow in a process of its own what was built, and mutes Python's output alone.
edit common/util.py "s/^            sys.stderr = open(os.devnull, 'w')$/&; os.dup2(sys.stderr.fileno(), 2)/"
library=${HOROVOD_NCCL_HOME:-}/lib/libnccl.so.2
if [ -f "$library" ] && [ ! -e "${library%.2}" ]; then
  mkdir -p "$folder/nccl"
  ln -sf "$library" "$folder/nccl/libnccl.so"
  export HOROVOD_NCCL_LIB=$folder/nccl HOROVOD_NCCL_LINK=SHARED
fi

"$python" -m pip wheel --verbose --no-deps --no-build-isolation --no-cache-dir --wheel-dir "$work/wheel" "$source" \
  >>"$log" 2>&1 || fail "Horovod did not build"
wheel=$(echo "$work"/wheel/horovod-*.whl)
cp "$wheel" "$folder/.new.$$"
mv -f "$folder/.new.$$" "$folder/$(basename "$wheel")"
