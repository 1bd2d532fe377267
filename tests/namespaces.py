"""Simulates two hosts and a store on one machine, each with its own network, processes and name; links can be cut.

A host is a network namespace, whose host names are in /etc/netns. Its first process, number 1 of a process namespace,
has the host's name, /proc, /run and sshd. When it ends, the kernel ends all other processes of the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2", "store": "10.77.0.3"}
SSH_PORT, STORE_PORT = 2222, 5000
TOOLS = {"ip": "iproute2", "tc": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "unshare": "util-linux"}
PATIENCE_S = 60
HOST = """
set -eu
hostname {name}
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
{sshd} -D -e -f {place}/sshd_config -h {place}/host_key &
wait
"""
SSHD = f"""
Port {SSH_PORT}
UsePAM no
StrictModes no
AuthorizedKeysFile {{place}}/key.pub
PasswordAuthentication no
PermitRootLogin prohibit-password
"""
MAKE_BUCKET = """
import sys, time, boto3, botocore
client = boto3.client("s3")
while True:
    try:
        client.create_bucket(Bucket="rows")
        break
    except botocore.exceptions.EndpointConnectionError:
        time.sleep(0.1)
for path in sys.argv[1:]:
    client.upload_file(path, "rows", path.rpartition("/")[2])
"""


def why_not() -> str:
    """Returns what is missing here to make such hosts; empty if nothing is."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts in network namespaces need Linux and root"
    missing = {package for tool, package in TOOLS.items() if not find(tool)}
    if missing:
        return f"apt-get install {' '.join(sorted(missing))}"
    probe = subprocess.run([find("unshare"), "--net", "--uts", "--pid", "--fork", "--mount-proc", "true"], check=False)
    return "" if probe.returncode == 0 else "no namespaces can be made here"


def find(tool: str) -> str:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


def call(*words: str | Path, **settings) -> None:
    """Runs a command that must succeed, without showing its output."""
    done = subprocess.run([find(str(words[0])), *map(str, words[1:])], capture_output=True, text=True, **settings)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


