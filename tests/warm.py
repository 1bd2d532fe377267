"""Starts the command, or a benchmark, two seconds faster: forks a process that has already imported everything.

The forked process has its own directory, environment, output, signals, random numbers and exit code, and ends as any
Python process does. A test of the start itself (its messages, a kill during imports) needs a process that starts cold.
"""

import atexit
import ctypes
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
_lock = threading.Lock()
_servers: list[tuple[Path, subprocess.Popen]] = []


class Warm:
    """A process with the interface of `subprocess.Popen`."""

    def __init__(
        self, arguments: list[str], cwd: Path, env: dict[str, str], stdout: Path, stderr: Path, *, module="disttrain"
    ) -> None:
        """Starts `python -m MODULE` with `arguments`; `stdout` and `stderr` may be the same file."""
        asked = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": env}
        asked |= {"stdout": str(stdout), "stderr": str(stderr)}
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(_server()))
        self._told = self._connection.makefile("rb")
        self._connection.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = int(self._told.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while the process runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._take()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit code; raises subprocess.TimeoutExpired if that takes too long."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("disttrain", timeout or 0)
            self._take()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _take(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(int(self._told.readline()))
        self.__del__()

    def __del__(self) -> None:
        self._told.close()
        self._connection.close()


def _server() -> Path:
    """Returns the socket of the process that is forked, which is started once and ends with this process."""
    with _lock:
        if not _servers:
            path = Path(tempfile.mkdtemp(prefix="warm")) / "socket"
            kept = {
                name: value for name, value in os.environ.items() if not name.startswith(("DISTTRAIN_", "HOROVOD_"))
            }
            kept["PYTHONPATH"] = os.pathsep.join(
                [str(Path(__file__).parent.parent), str(Path(__file__).parent / "without_jax")]
            )
            server = subprocess.Popen(
                [sys.executable, __file__, str(path)], env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            atexit.register(_stop, path, server)
            _servers.append((path, server))
        return _servers[0][0]


def _stop(path: Path, server: subprocess.Popen) -> None:
    with server:  # which closes its input, and waits
        shutil.rmtree(path.parent, ignore_errors=True)


# -- the process that is forked


def serve(path: str) -> dict[str, Any]:
    """Forks for each connection; returns only in the process that becomes the command, with what it was asked for."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        print("ready", flush=True)
        while listener in (ready := select.select([listener, sys.stdin], [], [])[0]):
            connection = listener.accept()[0]
            if os.fork() == 0:
                listener.close()
                return watch(connection)
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        assert sys.stdin in ready
        os._exit(0)


def watch(connection: socket.socket) -> dict[str, Any]:
    """Forks the command, sends its process id and later its exit status; returns only in the command's process."""
    die_with_parent()
    stream = connection.makefile("rb")
    asked = json.loads(stream.readline())
    pid = os.fork()
    if pid == 0:
        stream.close()
        connection.close()
        return asked
    connection.sendall(b"%d\n" % pid)
    connection.sendall(b"%d\n" % os.waitpid(pid, 0)[1])
    os._exit(0)


def become(asked: dict[str, Any]) -> None:
    """Sets this process up as if `python -m MODULE` had been started by whoever asked for it."""
    die_with_parent()
    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    for number, path in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
        opened = os.open(path, flags if number else os.O_RDONLY, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.path[:0] = [asked["cwd"], *asked["env"].get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv[:] = [asked["module"], *asked["arguments"]]
    numpy.random.seed()  # as the random module does by itself


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    from disttrain.terminal import native_messages_held

    with native_messages_held(False):
        import numpy

        import disttrain.run  # noqa: F401
        from disttrain.data.csv.parser import compile_kernels

        compile_kernels()
    asked = serve(sys.argv[1])
    become(asked)
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
