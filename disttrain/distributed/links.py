"""The links that carry heartbeats: the leader's to all workers, and a worker's to its leader."""

from __future__ import annotations

import secrets
import socket
from time import monotonic

from disttrain.distributed.json_lines import (
    Address,
    Lines,
    Message,
    Waiter,
    first_to_prove,
    hello_of,
    hello_proof,
    listen,
    welcome_proof,
)

MAX_STRANGERS = 1024  # connections that have not authenticated yet
HELLO_S = 10.0  # seconds that a new connection has to authenticate
LEAVE_S = 1.0  # how long to wait for the others to read a goodbye


def farewell_message(exit_code: int | None) -> Message:
    """Returns a worker's last message: a goodbye, or the exit code of the error that ends it."""
    return {"goodbye": True} if exit_code is None else {"failed": exit_code}


def is_farewell(message: Message | None) -> bool:
    """Returns whether a message is its sender's last one."""
    return message is not None and ("goodbye" in message or "failed" in message)


class Server:
    """The leader's side: a link to every worker that knows the token; used by one thread."""

    def __init__(self, waiter: Waiter, listener: socket.socket | None = None, token: str | None = None) -> None:
        """Listens on all interfaces and makes a token of its own, unless they are given."""
        self.token = token or secrets.token_hex(16)
        self._waiter = waiter
        self._listener = listener or listen(None)
        self.port = int(self._listener.getsockname()[1])
        self._strangers: dict[Lines, float] = {}  # connection -> its deadline to authenticate
        self._links: dict[int, Lines] = {}
        self._numbers: dict[int, int] = {}  # rank -> number of its latest connection
        waiter.add(self._listener, None)

    @property
    def ranks(self) -> set[int]:
        """The ranks that are connected."""
        return set(self._links)

    def poll(self, until_s: float) -> list[tuple[int, Message | None]]:
        """Returns (rank, message) for all that came, at the latest at `until_s`; message is None for a closed link."""
        came: list[tuple[int, Message | None]] = []
        for lines in self._waiter.wait(until_s):
            if lines is None:
                self._accept()
            elif lines in self._strangers:
                self._introduce(lines, came)
            else:
                self._read(lines, came)
        for lines in [lines for lines, deadline_s in self._strangers.items() if monotonic() > deadline_s]:
            self._drop_stranger(lines)
        return came

    def send(self, rank: int, message: Message) -> None:
        """Sends a message to one rank, if it is connected."""
        if (lines := self._links.get(rank)) is not None:
            lines.send(message)

    def tell(self, message: Message) -> None:
        """Sends a message to all ranks that are connected."""
        for lines in self._links.values():
            lines.send(message)

    def leave(self, farewell: Message) -> list[tuple[int, Message | None]]:
        """Tells all that this end leaves, and waits a moment for them to read it; returns what they sent meanwhile."""
        self.tell(farewell)
        self._waiter.go_on()
        deadline_s = monotonic() + LEAVE_S
        came = []
        while self._links and monotonic() < deadline_s:
            came += self.poll(deadline_s)
        return came

    def close(self) -> None:
        """Closes all connections; a second call does nothing."""
        self._waiter.drop(self._listener)
        self._listener.close()
        for lines in [*self._links.values(), *self._strangers]:
            self._close(lines)
        self._links.clear()
        self._strangers.clear()

    def _accept(self) -> None:
        try:
            connection = self._listener.accept()[0]
        except OSError:
            return
        lines = Lines(connection)
        self._strangers[lines] = monotonic() + HELLO_S
        self._waiter.add(connection, lines)
        if len(self._strangers) > MAX_STRANGERS:
            self._drop_stranger(next(iter(self._strangers)))

    def _introduce(self, lines: Lines, came: list[tuple[int, Message | None]]) -> None:
        messages = lines.receive()
        if messages and (hello := hello_of(messages[0], self.token)) is not None:
            rank, number, nonce = hello
            if number > self._numbers.get(rank, 0):
                del self._strangers[lines]
                if (before := self._links.pop(rank, None)) is not None:
                    self._close(before)
                self._links[rank], self._numbers[rank], lines.rank = lines, number, rank
                lines.send({"proof": welcome_proof(self.token, nonce).decode()})
                came.extend((rank, message) for message in messages[1:])
                return
        if messages or lines.is_closed:
            self._drop_stranger(lines)

    def _read(self, lines: Lines, came: list[tuple[int, Message | None]]) -> None:
        if self._links.get(lines.rank) is not lines:  # replaced meanwhile
            return
        messages = lines.receive()
        came.extend((lines.rank, message) for message in messages)
        has_left = any(is_farewell(message) for message in messages)
        if lines.is_closed or has_left:
            if not has_left:
                came.append((lines.rank, None))
            self._close(lines)
            del self._links[lines.rank]

    def _drop_stranger(self, lines: Lines) -> None:
        del self._strangers[lines]
        self._close(lines)

    def _close(self, lines: Lines) -> None:
        self._waiter.drop(lines.socket)
        lines.close()


class Link:
    """A follower's side: one connection to the leader at a time; used by one thread."""

    def __init__(
        self, waiter: Waiter, addresses: list[Address], port: int, token: str, rank: int, number: int = 0
    ) -> None:
        """`number`: the first connection takes the next higher one; a rank's numbers must only grow."""
        self._waiter = waiter
        self._addresses = addresses
        self._port = port
        self._token = token
        self._rank = rank
        self._number = number
        self._lines: Lines | None = None

    @property
    def is_open(self) -> bool:
        """Whether the leader is connected, as far as is known."""
        return self._lines is not None

    def connect(self, timeout_s: float) -> bool:
        """Tries all addresses at once, and takes the first that proves to know the token; returns whether one did.

        The previous connection is closed only then: a leader that was stopped still reads what was sent on it.
        """
        self._number += 1
        nonce = secrets.token_hex(16)
        hello = {"rank": self._rank, "number": self._number, "nonce": nonce}
        hello["proof"] = hello_proof(self._token, self._rank, self._number, nonce).decode()
        proof = welcome_proof(self._token, nonce)
        lines = first_to_prove(self._addresses, self._port, hello, proof, monotonic() + timeout_s)
        if lines is not None:
            self.close()
            self._lines = lines
            self._waiter.add(lines.socket, lines)
        return lines is not None

    def send(self, message: Message) -> None:
        """Sends a message to the leader, if it is connected."""
        if self._lines is not None:
            self._lines.send(message)

    def poll(self, until_s: float) -> list[Message | None]:
        """Returns what was received, at the latest at `until_s`; None where the link closed."""
        is_ready = bool(self._lines is not None and self._lines.put_back) or bool(self._waiter.wait(until_s))
        if not is_ready or self._lines is None:
            return []
        came: list[Message | None] = list(self._lines.receive())
        if self._lines.is_closed:
            came.append(None)
            self.close()
        return came

    def leave(self, farewell: Message) -> list[Message | None]:
        """Tells the leader that this end leaves, and waits a moment for it to close the link; returns what it sent."""
        self.send(farewell)
        self._waiter.go_on()
        deadline_s = monotonic() + LEAVE_S
        came: list[Message | None] = []
        while self.is_open and monotonic() < deadline_s and not any(map(is_farewell, came)):
            came += self.poll(deadline_s)
        return came

    def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        if self._lines is not None:
            self._waiter.drop(self._lines.socket)
            self._lines.close()
            self._lines = None
