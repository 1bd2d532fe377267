#!/usr/bin/env bash
# Puts the wheels of Horovod and of the compiled all-reduce into /horovod, while an image is built: those of /wheels, or
# built, for CUDA with nvcc from /cuda.
set -euo pipefail
case ${1:-} in
  -h | --help) echo "usage: launch/container/horovod.sh cpu|cuda 1|0 (called by Dockerfile)" && exit ;;
esac
variant=$1 mpi=$2
mkdir /horovod
if compgen -G '/wheels/horovod-*.whl' >/dev/null; then
  cp /wheels/horovod-*.whl /horovod/
  if compgen -G '/wheels/disttrain_collective-*.whl' >/dev/null; then cp /wheels/disttrain_collective-*.whl /horovod/; fi
  exit
fi

packages=(g++ cmake make)
include=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$include/Python.h" ] || packages+=(python3-dev)
if [ "$mpi" = 1 ]; then packages+=(openmpi-bin libopenmpi-dev); fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${packages[@]}" >/dev/null

if [ "$variant" = cuda ]; then
  toolkit=$(compgen -G '/cuda/usr/local/cuda-*/bin/nvcc' | sort -V | tail -n 1)
  [ -n "$toolkit" ] || { echo "no nvcc in the image of CUDA_DEVEL: --build-arg CUDA_DEVEL=nvidia/cuda:...-devel-..." >&2 && exit 2; }
  export HOROVOD_CUDA_HOME=${toolkit%/bin/nvcc}
fi
# Where the machine's own name means nothing, as in buildah's chroot, Gloo crashes when the wheel is checked.
getent hosts "$(hostname)" >/dev/null || echo "127.0.0.1 $(hostname)" >>/etc/hosts
DISTTRAIN_CACHE_DIR=/horovod/kept /build/launch/install-horovod.sh /opt/disttrain/bin/python
mv /horovod/kept/wheels/*/*.whl /horovod/
rm -r /horovod/kept
