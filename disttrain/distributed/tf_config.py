"""Where workers that no launcher starts wait for each other, before TensorFlow does.

TensorFlow's own wait has no end, and hears no signal. So the first worker listens at its address of TF_CONFIG, others
come there, and only when all have come does each start TensorFlow's server, at the same addresses. Both ends show that
they know the cluster, or the secret that it was given, as the watchdog's do.
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
ANSWER_S = 5.0  # for the first worker's proof
RETRY_S = 0.5


def meet(addresses: Sequence[str], rank: int, timeout_s: float, secret: str = "") -> None:
    """Returns on every worker once all are there.

    Args:
        addresses: `host:port` of every worker, in the order of ranks.
        rank: this worker's.
        timeout_s: how long to wait; 0 for as long as it takes.
        secret: the same for all workers; without one, to know the addresses must do.

    Raises:
        UsageError: where this worker's own port is taken.
        HungError: where not all come in time.
    """
    deadline_s = monotonic() + (timeout_s or float("inf"))
    token = hashlib.sha256("\n".join([secret, *addresses]).encode()).hexdigest()
    with closing(Waiter()) as waiter:
        if rank:
            _come(waiter, addresses[0], rank, token, deadline_s, timeout_s)
        else:
            _await(waiter, addresses, token, deadline_s, timeout_s)


def _await(waiter: Waiter, addresses: Sequence[str], token: str, deadline_s: float, timeout_s: float) -> None:
    """The first worker's part: lets all others go on once each of them holds a connection."""
    with closing(Server(waiter, _listen(addresses[0]), token)) as server:
        while missing := [address for rank, address in enumerate(addresses) if rank and rank not in server.ranks]:
            if monotonic() > deadline_s:
                raise HungError(f"TF_CONFIG: within {timeout_s:.0f} s nobody came from {', '.join(missing)}")
            server.poll(monotonic() + POLL_S)
        server.leave(GO)


def _listen(address: str) -> socket.socket:
    """At a worker's address, or on all interfaces where that is another one's, behind which this machine stands."""
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
    """Another worker's part: comes, again and again, and waits for the word."""
    host, port = _host_and_port(leader)
    came, number = False, time.time_ns()  # larger than that of a process that came before in this one's place
    while monotonic() < deadline_s:
        with closing(Link(waiter, _resolved(host, port), port, token, rank, number)) as link:
            came = link.connect(min(ANSWER_S, max(0.0, deadline_s - monotonic())))
            while link.is_open and monotonic() < deadline_s:
                if GO in link.poll(monotonic() + POLL_S):
                    return
        number += 1
        time.sleep(RETRY_S)
    what = "waits for others still" if came else "does not answer"
    raise HungError(f"TF_CONFIG: after {timeout_s:.0f} s the first worker, {leader}, {what}")


def _resolved(host: str, port: int) -> list[Address]:
    """The addresses of a host; none while its name is not known yet."""
    try:
        return [(int(info[0]), str(info[4][0])) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
