#!/usr/bin/env bash
# Makes .venv in the repository root, with the pinned packages of launch/constraints.txt and disttrain itself.
set -euo pipefail

usage="usage: launch/setup.sh [--all] [--cpu | --gpu]

Makes .venv in the repository root and installs disttrain there, with the exact
versions and hashes of launch/constraints.txt. Takes one or two minutes, and
nothing the next time, until a version changes.

  --all        also object stores, ONNX, tests and benchmarks
  --cpu --gpu  TensorFlow without or with CUDA libraries (default: with them
               where nvidia-smi finds a GPU)

environment:
  PYTHON       the Python to use, 3.10 to 3.13 (default: that of .venv, else the
               first that serves of python3, python3.13, ... python3.10)"
fail() {
  echo "setup: $*" >&2
  exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
wanted=(base)
for argument; do
  case $argument in
    --all) wanted+=(stores all) ;;
    --cpu) wanted+=(tensorflow-cpu) ;;
    --gpu) wanted+=(tensorflow cuda) ;;
    -h | --help) echo "$usage" && exit ;;
    *) fail "unknown argument '$argument'; see --help" ;;
  esac
done

# The first Python that is of a supported version.
candidates=("$venv/bin/python" python3 python3.13 python3.12 python3.11 python3.10)
if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
for python in "${candidates[@]}" ''; do
  if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then break; fi
  [ -n "$python" ] || fail "disttrain needs Python 3.10 to 3.13, and ${PYTHON:-python3} is" \
    "$("${PYTHON:-python3}" --version 2>/dev/null || echo not there); install it (apt-get install python3 python3-venv) or name one in PYTHON"
done

# What the environment is made of: up to date if .venv was made of the same and holds the sections that are wanted.
{ read -r base && read -r made_of; } < <("$python" - "$root" <<'END'
import hashlib, pathlib, platform, sys, sysconfig
root = pathlib.Path(sys.argv[1])
names = ("launch/constraints.txt", "launch/setup.sh", "pyproject.toml")
digest = lambda *parts: hashlib.sha256(b"\0".join(parts)).hexdigest()
print(sys._base_executable)
place = digest(str(root).encode(), sys.base_prefix.encode())
print(platform.python_version(), sysconfig.get_platform(), place, digest(*((root / name).read_bytes() for name in names)))
END
)
if [ "$python" = "$venv/bin/python" ]; then python=$base; fi # what .venv was made with can make it anew
stamp=$venv/disttrain-setup
{ read -r had_made_of && read -r had_sections; } 2>/dev/null <"$stamp" || had_made_of='' had_sections=''
missing=0
for section in "${wanted[@]}"; do [[ " $had_sections " == *" $section "* ]] || missing=1; done
if [ "$had_made_of" = "$made_of" ] && [ $missing = 0 ]; then exit; fi

# Another Python, or the other TensorFlow (both are one Python package in the same place): begin anew.
sections=" $had_sections ${wanted[*]} "
if [ "${had_made_of% *}" != "${made_of% *}" ] || [[ $sections == *" tensorflow "* && $sections == *" tensorflow-cpu "* ]]; then
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python cannot make environments; run: apt-get install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
  [ ! -L "$venv" ] || fail ".venv is a link, and what it leads to would be removed; remove the link"
  echo "Making .venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
  [[ $sections != *" all "* ]] || wanted+=(stores all)
  sections=" ${wanted[*]} "
fi
if [[ $sections != *" tensorflow"* ]]; then
  case $(uname -sm) in
    "Linux x86_64") if nvidia-smi -L >/dev/null 2>&1; then sections+="tensorflow cuda "; else sections+="tensorflow-cpu "; fi ;;
    *) sections+="tensorflow " ;;
  esac
fi

rm -f "$stamp"
requirements=$venv/requirements.txt
awk -v sections="$sections" '/^# \[/ { name = substr($2, 2, length($2) - 2); on = index(sections, " " name " ") } on' \
  "$root/launch/constraints.txt" >"$requirements"
echo "Installing $(grep -c '^[a-z]' "$requirements") packages into .venv (a minute or two)"
install=("$venv/bin/python" -m pip install -qq --disable-pip-version-check)
"${install[@]}" --require-hashes --only-binary :all: --requirement "$requirements"
"${install[@]}" --no-deps --no-build-isolation --editable "$root"
# shellcheck disable=SC2086 # one word a section
printf '%s\n' "$made_of" "$(printf '%s\n' $sections | sort -u | tr '\n' ' ')" >"$stamp"
