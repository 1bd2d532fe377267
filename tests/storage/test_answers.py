"""A store's answer is compared with the request, and its status decides whether the request is retried."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command import disttrain

from disttrain.errors import FileChanged, StorageError, UsageError, all_redacted, redacted
from disttrain.storage.base import Patience
from disttrain.storage.open import open_reader

CONTENT = b"x,y\n" + b"".join(b"%d,%d\n" % (number, number % 7) for number in range(5000))
SLOW = pytest.mark.slow
QUICK = Patience(attempts=3, attempt_s=2, total_s=5)


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT under any path; `server.plan`, a function of (method, number of its requests, range), says how."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer("HEAD", body=False)

    def do_GET(self):
        self.answer("GET")

    def answer(self, method, body=True):
        self.server.requests.append((method, dict(self.headers)))
        number = sum(method == other for other, _ in self.server.requests)
        wanted = self.headers.get("Range")
        start, stop = 0, len(CONTENT)
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, len(CONTENT))
        status, headers, content = 206 if wanted else 200, {"ETag": '"one"'}, CONTENT[start:stop]
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        status, headers, content = self.server.plan(method, number, (status, headers, content), (start, stop))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.plan = [], lambda method, number, usual, span: usual
    server.url = f"http://127.0.0.1:{server.server_port}/a.csv"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def read(url, start=100, stop=1000):
    with open_reader(url, patience=QUICK) as reader:
        content = bytearray(stop - start)
        reader.read_into(start, memoryview(content))
        return bytes(content)


def test_a_store_that_refuses_connections_is_no_missing_file(server):
    url = server.url.replace(str(server.server_port), "9")  # discard: nobody listens
    with pytest.raises(StorageError, match=r"3 attempts in . s, the last: .*(refused|Cannot connect)"):
        read(url)


@pytest.mark.parametrize(
    ("status", "error"), [(404, UsageError), (410, UsageError), (403, UsageError), (401, UsageError)]
)
def test_only_an_answer_that_says_so_is_a_missing_or_forbidden_file(server, status, error):
    server.plan = lambda *_: (status, {}, b"")
    begun_s = time.monotonic()
    with pytest.raises(error, match="no such file" if status in (404, 410) else "permission denied"):
        read(server.url)
    assert time.monotonic() - begun_s < 2


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, StorageError), (403, UsageError), (404, FileChanged), (412, FileChanged), (416, FileChanged)],
)
def test_what_is_final_on_a_range_is_not_tried_again(server, status, error):
    server.plan = lambda method, number, usual, span: (status, {}, b"") if method == "GET" else usual
    begun_s = time.monotonic()
    with pytest.raises(error):
        read(server.url)
    assert time.monotonic() - begun_s < 2
    assert [method for method, _ in server.requests] == ["HEAD", "GET"]


OTHER_BYTES = [
    # what the server says and sends, the error and its words
    ("is of a longer file", lambda s, h, c, span: (s, h | {"Content-Range": f"bytes {span[0]}-{span[1] - 1}/9"}, c),
     FileChanged, "9 now"),
    ("is as many first bytes", lambda s, h, c, span: (200, {"ETag": '"one"'}, CONTENT[: len(c)]), StorageError, "byte"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "answer", "error", "says"), OTHER_BYTES, ids=[case[0] for case in OTHER_BYTES])
def test_an_answer_with_other_bytes_is_not_trained_on(server, how, answer, error, says):
    server.plan = lambda method, number, usual, span: answer(*usual, span) if method == "GET" else usual
    with pytest.raises(error, match=says):
        read(server.url)


def test_what_is_asked_for_names_the_version(server):
    read(server.url)
    assert [headers.get("If-Match") for method, headers in server.requests if method == "GET"] == ['"one"']


def test_a_server_without_head_is_asked_otherwise(server):
    server.plan = lambda method, number, usual, span: (405, {}, b"") if method == "HEAD" else usual
    assert read(server.url) == CONTENT[100:1000]


# -- secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:PASSWORD@host/x.csv: no such file", "http://***@host/x.csv: no such file"),
        ("https://TOKEN@host/x", "https://***@host/x"),
        ("s3://KEY:SECRET@bucket/x", "s3://***@bucket/x"),
        (
            "https://h/x.csv?sv=1&sig=SECRET&X-Amz-Signature=S2 and more",
            "https://h/x.csv?sv=1&sig=***&X-Amz-Signature=*** and more",
        ),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),  # none
        ("gs://bucket/a:b@c.csv", "gs://bucket/a:b@c.csv"),  # a name
        ("a.csv: user:password@x", "a.csv: user:password@x"),  # no URL
    ],
)
def test_secrets_of_urls_are_left_out(text, shown):
    assert redacted(text) == shown
    assert all_redacted({"a": [text, 1, None]}) == {"a": [shown, 1, None]}


@pytest.mark.slow
def test_a_password_stands_nowhere(server, tmp_path):
    url = server.url.replace("http://", "http://user:PASSWORD@") + "?sig=SIGNATURE"
    done = disttrain(tmp_path, "--data", url, "--epochs", 1, "--batch-size", 500)
    assert done.returncode == 0, done.stderr
    assert any("Authorization" in headers for _, headers in server.requests)
    server.plan = lambda *_: (404, {}, b"")
    missing = disttrain(tmp_path, "--data", url, "--epochs", 1)
    assert missing.returncode == 2
    found = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(found) >= 5
    (config,) = [path for path in found if path.name == "config.json"]
    assert "***@127.0.0.1" in json.loads(config.read_text())["data"]
    texts = [str(path).encode() + path.read_bytes() for path in found]
    for text in [*texts, (done.stdout + done.stderr + missing.stdout + missing.stderr).encode()]:
        assert b"PASSWORD" not in text
        assert b"SIGNATURE" not in text
