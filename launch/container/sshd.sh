#!/usr/bin/env bash
# Serves the ssh of a launcher, in a container without root: the workers that it starts here get this environment.
set -euo pipefail

usage="usage: launch/container/sshd.sh [SSHD ARGUMENTS]

Runs sshd in the foreground as the user of the container, on port 2222, for whoever
has the private key to a line of ~disttrain/.ssh/authorized_keys. Its host key is made
anew in /tmp. What it starts gets the variables of the container that launchers pass
on, so that credentials need not travel.

environment: SSH_PORT stands for 2222."
case ${1:-} in
  -h | --help) echo "$usage" && exit ;;
esac
work=$(mktemp -d "${TMPDIR:-/tmp}/sshd-XXXXXX")
ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"

passed='^(PATH|HOME|LD_LIBRARY_PATH|PYTHON.*|XDG_CACHE_HOME|CUDA_VISIBLE_DEVICES|XLA_FLAGS|(DISTTRAIN|AWS|GOOGLE|AZURE|HOROVOD|NCCL|NUMBA|OMPI|TF)_.*)$'
settings=''
for variable in $(compgen -e | grep -E "$passed"); do
  value=${!variable}
  [[ $value != *$'\n'* ]] || continue # no line of sshd's file holds it
  value=${value//\\/\\\\}
  settings+=" \"$variable=${value//\"/\\\"}\""
done
cat >"$work/config" <<END
Port ${SSH_PORT:-2222}
HostKey $work/host_key
PidFile none
AuthorizedKeysFile .ssh/authorized_keys
AuthenticationMethods publickey
UsePAM no
# The key may lie in a volume that belongs to root.
StrictModes no
AllowAgentForwarding no
AllowTcpForwarding no
X11Forwarding no
SetEnv$settings
END
exec /usr/sbin/sshd -D -e -f "$work/config" "$@"
