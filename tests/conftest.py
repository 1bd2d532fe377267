"""Fixtures that several test modules share: folders for indexes and caches, and an S3 server."""

import fcntl
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

from disttrain.data.csv.source import Source

# Modules whose tests start several processes that must answer each other in time.
ONE_AT_A_TIME = {
    "test_elastic_training",
    "test_hangs",
    "test_kubernetes_runs",
    "test_multihost",
    "test_supervise",
}

# Files that take minutes: they come first, so that no process of pytest-xdist is left with one at the end.
LONGEST = ("test_container", "test_training", "test_faults", "test_resume", "test_backends")


def pytest_collection_modifyitems(items):
    """Puts the LONGEST files first, and those of ONE_AT_A_TIME evenly among the others: they seldom wait then."""
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    alone = [path for path in files if path.stem in ONE_AT_A_TIME]
    others = [path for path in files if path.stem not in ONE_AT_A_TIME]
    others.sort(key=lambda path: path.stem not in LONGEST)
    apart = -(-len(others) // max(len(alone), 1))
    for number, path in enumerate(alone):
        others.insert(number * (apart + 1), path)
    items[:] = [item for path in others for item in files[path]]


@pytest.fixture(autouse=True)
def one_at_a_time(request, tmp_path_factory):
    """Keeps tests of ONE_AT_A_TIME from running at the same time under pytest-xdist."""
    if request.path.stem not in ONE_AT_A_TIME:
        yield
        return
    with open(tmp_path_factory.getbasetemp().parent / "one-at-a-time", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Restores the handling of Ctrl-C: a shell's background job ignores it, and so would the commands it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def kept(tmp_path):
    """The folder of an epoch cache."""
    return tmp_path / "kept"


@pytest.fixture
def open_csv(tmp_path, cache_dir):
    opened = []

    def make(content, name="a.csv", **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        opened.append(Source.open(str(path), cache_dir=cache_dir, **options))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


@dataclass
class S3:
    """A bucket on a server of this machine; `environ` is what a subprocess needs to reach it."""

    bucket: str
    environ: dict[str, str] = field(repr=False)

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, content: bytes) -> str:
        self.client().put_object(Bucket=self.bucket, Key=key, Body=content)
        return self.url(key)

    def client(self):
        import boto3

        return boto3.client("s3")  # finds the server by the environment


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log = open(tmp_path_factory.mktemp("s3") / "log", "wb")  # noqa: SIM115
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    with pytest.MonkeyPatch.context() as patch, log:
        for name, value in environ.items():
            patch.setenv(name, value)
        try:
            _wait_for_port(port, server)
            bucket = S3("tests", environ)
            bucket.client().create_bucket(Bucket=bucket.bucket)
            yield bucket
        finally:
            server.terminate()
            server.wait(30)


def _wait_for_port(port: int, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the S3 server did not start (exit status {server.poll()})")
