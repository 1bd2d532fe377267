#!/usr/bin/env python3
"""Trains as one worker of several, on platforms that start the same command on each machine of a job.

It finds out from what the platform tells where the others are, and leaves that in TF_CONFIG for --backend multiworker.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

DESCRIPTION = """
Runs 'python -m disttrain --backend multiworker ARGUMENTS' with the TF_CONFIG of this machine's place in the job:

  Vertex AI   CLUSTER_SPEC, the primary replica first and then the workers
  SageMaker   /opt/ml/input/config/resourceconfig.json
  AWS Batch   AWS_BATCH_JOB_NODE_INDEX and _NUM_NODES; as Batch tells only the main node's address, each node writes
              its own into the folder --meet, which all of them see, and waits for the others'
"""
SAGEMAKER = Path("/opt/ml/input/config/resourceconfig.json")
PORT = 12345
PAUSE_S = 1.0


def main() -> None:
    """Replaces itself by disttrain; one line on stderr and exit code 2 where the place cannot be found out."""
    parser = argparse.ArgumentParser(
        "launch/cluster.py",
        usage="launch/cluster.py [--meet FOLDER] [--wait SECONDS] [--dry-run] [-- ARGUMENTS]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--meet", help="a folder or URL that all machines see; AWS Batch needs it")
    parser.add_argument("--wait", type=float, default=900, help="seconds to wait for the other machines [900]")
    parser.add_argument("--dry-run", action="store_true", help="print the command, and do not run it")
    words = sys.argv[1:]
    given = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:given])
    try:
        hosts, index = find_place(os.environ, options.meet, options.wait)
    except (OSError, ValueError, LookupError) as error:
        print(f"cluster: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    config = json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})
    command = [sys.executable, "-m", "disttrain", "--backend", "multiworker", *words[given + 1 :]]
    if options.dry_run:
        print(shlex.join(["env", f"TF_CONFIG={config}", *command]))
        return
    os.environ["TF_CONFIG"] = config
    os.execv(command[0], command)


def find_place(
    environ: Mapping[str, str], meet: str | None, wait_s: float, sagemaker: Path = SAGEMAKER
) -> tuple[list[str], int]:
    """All workers as HOST:PORT, in one order everywhere, and which of them this machine is."""
    if environ.get("CLUSTER_SPEC"):
        return of_vertex_ai(json.loads(environ["CLUSTER_SPEC"]))
    if sagemaker.exists():
        hosts, index = of_sagemaker(json.loads(sagemaker.read_text()))
        wait_for_names(hosts, wait_s)
        return hosts, index
    if "AWS_BATCH_JOB_NODE_INDEX" in environ:
        if not meet:
            raise LookupError("AWS Batch needs --meet, a folder or URL that all nodes see")
        return of_batch(environ, meet, wait_s)
    raise LookupError("this is no job of Vertex AI, SageMaker or AWS Batch with several machines")


def of_vertex_ai(spec: Mapping) -> tuple[list[str], int]:
    """Pool 0 is the primary replica, pool 1 the workers; the addresses come with their ports."""
    pools = ["workerpool0", "workerpool1"]
    hosts = [host for pool in pools for host in spec["cluster"].get(pool, [])]
    task = spec["task"]
    before = sum(len(spec["cluster"].get(pool, [])) for pool in pools[: pools.index(task["type"])])
    return hosts, before + int(task["index"])


def of_sagemaker(config: Mapping) -> tuple[list[str], int]:
    """The names of all containers of the job, and of this one."""
    names = sorted(config["hosts"])
    return [f"{name}:{PORT}" for name in names], names.index(config["current_host"])


def wait_for_names(hosts: list[str], wait_s: float) -> None:
    """Until all names have addresses, which takes a while after the start."""
    deadline = time.monotonic() + wait_s
    for host in hosts:
        while True:
            try:
                socket.getaddrinfo(host.rpartition(":")[0], None)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise OSError(f"{host} has no address after {wait_s:g} s: {error}") from error
                time.sleep(PAUSE_S)


def of_batch(environ: Mapping[str, str], meet: str, wait_s: float) -> tuple[list[str], int]:
    """The addresses that all nodes of this attempt have left in the folder."""
    import fsspec

    index, num_nodes = int(environ["AWS_BATCH_JOB_NODE_INDEX"]), int(environ["AWS_BATCH_JOB_NUM_NODES"])
    job = environ["AWS_BATCH_JOB_ID"].partition("#")[0]  # child nodes have #INDEX there
    store, place = fsspec.url_to_fs(f"{meet.rstrip('/')}/{job}-{environ.get('AWS_BATCH_JOB_ATTEMPT', '1')}")
    store.makedirs(place, exist_ok=True)
    store.pipe_file(f"{place}/{index}", f"{own_address()}:{PORT}".encode())
    deadline = time.monotonic() + wait_s
    while True:
        store.invalidate_cache()
        missing = [node for node in range(num_nodes) if not store.exists(f"{place}/{node}")]
        if not missing:
            return [store.cat_file(f"{place}/{node}").decode() for node in range(num_nodes)], index
        if time.monotonic() > deadline:
            raise OSError(f"node {missing[0]} of {num_nodes} has not written its address to {place} in {wait_s:g} s")
        time.sleep(PAUSE_S)


def own_address() -> str:
    """That of the interface which leads out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 1))
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    main()
