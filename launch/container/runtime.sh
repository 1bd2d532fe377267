#!/usr/bin/env bash
# Prepares the system that disttrain runs on, while an image is built: packages, the user, its directories, ssh.
set -euo pipefail
case ${1:-} in
  -h | --help) echo "usage: launch/container/runtime.sh cpu|cuda 1|0 (called by Dockerfile)" && exit ;;
esac
variant=$1 mpi=$2

groupadd --gid 1000 disttrain
useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash --password '*' disttrain
# OpenShift runs containers as a user of its choice and group 0.
install -d -o 1000 -g 0 -m 0775 /cache /runs /data

if [ "$variant" = cuda ]; then # Horovod finds the packages' NCCL
  version=$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  echo "/opt/disttrain/lib/$version/site-packages/nvidia/nccl/lib" >/etc/ld.so.conf.d/disttrain.conf
fi
[ "$mpi" = 1 ] || exit 0
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends openmpi-bin openssh-client openssh-server >/dev/null
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/ldconfig /var/log/apt /var/log/dpkg.log /etc/ssh/ssh_host_*
# Pods come and go under one name, each with a host key of its own: who may log in is decided by the key of the user.
cat >/etc/ssh/ssh_config.d/disttrain.conf <<'END'
Host *
  Port 2222
  BatchMode yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
END
