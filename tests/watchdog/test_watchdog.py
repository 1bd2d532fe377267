"""Real processes that hang, stop, die, are cut off or only work on: who is found, what is said, who ends how."""

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HUNG, LOST = 7, 6
TIMEOUT_S = 3
TELLS_S = 3  # in which each has told all others what it does: five beats
SLACK_S = 10  # what a machine may take that is busy with other things; an idle one takes 2


class Ranks:
    """Processes that play the ranks of one run."""

    def __init__(self, directory, *words, timeout_s=TIMEOUT_S, options=(), prefixes=None):
        self.directory = directory
        self.begun_s = time.monotonic()
        program = [sys.executable, str(ROOT / "tests" / "playing_rank.py"), str(directory)]
        self.processes = [
            subprocess.Popen(
                [
                    *(prefixes[rank] if prefixes else ()),
                    *program,
                    str(rank),
                    str(len(words)),
                    str(timeout_s),
                    word,
                    *options,
                ],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, word in enumerate(words)
        ]

    def wait_until_ready(self, settles_s=1.0):
        """Until all are connected; `settles_s` later they have told what they do, with a beat or two."""
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"
        time.sleep(settles_s)

    def signal(self, rank, number):
        self.begun_s = time.monotonic()
        self.processes[rank].send_signal(number)

    def end(self):
        """Exit codes, and what each said on stderr. A stopped process that nobody ended is -1."""
        codes, said = [], []
        for process in self.processes:
            try:
                said.append(process.communicate(timeout=60)[1])
                codes.append(process.returncode)
            except subprocess.TimeoutExpired:
                said.append("")
                codes.append(-1)
        self.seconds = time.monotonic() - self.begun_s
        return codes, said

    def offer(self):
        """The leader's addresses, port and token."""
        path = self.directory / "1-0"  # of the second exchange: the first one tells where all are
        deadline_s = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return pickle.loads(path.read_bytes())[2]


@pytest.fixture
def play(tmp_path):
    started = []

    def start(*words, **options):
        started.append(Ranks(tmp_path, *words, **options))
        return started[-1]

    yield start
    for process in [process for ranks in started for process in ranks.processes]:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def one_line(said):
    """The only thing that all ranks together said."""
    (line,) = [line for text in said for line in text.splitlines()]
    return re.sub(r"host [\w.-]+, pid \d+", "host, pid", re.sub(r"(?<= )\w+\.py:\d+", "FILE", line))


def told_s(line):
    """For how many whole seconds something lasted, as the line tells."""
    return int(re.search(r" for (\d+) s", line)[1])


# -- one that hangs


def test_a_rank_that_stalls_is_found_and_named_with_what_it_was_doing(play):
    ranks = play("waits", "works:1,reads", "waits")
    codes, said = ranks.end()
    assert codes == [HUNG] * 3
    assert re.fullmatch(
        r"disttrain: rank 0: rank 1 \(host, pid\) made no progress for \d+ s while reading bytes 5 to 9 of "
        r"s3://a/b.csv, at FILE in play \(epoch 1, step \d+\); the run ends",
        one_line(said),
    )
    assert TIMEOUT_S <= told_s(one_line(said)) < ranks.seconds < 1 + TIMEOUT_S + SLACK_S


def test_the_only_worker_is_watched_too(play):
    ranks = play("works:0.5,reads", timeout_s=1)
    codes, said = ranks.end()
    assert codes == [HUNG]
    assert re.match(r"disttrain: rank 0 \(host, pid\) made no progress for \d+ s while reading bytes", one_line(said))
    assert 1 <= told_s(one_line(said)) < ranks.seconds


@pytest.mark.parametrize("stopped", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_stopped_rank_is_found_and_killed(play, stopped):
    ranks = play("works", "works", "waits")
    ranks.wait_until_ready(TELLS_S)
    ranks.signal(stopped, signal.SIGSTOP)
    codes, said = ranks.end()
    assert codes == [-signal.SIGKILL if rank == stopped else HUNG for rank in range(3)]
    speaker = 1 if stopped == 0 else 0
    assert re.fullmatch(
        rf"disttrain: rank {speaker}: rank {stopped} \(host, pid\) has not been heard of for \d+ s; it was last seen "
        r"training, at FILE in play( \(epoch 1, step \d+\))?: stopped, killed, or its network is cut; the run ends",
        one_line(said),
    )
    assert TIMEOUT_S <= told_s(one_line(said)) < ranks.seconds + 2  # its last beat came before the signal
    assert ranks.seconds < TIMEOUT_S + SLACK_S


@pytest.mark.parametrize("stopped", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_stopped_rank_of_another_machine_ends_itself_when_it_goes_on(play, tmp_path, stopped):
    (tmp_path / "machines").touch()
    ranks = play("works", "works")
    ranks.wait_until_ready()
    ranks.signal(stopped, signal.SIGSTOP)
    assert ranks.processes[1 - stopped].wait(60) == HUNG
    assert ranks.processes[stopped].poll() is None
    ranks.signal(stopped, signal.SIGCONT)
    codes, said = ranks.end()
    assert codes == [HUNG, HUNG]
    assert f"rank {stopped} (host host{stopped}, " in said[1 - stopped]
    assert said[stopped] == ""
    assert ranks.seconds < SLACK_S


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_rank_is_a_lost_one(play, killed):
    ranks = play("waits", "waits", "waits")
    ranks.wait_until_ready(TELLS_S)
    ranks.signal(killed, signal.SIGKILL)
    codes, said = ranks.end()
    assert codes == [-signal.SIGKILL if rank == killed else LOST for rank in range(3)]
    assert f"rank {killed} (host, pid) ended, last seen averaging gradients" in one_line(said)
    assert 4.5 < ranks.seconds < 5 + SLACK_S


@pytest.mark.slow
@pytest.mark.parametrize("failing", [1, 0])
def test_a_rank_that_fails_ends_the_others_that_wait_for_it_and_it_alone_says_why(play, failing):
    ranks = play(*("works:1,fails" if rank == failing else "waits" for rank in range(3)))
    codes, said = ranks.end()
    assert codes == [1] * 3
    assert "as it was told to" in said[failing]
    assert [text for rank, text in enumerate(said) if rank != failing] == ["", ""]
    assert ranks.seconds > 4.5  # a launcher has its time to end them


@pytest.mark.slow
def test_where_all_wait_for_each_other_the_network_is_to_blame(play):
    ranks = play("waits", "works:1,waits", "waits")
    codes, said = ranks.end()
    assert codes == [HUNG] * 3
    line = one_line(said)
    groups = "ranks 0, 2 averaging gradients; rank 1 averaging"
    assert re.search(rf"all workers wait for each other for \d+ s, {groups}", line)
    assert "the network between them hangs" in line
    assert TIMEOUT_S <= told_s(line) < ranks.seconds


@pytest.mark.slow
def test_where_the_run_can_go_on_without_it_only_the_hung_rank_ends(play):
    ranks = play("works:8", "works:1,reads", "works:8", options=("elastic",))
    codes, said = ranks.end()
    assert codes == [0, HUNG, 0]
    assert one_line(said).endswith("; the run goes on without it")
    assert ranks.seconds > 8


# -- a network that is cut


class Proxy:
    """Forwards the connections of one rank to the leader, until it is cut: then nothing comes through, nor an end."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.target = port
        self.is_cut = threading.Event()
        self.sockets = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                one = self.listener.accept()[0]
                other = socket.create_connection(("127.0.0.1", self.target()))
                self.sockets += [one, other]
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source, target):
        with suppress(OSError):
            while data := source.recv(4096):
                if not self.is_cut.is_set():
                    target.sendall(data)
            if not self.is_cut.is_set():
                target.shutdown(socket.SHUT_WR)

    def close(self):
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def proxied(play, directory, *words, **options):
    """Ranks of which the last reaches the leader through a proxy."""
    proxy = Proxy(lambda: ranks.offer()[1])
    try:
        (directory / f"proxy-{len(words) - 1}").write_text(str(proxy.port))
        (directory / "machines").touch()
        ranks = play(*words, **options)
        ranks.wait_until_ready()
        yield ranks, proxy
    finally:
        proxy.close()


@pytest.mark.slow
def test_a_cut_link_ends_both_sides(play, tmp_path):
    with proxied(play, tmp_path, "waits", "waits", "works") as (ranks, proxy):
        ranks.begun_s = time.monotonic()
        proxy.is_cut.set()
        codes, said = ranks.end()
    assert codes == [HUNG] * 3
    assert "rank 2 (host host2, pid" in said[0]
    assert "rank 0 (host host0, pid" in said[2]
    assert said[1] == ""
    assert ranks.seconds < TIMEOUT_S + SLACK_S


@pytest.mark.slow
def test_a_link_that_comes_back_in_time_is_no_hang(play, tmp_path):
    with proxied(play, tmp_path, "works:7", "works:7", timeout_s=9) as (ranks, proxy):
        proxy.is_cut.set()
        time.sleep(4)  # after 3 the other connection is given up
        proxy.is_cut.clear()
        assert ranks.end() == ([0, 0], ["", ""])


@pytest.mark.slow
def test_a_connection_that_breaks_is_made_again(play, tmp_path):
    with proxied(play, tmp_path, "works:7.5", "works:7.5", timeout_s=9) as (ranks, proxy):
        for one in proxy.sockets[1:]:
            with suppress(OSError):  # the end of one may have ended the other
                one.shutdown(socket.SHUT_RDWR)
        assert ranks.end() == ([0, 0], ["", ""])


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@pytest.fixture
def hosts():
    """Two network namespaces, joined by a cable; gives the command that runs something in each."""
    names = [f"disttrain{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
        yield [["ip", "netns", "exec", name] for name in names]
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    finally:
        for name in names:
            with suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "delete", name)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
def test_a_pulled_cable_ends_the_ranks_on_both_hosts(play, tmp_path, hosts):
    (tmp_path / "machines").touch()
    timeout_s = 9  # much longer than a beat: all of a host are silent for nearly as long
    ranks = play("waits", "waits", "works", prefixes=[hosts[0], hosts[1], hosts[1]], timeout_s=timeout_s)
    ranks.wait_until_ready()
    ip("-n", hosts[1][-1], "link", "set", "cable", "down")
    ranks.begun_s = time.monotonic()
    codes, said = ranks.end()
    assert codes == [HUNG] * 3
    # The one whose last beat came first is told about in full: either of them, as their beats fell.
    told = re.fullmatch(
        r"disttrain: rank 0: rank (\d) \(host host\1, pid \d+\) has not been heard of for \d+ s; it was last seen "
        r"[^;]+; so it is with rank (\d); the run ends\n",
        said[0],
    )
    assert told is not None, said[0]
    assert set(told.groups()) == {"1", "2"}
    assert "rank 0 (host host0, pid" in said[1]
    assert ranks.seconds < timeout_s + SLACK_S


# -- no false alarms


@pytest.mark.slow
def test_ranks_may_end_at_different_times(play):
    assert play("works:0.5", "works:5", "works:1").end() == ([0, 0, 0], ["", "", ""])


@pytest.mark.slow
def test_one_that_works_on_for_long_is_waited_for(play):
    assert play("works:5,waits:0.1", "waits:5").end() == ([0, 0], ["", ""])


def test_the_next_watchdog_finds_nothing_of_the_one_before(play):
    words = "works:0.2,again,works:0.3,again,works:0.1"
    assert play(words, words, words).end() == ([0, 0, 0], ["", "", ""])


@pytest.mark.slow
def test_a_pause_of_the_whole_machine_is_no_hang(play):
    ranks = play("works:2", "works:2", "works:2")
    ranks.wait_until_ready()
    for number, pause_s in ((signal.SIGSTOP, TIMEOUT_S + 1), (signal.SIGCONT, 0)):
        for rank in range(3):
            ranks.signal(rank, number)
        time.sleep(pause_s)
    assert ranks.end() == ([0, 0, 0], ["", "", ""])


@pytest.mark.slow
def test_a_busy_machine_is_no_hang(play):
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        assert play("works:8", "works:8", "works:8", timeout_s=5).end() == ([0, 0, 0], ["", "", ""])
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def test_zero_switches_it_off_also_where_only_one_rank_was_told(play):
    assert play("reads:2", timeout_s=0).end() == ([0], [""])


@pytest.mark.slow
def test_strangers_change_nothing(play):
    ranks = play("works:5", "works:5")
    ranks.wait_until_ready()
    _, port, token = ranks.offer()
    hello = b'{"rank": 1, "number": 99, "nonce": "a", "proof": "%s"}\n' % (b"0" * 64)
    for rubbish in (b"GET / HTTP/1.0\r\n\r\n", b"\x00" * 100_000, b"[" * 60_000 + b"\n", b"{}\n", b"3\n", hello):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as stranger, suppress(OSError):
            stranger.sendall(rubbish)
            assert stranger.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=5):  # one that says nothing
        assert ranks.end() == ([0, 0], ["", ""])
    assert token.encode() not in hello
