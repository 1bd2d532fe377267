#!/usr/bin/env bash
# Puts disttrain, Horovod, what starts them and the compiled kernels into /new, while an image is built.
set -euo pipefail
case ${1:-} in
  -h | --help) echo "usage: launch/container/app.sh 'PROCESSOR...' (called by Dockerfile)" && exit ;;
esac
source=/build/disttrain
python=/opt/disttrain/bin/python
"$python" -m pip install -q --disable-pip-version-check --no-deps --no-index --no-compile --no-build-isolation \
  --prefix /new /horovod/*.whl "$source"
site=$(cd /new/lib/python*/site-packages && pwd)
cp "$source/launch/container/warm_kernels.py" "$site/"

# Only what runs in a container.
cp -r "$source/launch" /new/launch
cd /new/launch
rm -rf collective
rm -f constraints.txt {quickstart,setup,test,install-horovod,refresh-constraints,k8s}.sh horovod/*.{sh,py}
rm -f container/{packages,horovod,app,trim,runtime}.sh container/*_kernels.py

for processor in $1; do
  PYTHONPATH=$site NUMBA_CACHE_LOCATOR_CLASSES=InTreeCacheLocator NUMBA_CPU_NAME=$processor NUMBA_CPU_FEATURES='' \
    "$python" "$source/launch/container/compile_kernels.py"
done
"$python" -m compileall -q -j 0 "$site"
chmod -R go=u-w /new
