"""Connections that carry lines of JSON, and how two processes that share a secret recognize each other."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import selectors
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

Message = dict[str, Any]
Address = tuple[int, str]  # the family's number and the host

MAX_LINE_BYTES = 1 << 16
BACKLOG = 1024
_SIOCGIFADDR = 0x8915  # netdevice(7): an interface's IPv4 address


class Lines:
    """A connection that sends and receives JSON objects, one per line, and never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.is_closed = False
        self.rank = -1  # of the worker at the other end, once it is known
        self.put_back: list[Message] = []  # messages that the next `receive` returns first
        self._incoming = b""
        self._outgoing = b""

    def send(self, message: Message) -> None:
        """Sends as much as the socket takes now, and the rest with the next message."""
        self._outgoing += json.dumps(message).encode() + b"\n"
        try:
            self._outgoing = self._outgoing[self.socket.send(self._outgoing) :]
        except BlockingIOError:
            self.is_closed |= len(self._outgoing) > MAX_LINE_BYTES
        except OSError:
            self.is_closed = True

    def receive(self) -> list[Message]:
        """Returns the messages received since the last call.

        Sets `is_closed` at the end of the stream, and after anything that is not a line of JSON.
        """
        while not self.is_closed and len(self._incoming) <= MAX_LINE_BYTES:
            try:
                data = self.socket.recv(MAX_LINE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.is_closed = not data
            self._incoming += data
        *lines, self._incoming = self._incoming.split(b"\n")
        self.is_closed |= len(self._incoming) > MAX_LINE_BYTES
        messages, self.put_back = self.put_back, []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                self.is_closed = True
                break
            messages.append(message)
        return messages

    def close(self) -> None:
        """Closes the socket; a second call does nothing."""
        self.is_closed = True
        self.socket.close()


class Waiter:
    """Waits until sockets can be read, a deadline passes, or another thread calls `stop`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self.is_stopping = False

    def add(self, connection: socket.socket, data: object) -> None:
        """Watches a socket: `wait` returns `data` once the socket can be read."""
        self._selector.register(connection, selectors.EVENT_READ, data)

    def drop(self, connection: socket.socket) -> None:
        """Stops watching a socket; must be called before the socket is closed."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection)

    def wait(self, until_s: float) -> list[Any]:
        """Returns the data of the sockets that can be read, at the latest at `until_s`; at once when stopping."""
        ready = self._selector.select(max(0.0, until_s - monotonic()))
        return [key.data for key, _ in ready if key.fileobj is not self._stopped]

    def stop(self) -> None:
        """Makes this and every later `wait` return at once; called by another thread."""
        self.is_stopping = True
        with suppress(OSError):  # closed: nobody waits any more
            self._stop.send(b"!")

    def go_on(self) -> None:
        """Lets `wait` wait again although it was stopped, so that goodbyes can be exchanged."""
        self.drop(self._stopped)

    def close(self) -> None:
        """Closes the waiter itself, but none of the sockets that were added."""
        self._selector.close()
        self._stop.close()
        self._stopped.close()


def own_addresses() -> list[Address]:
    """Returns this machine's addresses in all networks, the loopback address last."""
    found = [(int(socket.AF_INET), host) for host in _ipv4_hosts()] + [(int(socket.AF_INET6), h) for h in _ipv6_hosts()]
    with suppress(OSError):
        found += [(int(info[0]), str(info[4][0])) for info in socket.getaddrinfo(socket.gethostname(), None)]
    away = [address for address in dict.fromkeys(found) if not address[1].startswith("127.") and address[1] != "::1"]
    return [*away, (int(socket.AF_INET), "127.0.0.1")]


def _ipv4_hosts() -> Iterable[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                asked = struct.pack("256s", name.encode()[:15])
                yield socket.inet_ntoa(fcntl.ioctl(asker.fileno(), _SIOCGIFADDR, asked)[20:24])


def _ipv6_hosts() -> Iterable[str]:
    """Yields the global addresses; a link-local one means nothing on another machine."""
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, _, _, scope = line.split()[:4]
            if scope == "00":
                yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))


