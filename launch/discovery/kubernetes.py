#!/usr/bin/env python3
"""For horovodrun's --host-discovery-script: the worker pods of a job that are ready, asked of the Kubernetes API."""

from __future__ import annotations

import argparse
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DESCRIPTION = """
Prints 'HOST:SLOTS' for each worker pod that is ready and not being deleted, for horovodrun:

  --host-discovery-script 'launch/discovery/kubernetes.py --selector app=disttrain'

With a selector it asks the API with the pod's service account, which must be allowed to list pods. Without one it runs
the list that Kubeflow's MPI operator mounts into the launcher of an MPIJob, which needs no permission but is up to a
minute old.
"""
EPILOG = """
environment: DISTTRAIN_SLOTS and DISTTRAIN_SELECTOR, where no option gives them. Slots default to those of the
MPIJob, or with a selector to the pod's GPUs or 1.
"""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
OPERATORS_LIST = Path("/etc/mpi/discover_hosts.sh")
TIMEOUT_S = 10


def main() -> None:
    """Prints the hosts, or one line that says why not."""
    options = parse(sys.argv[1:])
    try:
        if options.selector:
            hosts = [(host_of(pod), options.slots or gpus_of(pod)) for pod in pods(options) if is_ready(pod)]
        else:
            hosts = [(name, options.slots or slots) for name, slots in operators_hosts(options.list)]
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        sys.exit(f"kubernetes: {error}")
    for host, slots in sorted(hosts):
        print(f"{host}:{slots}")


def parse(words: list[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        "launch/discovery/kubernetes.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = f"https://{os.environ.get('KUBERNETES_SERVICE_HOST')}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    slots = os.environ.get("DISTTRAIN_SLOTS")
    parser.add_argument("--selector", default=os.environ.get("DISTTRAIN_SELECTOR"), help="labels of the worker pods")
    parser.add_argument("--slots", type=int, default=int(slots) if slots else None, help="workers in a pod")
    parser.add_argument("--namespace", help="of the pods (default: this pod's own)")
    parser.add_argument("--server", default=server, help="of the API (default: this cluster's)")
    parser.add_argument("--account", type=Path, default=ACCOUNT, help="folder with token, ca.crt and namespace")
    parser.add_argument("--list", type=Path, default=OPERATORS_LIST, help="the MPI operator's list")
    return parser.parse_args(words)


def pods(options: argparse.Namespace) -> list[dict]:
    """The pods that the selector fits, as the API describes them; raises OSError where it does not answer with any."""
    token = (options.account / "token").read_text().strip()
    namespace = options.namespace or (options.account / "namespace").read_text().strip()
    authority = options.account / "ca.crt"
    trust = ssl.create_default_context(cafile=str(authority) if authority.exists() else None)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    query = urllib.parse.urlencode({"labelSelector": options.selector})
    url = f"{options.server}/api/v1/namespaces/{urllib.parse.quote(namespace)}/pods?{query}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
    try:
        with direct.open(request, timeout=TIMEOUT_S) as reply:
            return json.load(reply)["items"]
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code} {message_of(error)}") from error
    except urllib.error.URLError as error:
        raise OSError(f"{url}: {error.reason}") from error


def message_of(error: urllib.error.HTTPError) -> str:
    """What the API says of a request that it refused: it answers with a Status."""
    try:
        return json.load(error)["message"]
    except (ValueError, LookupError):
        return error.reason


def is_ready(pod: dict) -> bool:
    """Whether a worker can be started there: it is ready, and not on its way out."""
    conditions = pod["status"].get("conditions", [])
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def host_of(pod: dict) -> str:
    """Its name in the cluster's DNS where a headless service gives it one, else its address."""
    hostname, subdomain = pod["spec"].get("hostname"), pod["spec"].get("subdomain")
    if hostname and subdomain:
        return f"{hostname}.{subdomain}.{pod['metadata']['namespace']}.svc"
    return pod["status"]["podIP"]


def gpus_of(pod: dict) -> int:
    """The GPUs that its containers have, or 1."""
    limits = [container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"]]
    return sum(int(limit.get("nvidia.com/gpu", 0)) for limit in limits) or 1


def operators_hosts(script: Path) -> list[tuple[str, int]]:
    """The hosts of the MPI operator's list, a script that prints them; their slots are in the hostfile beside it."""
    if not script.exists():
        raise OSError(f"{script}: not there, so name the pods' labels in --selector; see --help")
    printed = subprocess.run(["sh", script], check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S).stdout
    hostfile = script.with_name("hostfile")
    slots = dict(line.split(" slots=") for line in hostfile.read_text().splitlines()) if hostfile.exists() else {}
    return [(host, int(slots.get(host, 1))) for host in printed.split()]


if __name__ == "__main__":
    main()
