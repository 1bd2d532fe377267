#!/usr/bin/env bash
# Makes the environment /opt/disttrain with the pinned packages of constraints.txt, while an image is built.
set -euo pipefail
case ${1:-} in
  cpu) sections="tensorflow-cpu base stores" ;;
  cuda) sections="tensorflow base stores cuda" ;;
  -h | --help) echo "usage: launch/container/packages.sh cpu|cuda (called by Dockerfile)" && exit ;;
  *) echo "packages: expected cpu or cuda, not '${1:-}'" >&2 && exit 2 ;;
esac
if [ "$(uname -m)" != x86_64 ]; then sections=${sections/tensorflow-cpu/tensorflow}; fi

if ! python3 -c 'import ensurepip' 2>/dev/null; then # Debian's own Python comes in parts
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends python3-venv >/dev/null
fi
python3 -m venv /opt/disttrain
requirements=/build/requirements.txt
awk -v sections=" $sections " '/^# \[/ { name = substr($2, 2, length($2) - 2); on = index(sections, " " name " ") } on' \
  /build/constraints.txt >"$requirements"
/opt/disttrain/bin/python -m pip install -q --disable-pip-version-check --no-compile --require-hashes \
  --only-binary :all: --find-links /wheels --requirement "$requirements"
