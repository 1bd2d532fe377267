"""A proxy that stands before the server of a store, forwards what is asked of it, and answers some requests wrongly.

The servers sign or check nothing about the proxy's address: what a client asks is forwarded as it is.
"""

import http.client
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
STALLED_S = 30


@dataclass(frozen=True)
class Request:
    """One request: `span` is the asked range of bytes [start, stop), or None; `fault` is the answer's."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    fault: str | None = None

    @property
    def span(self):
        """Azure's package names the range in a header of its own."""
        told = next((value for name, value in self.headers.items() if name.lower() in ("range", "x-ms-range")), None)
        if told is None:
            return None
        first, last = told.removeprefix("bytes=").split("-")
        return int(first), int(last) + 1

    @property
    def is_read(self):
        """Whether it asks for bytes of an object; a single byte is asked for to see whether the server gives parts."""
        return self.method == "GET" and self.span is not None and self.span[1] - self.span[0] > 1

    def asks_for_size_of(self, name: str) -> bool:
        """Whether it asks what is known of the object of this name: the last part of its key."""
        key = self.path.partition("?")[0].replace("%2F", "/")
        reads_content = "alt=media" in self.path or self.span is not None
        is_asked = self.method == "HEAD" or (self.method == "GET" and "/o/" in key and not reads_content)
        return is_asked and key.endswith(f"/{name}")


class Proxy:
    """Before the server at a port of this machine; `plan` names the fault of a request's answer, or None.

    `plan` is called by one thread at a time. A context manager.
    """

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.plan: Callable[[Request], str | None] = lambda request: None
        self.requests: list[Request] = []
        self.released = threading.Event()
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self
        self._server.handle_error = lambda *_: None  # clients go away in the middle of an answer
        self.port = self._server.server_port

    def faults(self, fault: str, concerns: Callable[[Request], bool], times: int | None = None) -> None:
        """Answers the requests that are concerned with a fault: the first ones, as many as `times`, or all."""
        left = [times]

        def plan(request: Request) -> str | None:
            if not concerns(request) or left[0] == 0:
                return None
            if left[0] is not None:
                left[0] -= 1
            return fault

        self.plan = plan

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self):
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Request(self.command, self.path, dict(self.headers.items()), body)
        proxy = self.server.proxy
        with proxy.lock:
            fault = proxy.plan(asked)
            proxy.requests.append(Request(asked.method, asked.path, asked.headers, body, fault))
        if fault is None:
            self.send(*self.forwarded(asked))
        else:
            FAULTS[fault](self, asked)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = answer  # noqa: N815

    def forwarded(self, asked):
        """Asks the server; returns status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.proxy.upstream_port, timeout=60)
        try:
            connection.request(asked.method, asked.path, asked.body or None, asked.headers)
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            content = answer.read()
            told = answer.getheader("Content-Length")
            if asked.method == "HEAD" and told is not None:
                headers["Content-Length"] = told
            return answer.status, headers, content
        finally:
            connection.close()

    def send(self, status, headers, content, sent=None):
        """Answers with a content, of which only `sent` bytes may follow the headers."""
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
            self.wfile.flush()

    def refuse(self, status, **headers):
        self.send(status, {"Content-Type": "text/plain", **headers}, b"refused by the proxy")

    def reset(self):
        """Ends the connection with a reset instead of an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def cut(self, status, headers, content):
        self.send(status, headers, content, sent=len(content) // 2)
        self.close_connection = True


def _reset(handler, asked):
    handler.reset()


def _truncated(handler, asked):
    handler.cut(*handler.forwarded(asked))


def _stalled(handler, asked):
    status, headers, content = handler.forwarded(asked)
    handler.send(status, headers, content, sent=len(content) // 2)
    handler.server.proxy.released.wait(STALLED_S)
    handler.close_connection = True


def _of_wrong_length(handler, asked):
    status, headers, content = handler.forwarded(asked)
    headers.pop("Content-MD5", None)
    handler.send(status, headers, content[:-1])


def _shifted(handler, asked):
    status, headers, content = handler.forwarded(asked)
    kept, told = without(headers, "content-range")
    (start, stop), size = asked.span, told.rpartition("/")[2]
    handler.send(status, {**kept, "Content-Range": f"bytes {start - 1}-{stop - 2}/{size}"}, content[-1:] + content[:-1])


def _stale(handler, asked):
    status, headers, content = handler.forwarded(asked)
    kept, _ = without(headers, "etag")
    handler.send(status, {**kept, "ETag": '"stale"', "X-Goog-Generation": "1"}, content[::-1])


def _whole(handler, asked):
    _, headers, content = handler.forwarded(asked)
    kept, told = without(headers, "content-range")
    handler.send(200, kept, content.rjust(int(told.rpartition("/")[2]), b"0"))


def _redirected(handler, asked):
    url = f"http://127.0.0.1:{handler.server.proxy.upstream_port}{asked.path}"
    handler.send(307, {"Location": url}, b"")


def without(headers, name):
    """Returns the headers but for one, and that one's value."""
    kept = {other: value for other, value in headers.items() if other.lower() != name}
    return kept, next((value for other, value in headers.items() if other.lower() == name), "")


FAULTS = {
    "429": lambda handler, asked: handler.refuse(429),
    "500": lambda handler, asked: handler.refuse(500),
    "503": lambda handler, asked: handler.refuse(503, **{"Retry-After": "1"}),
    "reset": _reset,
    "truncated": _truncated,
    "stalled": _stalled,
    "of wrong length": _of_wrong_length,
    "shifted": _shifted,
    "stale": _stale,
    "whole": _whole,
    "redirected": _redirected,
}
