"""Servers of stores on this machine, those that their packages are tested with: S3, Azure, Google Cloud, HTTP."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fault_proxy import Proxy

BUCKET = "tests"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # Azurite's own
NGINX = """
daemon off;
worker_processes 1;
{user}
pid {place}/pid;
error_log {place}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
  server {{ listen 127.0.0.1:{port}; root {place}; }}
}}
"""


@dataclass
class Store:
    """A bucket on a running server. `prefix` begins its URLs; `{port}` in it is where a client reaches the server."""

    name: str
    port: int
    place: Path = field(repr=False)
    prefix: str

    is_writable = True

    def environ_at(self, port: int) -> dict[str, str]:
        """What a client needs to reach the server, or a proxy before it that listens at `port`."""
        return {}

    @property
    def environ(self) -> dict[str, str]:
        return self.environ_at(self.port)

    def url(self, key: str, port: int | None = None) -> str:
        return self.prefix.format(port=port or self.port) + key

    @contextmanager
    def filesystem(self):
        """An fsspec filesystem that reaches the server itself, made anew: others may reach a proxy."""
        import fsspec

        with environment(self):
            yield fsspec.filesystem(self.prefix.split("://")[0], skip_instance_cache=True)

    def put(self, key: str, content: bytes) -> str:
        with self.filesystem() as fs:
            fs.pipe_file(f"{BUCKET}/{key}", content)
        return self.url(key)

    def fetch(self, key: str, target: Path) -> None:
        """Copies what is under a key, and below it, into a local directory."""
        with self.filesystem() as fs:
            for path in fs.find(f"{BUCKET}/{key}"):
                local = target / path.partition(f"{key}/")[2]
                local.parent.mkdir(parents=True, exist_ok=True)
                local.write_bytes(fs.cat_file(path))


class S3(Store):
    def environ_at(self, port):
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def bucket(self):
        return BUCKET

    def client(self):
        import boto3

        with environment(self):
            return boto3.client("s3")

    def put(self, key, content):
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)
        return self.url(key)

    def make_bucket(self):
        self.client().create_bucket(Bucket=BUCKET)


class Azure(Store):
    def environ_at(self, port):
        address = f"http://127.0.0.1:{port}/devstoreaccount1"
        told = (
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURE_KEY};BlobEndpoint={address};"
        )
        return {"AZURE_STORAGE_CONNECTION_STRING": told}

    def make_bucket(self):
        with self.filesystem() as fs:
            fs.mkdir(BUCKET)


class Google(Store):
    def environ_at(self, port):
        return {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "FSSPEC_GS_TOKEN": "anon",
            "FSSPEC_GS_PROJECT": "tests",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def make_bucket(self):
        pass  # the emulator was started with it


class Web(Store):
    """A web server, which serves a directory."""

    is_writable = False

    def put(self, key, content):
        path = self.place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self.url(key)

    def make_bucket(self):
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _command(name: str, port: int, place: Path) -> list[str] | None:
    """The command that starts a server, or None where it is not installed."""
    match name:
        case "s3":
            return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        case "azure":
            azurite = shutil.which("azurite-blob")
            options = ["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
            return azurite and [azurite, *options, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
        case "google":
            program = Path(sys.executable).with_name("gcp-storage-emulator")
            options = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}"]
            return [str(program), *options]
        case "nginx":
            nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
            (place / "conf").write_text(
                NGINX.format(place=place, port=port, user="user root;" if os.geteuid() == 0 else "")
            )
            return nginx and [nginx, "-c", str(place / "conf"), "-e", str(place / "error.log")]
        case "python":
            return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(place)]


STORES = {
    "s3": (S3, f"s3://{BUCKET}/"),
    "azure": (Azure, f"az://{BUCKET}/"),
    "google": (Google, f"gs://{BUCKET}/"),
    "nginx": (Web, "http://127.0.0.1:{port}/"),
    "python": (Web, "http://127.0.0.1:{port}/"),  # gives no parts of files
}


@contextmanager
def running(name: str, place: Path):
    """Runs the server of a store; skips the test where it is not installed."""
    port = free_port()
    command = _command(name, port, place)
    if command is None:
        pytest.skip(f"the server of {name} is not installed")
    kind, prefix = STORES[name]
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=place)
    try:
        _wait_for_port(port, server, place / "log")
        store = kind(name, port, place, prefix)
        store.make_bucket()
        yield store
    finally:
        server.terminate()
        server.wait(30)


def _wait_for_port(port: int, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the server did not start (exit status {server.poll()}): {log.read_text()}")


@contextmanager
def environment(store: Store, port: int | None = None):
    """Lets this process's packages reach a store, or a proxy before it; they look when a filesystem is made."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environ_at(port or store.port).items():
            patch.setenv(name, value)
        yield


@contextmanager
def proxied(store: Store):
    """Runs a proxy before a store, by which this process's packages reach it."""
    with Proxy(store.port) as proxy, environment(store, proxy.port):
        forget_filesystems()
        yield proxy
    forget_filesystems()


def forget_filesystems() -> None:
    """Lets fsspec make filesystems anew, which then look into the environment again."""
    import fsspec
    from fsspec.config import conf, set_conf_env

    conf.clear()
    set_conf_env(conf, dict(os.environ))
    for protocol in ("s3", "abfs", "gcs", "http"):
        fsspec.get_filesystem_class(protocol).clear_instance_cache()