class Host:
    """A name, an address, and the processes that run there."""

    def __init__(self, name: str, netns: str, network: Network) -> None:
        self.name, self.netns, self.network = name, netns, network
        self.first: subprocess.Popen | None = None

    def start(self, script: str) -> None:
        """Starts the host's first process, in namespaces of its own."""
        words = [find("ip"), "netns", "exec", self.netns, find("unshare"), "--uts", "--pid", "--fork", "--kill-child"]
        with (self.network.place / f"{self.name}.log").open("wb") as log:
            self.first = subprocess.Popen(
                [*words, "--mount-proc", "bash", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def popen(self, *words: str | Path, directory: Path, log: Path, environ: dict[str, str]) -> subprocess.Popen:
        """Starts a command on the host, as if it was typed there; its output goes to `log`."""
        enter = ["--net", "--uts", "--pid", "--mount", f"--wd={directory}", *map(str, words)]
        with log.open("a") as stream:
            return subprocess.Popen(
                [find("nsenter"), "--target", str(self._inner().pid), *enter],
                env=environ | self.network.store_environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    def _inner(self) -> psutil.Process:
        """Returns the host's process number 1, a child of the `unshare` that this process has started."""
        assert self.first is not None
        wait_for(psutil.Process(self.first.pid).children, self.name)
        return psutil.Process(self.first.pid).children()[0]

    def processes(self) -> list[str]:
        """Returns the command lines of the processes started on the host, without those that make up the host."""
        listed = subprocess.run([find("ip"), "netns", "pids", self.netns], capture_output=True, text=True, check=True)
        assert self.first is not None
        own, found = (self.first.pid, self._inner().pid), []
        for pid in map(int, listed.stdout.split()):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if pid not in own and process.name() != "sshd" and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join([process.name(), *process.cmdline()]))
        return found

    def cut(self) -> None:
        """Takes the host's link down, without notice to either end."""
        call("ip", "-n", self.network.store.netns, "link", "set", f"to-{self.name}", "down")

    def mend(self) -> None:
        """Brings the host's link up again."""
        call("ip", "-n", self.network.store.netns, "link", "set", f"to-{self.name}", "up")

    def limit(self, rate: str | None) -> None:
        """Limits the link's rate in each direction, such as to 10mbit; None: no limit. The delay stays the same."""
        for netns, device in ((self.netns, "eth0"), (self.network.store.netns, f"to-{self.name}")):
            words = ("tc", "-n", netns, "qdisc", "replace" if rate else "del", "dev", device, "root")
            call(*words, *(("tbf", "rate", rate, "burst", "32kb", "latency", "50ms") if rate else ()))


class Network:
    """Hosts a and b and a store on one switch; to be closed. If there are files, S3's bucket `rows` has them."""

    def __init__(self, place: Path, *files: Path) -> None:
        self.place = place
        self.stack = ExitStack()
        self.store_environ = {
            "AWS_ENDPOINT_URL": f"http://{ADDRESSES['store']}:{STORE_PORT}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        place.mkdir()
        with self.stack:
            self._connect()
            self._let_in()
            if files:
                self._serve(files)
            self.stack = self.stack.pop_all()

    def close(self) -> None:
        """Ends all processes on the hosts and removes the hosts; a second call does nothing."""
        self.stack.close()

    def _connect(self) -> None:
        """Makes the namespaces, their addresses and the links between them; the switch is in the store's namespace."""
        self.hosts = {name: self._host(name) for name in ADDRESSES}
        self.a, self.b, self.store = self.hosts.values()
        switch = self.store.netns
        call("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
        for name in ("a", "b"):
            ends = ("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0")
            call("ip", "-n", switch, *ends, "netns", self.hosts[name].netns)
            call("ip", "-n", switch, "link", "set", f"to-{name}", "master", "switch", "up")
        for name, device in (("a", "eth0"), ("b", "eth0"), ("store", "switch")):
            netns = self.hosts[name].netns
            call("ip", "-n", netns, "address", "add", f"{ADDRESSES[name]}/24", "dev", device)
            for each in ("lo", device):
                call("ip", "-n", netns, "link", "set", each, "up")

    def _host(self, name: str) -> Host:
        netns = f"disttrain-{os.getpid()}-{name}"
        names = Path("/etc/netns", netns)
        call("ip", "netns", "add", netns)
        self.stack.callback(call, "ip", "netns", "delete", netns)
        self.stack.callback(lambda: not any(names.parent.iterdir()) and names.parent.rmdir())
        self.stack.callback(shutil.rmtree, names, ignore_errors=True)
        names.mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {other}" for other, address in ADDRESSES.items())]
        (names / "hosts").write_text("\n".join(lines) + "\n")
        host = Host(name, netns, self)
        self.stack.callback(end, host)
        return host

    def _let_in(self) -> None:
        """Makes a key that all hosts know, and starts sshd on both; does not touch the machine's own ssh."""
        for key in ("key", "host_key"):
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.place / key)
        (self.place / "sshd_config").write_text(SSHD.format(place=self.place))
        public = (self.place / "host_key.pub").read_text()
        known = "".join(f"[{name}]:{SSH_PORT},[{ADDRESSES[name]}]:{SSH_PORT} {public}" for name in ("a", "b"))
        for name in ("a", "b"):
            ssh = Path("/etc/netns", self.hosts[name].netns, "ssh")
            ssh.mkdir()
            (ssh / "ssh_known_hosts").write_text(known)
            (ssh / "ssh_config").write_text("UserKnownHostsFile /dev/null\n")
            self.hosts[name].start(HOST.format(name=name, sshd=find("sshd"), place=self.place))
        for name in ("a", "b"):
            wait_for(lambda name=name: "listening" in (self.place / f"{name}.log").read_text(), f"sshd on {name}")

    def _serve(self, files: tuple[Path, ...]) -> None:
        """Starts the S3 server, and puts the files into its bucket."""
        serve = f"{sys.executable} -m moto.server -H 0.0.0.0 -p {STORE_PORT} & wait"
        self.store.start(f"hostname store; {serve}")
        log = self.place / "bucket.log"
        words = (sys.executable, "-c", MAKE_BUCKET, *files)
        fill = self.store.popen(*words, directory=self.place, log=log, environ=dict(os.environ))
        assert fill.wait(PATIENCE_S) == 0, log.read_text()


def end(host: Host) -> None:
    """Ends a host's first process, and with it all others there."""
    if host.first is not None:
        for process in psutil.Process(host.first.pid).children():
            process.kill()
        host.first.wait(PATIENCE_S)


def wait_for(is_so, what: str, patience_s: float = PATIENCE_S) -> float:
    """Waits until `is_so()` is true; returns the seconds that it took."""
    begun_s = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun_s < patience_s, f"not within {patience_s} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - begun_s
