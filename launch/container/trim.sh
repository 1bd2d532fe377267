#!/usr/bin/env bash
# Removes from /opt/disttrain what only building needs, while an image is built, and compiles the rest to bytecode.
set -euo pipefail
case ${1:-} in
  -h | --help) echo "usage: launch/container/trim.sh (called by Dockerfile)" && exit ;;
esac
cd /opt/disttrain
bin/python -m pip uninstall -q -y --disable-pip-version-check wheel pip 2>/dev/null
cd lib/python*/site-packages
# Headers and import libraries of TensorFlow and CUDA, libclang (TensorFlow's build), the packages' own tests.
rm -rf tensorflow/include nvidia/*/include clang libclang* numba/tests numpy/*/tests h5py/tests
find . -name '*.a' -delete
/opt/disttrain/bin/python -m compileall -q -j 0 . || true # some packages carry files for other versions of Python
chmod -R go=u-w /opt/disttrain
