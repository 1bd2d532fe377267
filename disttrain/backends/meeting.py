"""Where workers that no launcher starts wait for each other, before TensorFlow does.

TensorFlow's own wait has no end, and hears no signal. So the first worker listens at its address of TF_CONFIG, others
come there, and only when all have come does each start TensorFlow's server, at the same addresses.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence

from disttrain.errors import HungError, UsageError

POLL_S = 0.2
HELLO, GO = b"disttrain worker ", b"go\n"
ANSWER_S = 5.0  # for a line from whoever connects
RETRY_S = 0.5


def meet(addresses: Sequence[str], rank: int, timeout_s: float) -> None:
    """Returns on every worker once all are there.

    Args:
        addresses: `host:port` of every worker, in the order of ranks.
        rank: this worker's.
        timeout_s: how long to wait; 0 for as long as it takes.

    Raises:
        UsageError: where this worker's own port is taken.
        HungError: where not all come in time.
    """
    deadline_s = time.monotonic() + (timeout_s or float("inf"))
    if rank:
        _come(addresses[0], rank, deadline_s, timeout_s)
    else:
        _await(addresses, deadline_s, timeout_s)


def _await(addresses: Sequence[str], deadline_s: float, timeout_s: float) -> None:
    """The first worker's part: lets all others go on once each of them holds a connection."""
    here: dict[int, socket.socket] = {}
    try:
        with _listen(addresses[0]) as server:
            server.settimeout(POLL_S)
            while len(here) < len(addresses) - 1:
                missing = [address for rank, address in enumerate(addresses) if rank and rank not in here]
                if time.monotonic() > deadline_s:
                    raise HungError(f"TF_CONFIG: within {timeout_s:.0f} s nobody came from {', '.join(missing)}")
                _accept(server, here, len(addresses))
                for rank in [rank for rank, connection in here.items() if _is_closed(connection)]:
                    here.pop(rank).close()
        for connection in here.values():
            connection.sendall(GO)
    finally:
        for connection in here.values():
            connection.close()


def _listen(address: str) -> socket.socket:
    port = _split(address)[1]
    try:
        return socket.create_server(("", port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UsageError(f"TF_CONFIG: port {port} is taken on this machine; name another for this worker") from error


def _accept(server: socket.socket, here: dict[int, socket.socket], size: int) -> None:
    """Takes in one worker, if one is at the door; whoever else connects is sent away."""
    try:
        connection, _ = server.accept()
    except TimeoutError:
        return
    try:
        connection.settimeout(ANSWER_S)
        said = connection.recv(64)
    except OSError:
        said = b""
    number = said.removeprefix(HELLO).strip()
    if said.startswith(HELLO) and number.isdigit() and 0 < int(number) < size:
        connection.setblocking(False)
        if before := here.pop(int(number), None):
            before.close()
        here[int(number)] = connection
    else:
        connection.close()


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _come(leader: str, rank: int, deadline_s: float, timeout_s: float) -> None:
    """Another worker's part: comes, again and again, and waits for the word."""
    came = False
    while time.monotonic() < deadline_s:
        try:
            with socket.create_connection(_split(leader), timeout=ANSWER_S) as connection:
                connection.sendall(HELLO + b"%d\n" % rank)
                came = True
                connection.settimeout(POLL_S)
                if _hears_go(connection, deadline_s):
                    return
        except OSError:
            came = False
        time.sleep(RETRY_S)
    what = "waits for others still" if came else "does not answer"
    raise HungError(f"TF_CONFIG: after {timeout_s:.0f} s the first worker, {leader}, {what}")


def _hears_go(connection: socket.socket, deadline_s: float) -> bool:
    while time.monotonic() < deadline_s:
        try:
            return connection.recv(len(GO)) == GO
        except TimeoutError:
            continue
    return False


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