def network() -> str:
    """Returns what identifies the network of this machine or container; empty where the system does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return ""


def address_for(others: Sequence[Sequence[Address]]) -> Address | None:
    """Returns the one address of this machine from which it reaches all others; None if there is not exactly one.

    Args:
        others: the addresses of each other machine.
    """
    ways = [{way for address in addresses if (way := _way_to(address)) is not None} for addresses in others]
    common = set.intersection(*ways) if ways else set()
    return common.pop() if len(common) == 1 else None


def _way_to(address: Address) -> Address | None:
    """Returns the local address from which packets to `address` would leave; None for loopback or without a route.

    Sends nothing.
    """
    family, host = address
    if host.startswith("127.") or host == "::1":
        return None
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return family, str(probe.getsockname()[0])
    except OSError:
        return None


def listen(address: Address | None) -> socket.socket:
    """Listens at an address, or on all interfaces if it is None; on any free port."""
    if address is not None:
        family, host = address
        return non_blocking(socket.create_server((host, 0), family=socket.AddressFamily(family), backlog=BACKLOG))
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 is compiled in, but switched off
            return non_blocking(
                socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
            )
    return non_blocking(socket.create_server(("0.0.0.0", 0), backlog=BACKLOG))


def non_blocking(listener: socket.socket) -> socket.socket:
    """Returns the same listener, after making its `accept` never wait."""
    listener.setblocking(False)
    return listener


def first_to_prove(
    addresses: list[Address], port: int, hello: Message, proof: bytes, deadline_s: float
) -> Lines | None:
    """Connects to all addresses at once; returns the first connection that answers the hello with the proof.

    Closes all other connections. Returns None if none has answered so by the deadline.
    """
    trying: dict[Lines, bool] = {}  # whether the hello was sent
    chosen = None
    with selectors.DefaultSelector() as selector:
        for family, host in addresses:
            with suppress(OSError):  # a machine without IPv6
                connection = socket.socket(family, socket.SOCK_STREAM)
                trying[Lines(connection)] = False
                connection.connect_ex((host, port))
        for lines in trying:
            selector.register(lines.socket, selectors.EVENT_WRITE, lines)
        while chosen is None and selector.get_map() and monotonic() < deadline_s:
            for key, _ in selector.select(max(0.0, deadline_s - monotonic())):
                lines = key.data
                if not trying[lines]:
                    lines.send(hello)
                    trying[lines] = True
                    selector.modify(lines.socket, selectors.EVENT_READ, lines)
                else:
                    messages = lines.receive()
                    proofs = [number for number, message in enumerate(messages) if _is_proof(message, proof)]
                    if proofs:
                        chosen = lines
                        lines.put_back = messages[proofs[0] + 1 :]
                        break
                if lines.is_closed:
                    selector.unregister(lines.socket)
    for lines in trying:
        if lines is not chosen:
            lines.close()
    return chosen


def _is_proof(message: Message, proof: bytes) -> bool:
    said = message.get("proof")
    return isinstance(said, str) and said.isascii() and hmac.compare_digest(said.encode(), proof)


def hello_of(message: Message, token: str) -> tuple[int, int, str] | None:
    """Returns rank, number and nonce of a new connection's first message, or None if it does not prove the token.

    The message may contain anything.
    """
    rank, number, nonce = (message.get(name) for name in ("rank", "number", "nonce"))
    if type(rank) is not int or type(number) is not int or not isinstance(nonce, str) or not nonce.isascii():
        return None
    return (rank, number, nonce) if _is_proof(message, hello_proof(token, rank, number, nonce)) else None


def hello_proof(token: str, rank: int, number: int, nonce: str) -> bytes:
    """Returns what proves that a worker knows the token; the token itself is never sent."""
    return _digest(token, f"hello {rank} {number} {nonce}")


def welcome_proof(token: str, nonce: str) -> bytes:
    """Returns what proves that the leader knows the token."""
    return _digest(token, f"welcome {nonce}")


def _digest(token: str, text: str) -> bytes:
    return hmac.new(token.encode(), text.encode(), "sha256").hexdigest().encode()
