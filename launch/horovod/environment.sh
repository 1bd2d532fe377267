# shellcheck shell=bash disable=SC2154,SC2034
# Sourced by install-horovod.sh, which sets $python, $here and fail, and reads $parts (what Horovod is built with)
# and $depends_on (all that the wheel depends on).
about_tensorflow=$(
  "$python" 2>/dev/null - <<'END'
import sys, sysconfig, cloudpickle, packaging, platform, psutil, setuptools, tensorflow as tf, wheel, yaml
flags = " ".join(tf.sysconfig.get_compile_flags() + tf.sysconfig.get_link_flags()).replace(tf.sysconfig.get_lib(), "")
print("CUDA" if tf.test.is_built_with_cuda() else "CPU", tf.__version__, flags)
print(sys.version, sysconfig.get_config_var("SOABI"), sysconfig.get_platform(), platform.libc_ver())
END
) || fail "TensorFlow, or what Horovod needs, is missing from $python; run: $python -m pip install '.[horovod]' wheel"

unset "${!HOROVOD_WITH@}" "${!HOROVOD_GPU@}" "${!HOROVOD_CPU@}"
export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
parts=(TensorFlow Gloo) about_mpi='' about_nccl=''
if command -v mpicxx >/dev/null; then
  parts+=(MPI)
  export HOROVOD_WITH_MPI=1
  about_mpi=$(mpicxx -show && mpirun --version) || fail "mpicxx is there and mpirun is not; run: apt-get install openmpi-bin libopenmpi-dev"
else
  export HOROVOD_WITHOUT_MPI=1
fi

nvcc=$(command -v "${HOROVOD_CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || command -v nvcc || true)
cuda=${nvcc%/bin/nvcc}
# What launch/setup.sh --gpu installs comes first: TensorFlow uses it too.
package=$("$python" -c 'import nvidia.nccl as n; print(*n.__path__)' 2>/dev/null) || package=''
for nccl in "${HOROVOD_NCCL_HOME:-$package}" /usr "$cuda"; do [ ! -f "$nccl/include/nccl.h" ] || break; done
if [[ $about_tensorflow == CUDA* && -n $nvcc && -f $nccl/include/nccl.h ]]; then
  parts+=(NCCL)
  export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$cuda HOROVOD_NCCL_HOME=$nccl
  about_nccl=$(echo "$nccl" && "$nvcc" --version && grep -E 'define NCCL_(MAJOR|MINOR|PATCH)' "$nccl/include/nccl.h")
else
  export HOROVOD_WITHOUT_NVTX=1
  missing='nvcc: install the CUDA toolkit, or set HOROVOD_CUDA_HOME'
  [ -z "$nvcc" ] || missing='nccl.h: set HOROVOD_NCCL_HOME'
  [[ $about_tensorflow != CUDA* ]] ||
    echo "install-horovod: Horovod gets no NCCL, and gradients of GPUs go through the CPUs; there is no $missing" >&2
fi
depends_on="$about_tensorflow|$about_mpi|$about_nccl|${CXXFLAGS:-}|$("${CXX:-c++}" --version)|$(cat "$here"/horovod/{environment,build}.sh)"
