"""Lets workers that no launcher started wait for each other, before TensorFlow does.

TensorFlow's own wait has no end and handles no signal. So the leader listens at its address of TF_CONFIG, and the
others connect to it. Only when all are connected does each worker start TensorFlow's server, at the same addresses. As
with the watchdog, both ends prove that they know the addresses of the cluster and its secret, if it has one.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from time import monotonic

from disttrain.distributed.json_lines import BACKLOG, Address, Waiter, non_blocking
from disttrain.distributed.links import Link, Server
from disttrain.errors import HungError, UsageError

POLL_S = 0.2
GO = {"go": True}
ANSWER_S = 5.0  # for the leader's proof
RETRY_S = 0.5


def meet(addresses: Sequence[str], rank: int, timeout_s: float, secret: str = "") -> None:
    """Returns on every worker once all are there.

    Args:
        addresses: `host:port` of every worker, in the order of ranks.
        rank: this worker's rank.
        timeout_s: how long to wait; 0 for as long as it takes.
        secret: the same for all workers; without one, knowing the addresses is enough.

    Raises:
        UsageError: if this worker's own port is taken.
        HungError: if not all come in time.
    """
    deadline_s = monotonic() + (timeout_s or float("inf"))
    token = hashlib.sha256("\n".join([secret, *addresses]).encode()).hexdigest()
    with closing(Waiter()) as waiter:
        if rank:
            _come(waiter, addresses[0], rank, token, deadline_s, timeout_s)
        else:
            _await(waiter, addresses, token, deadline_s, timeout_s)


def _await(waiter: Waiter, addresses: Sequence[str], token: str, deadline_s: float, timeout_s: float) -> None:
    """Does the leader's part: lets all others go on once each of them is connected."""
    with closing(Server(waiter, _listen(addresses[0]), token)) as server:
        while missing := [address for rank, address in enumerate(addresses) if rank and rank not in server.ranks]:
            if monotonic() > deadline_s:
                raise HungError(f"TF_CONFIG: within {timeout_s:.0f} s no worker connected from {', '.join(missing)}")
            server.poll(monotonic() + POLL_S)
        server.leave(GO)


def _listen(address: str) -> socket.socket:
    """Listens at a worker's address, or on all interfaces if that address is not this machine's own, as behind NAT."""
    host, port = _host_and_port(address)
    try:
        return non_blocking(_server(_resolved(host, port), port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UsageError(f"TF_CONFIG: port {port} is taken on this machine; name another for this worker") from error


def _server(addresses: Sequence[Address], port: int) -> socket.socket:
    for family, host in addresses:
        try:
            return socket.create_server((host, port), family=socket.AddressFamily(family), backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


def _come(waiter: Waiter, leader: str, rank: int, token: str, deadline_s: float, timeout_s: float) -> None:
    """Does another worker's part: connects to the leader, with retries, and waits for it to say go."""
    host, port = _host_and_port(leader)
    came, number = False, time.time_ns()  # larger than that of an earlier process of this rank
    while monotonic() < deadline_s:
        with closing(Link(waiter, _resolved(host, port), port, token, rank, number)) as link:
            came = link.connect(min(ANSWER_S, max(0.0, deadline_s - monotonic())))
            while link.is_open and monotonic() < deadline_s:
                if GO in link.poll(monotonic() + POLL_S):
                    return
        number += 1
        time.sleep(RETRY_S)
    what = "still waits for other workers" if came else "does not answer"
    raise HungError(f"TF_CONFIG: after {timeout_s:.0f} s the leader, {leader}, {what}")


def _resolved(host: str, port: int) -> list[Address]:
    """Returns the addresses of a host; none while its name cannot be resolved yet."""
    try:
        return [(int(info[0]), str(info[4][0])) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
