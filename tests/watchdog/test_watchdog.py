"""The watchdog with real processes that hang, stop, die, are cut off or just work: who is named, and how all end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from watched_ranks import TELLS_S, TIMEOUT_S, Cable, Proxy, Ranks, one_line, told_s

HUNG, LOST = 7, 6
KILLED = -signal.SIGKILL
SLACK_S = 10  # allowance for a busy machine; an idle one takes 2 s
NOTHING = ""


@pytest.fixture
def play(tmp_path):
    """Starts ranks, each with what it does."""
    started = []

    def start(*acts, **options):
        started.append(Ranks(tmp_path, acts, **options))
        return started[-1]

    yield start
    for ranks in started:
        ranks.close()


@pytest.fixture
def proxy():
    """By which one rank reaches the leader; it can be cut."""
    made = Proxy()
    yield made
    made.close()


@pytest.fixture
def cable():
    """Between two hosts; it can be pulled."""
    try:
        made = Cable()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.close()


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
    assert codes == [KILLED if rank == stopped else HUNG for rank in range(3)]
    speaker = 1 if stopped == 0 else 0
    assert re.fullmatch(
        rf"disttrain: rank {speaker}: rank {stopped} \(host, pid\) has not been heard of for \d+ s; it was last seen "
        r"training, at FILE in play( \(epoch 1, step \d+\))?: stopped, killed, or its network is cut; the run ends",
        one_line(said),
    )
    assert TIMEOUT_S <= told_s(one_line(said)) < ranks.seconds + 2  # its last beat came before the signal
    assert ranks.seconds < TIMEOUT_S + SLACK_S


@pytest.mark.parametrize("stopped", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_stopped_rank_of_another_machine_ends_itself_when_it_goes_on(play, stopped):
    ranks = play("works", "works", own_machine=True)
    ranks.wait_until_ready()
    ranks.signal(stopped, signal.SIGSTOP)
    assert ranks.processes[1 - stopped].wait(60) == HUNG
    assert ranks.processes[stopped].poll() is None
    ranks.signal(stopped, signal.SIGCONT)
    codes, said = ranks.end()
    assert codes == [HUNG, HUNG]
    assert f"rank {stopped} (host host{stopped}, " in said[1 - stopped]
    assert said[stopped] == NOTHING
    assert ranks.seconds < SLACK_S


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_rank_is_a_lost_one(play, killed):
    ranks = play("waits", "waits", "waits")
    ranks.wait_until_ready(TELLS_S)
    ranks.signal(killed, signal.SIGKILL)
    codes, said = ranks.end()
    assert codes == [KILLED if rank == killed else LOST for rank in range(3)]
    assert f"rank {killed} (host, pid) ended, last seen averaging gradients" in one_line(said)
    assert 4.5 < ranks.seconds < 5 + SLACK_S


@pytest.mark.slow
@pytest.mark.parametrize("failing", [1, 0])
def test_a_rank_that_fails_ends_the_others_that_wait_for_it_and_it_alone_says_why(play, failing):
    ranks = play(*("works:1,fails" if rank == failing else "waits" for rank in range(3)))
    codes, said = ranks.end()
    assert codes == [1] * 3
    assert "as it was told to" in said[failing]
    assert [text for rank, text in enumerate(said) if rank != failing] == [NOTHING, NOTHING]
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
    ranks = play("works:8", "works:1,reads", "works:8", is_elastic=True)
    codes, said = ranks.end()
    assert codes == [0, HUNG, 0]
    assert one_line(said).endswith("; the run goes on without it")
    assert ranks.seconds > 8


# -- a network that is cut


@pytest.fixture
def play_proxied(play, proxy):
    """Starts ranks on machines of their own, of which the last reaches the leader through `proxy`."""

    def start(*acts, **options):
        ranks = play(*acts, own_machine=True, proxy=proxy, **options)
        proxy.leader = lambda: ranks.offer()[1]
        ranks.wait_until_ready()
        return ranks

    return start


@pytest.mark.slow
def test_a_cut_link_ends_both_sides(play_proxied, proxy):
    ranks = play_proxied("waits", "waits", "works")
    ranks.begun_s = time.monotonic()
    proxy.is_cut.set()
    codes, said = ranks.end()
    assert codes == [HUNG] * 3
    assert "rank 2 (host host2, pid" in said[0]
    assert "rank 0 (host host0, pid" in said[2]
    assert said[1] == NOTHING
    assert ranks.seconds < TIMEOUT_S + SLACK_S


@pytest.mark.slow
def test_a_link_that_comes_back_in_time_is_no_hang(play_proxied, proxy):
    ranks = play_proxied("works:7", "works:7", timeout_s=9)
    proxy.is_cut.set()
    time.sleep(4)  # after 3 the other connection is given up
    proxy.is_cut.clear()
    assert ranks.end() == ([0, 0], [NOTHING, NOTHING])


@pytest.mark.slow
def test_a_connection_that_breaks_is_made_again(play_proxied, proxy):
    ranks = play_proxied("works:7.5", "works:7.5", timeout_s=9)
    proxy.break_connections()
    assert ranks.end() == ([0, 0], [NOTHING, NOTHING])


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
def test_a_pulled_cable_ends_the_ranks_on_both_hosts(play, cable):
    timeout_s = 9  # much longer than a beat: all of a host are silent for nearly as long
    left, right = cable.hosts
    ranks = play("waits", "waits", "works", hosts=[left, right, right], timeout_s=timeout_s, own_machine=True)
    ranks.wait_until_ready()
    cable.pull()
    ranks.begun_s = time.monotonic()
    codes, said = ranks.end()
    assert codes == [HUNG] * 3
    # The one whose last beat came first is told about in full: either of them, as their beats fell.
    told = re.fullmatch(
        r"disttrain: rank 0: rank (\d) \(host host\1, pid \d+\) has not been heard of for \d+ s; it was last seen "
        r"[^;]+; the same is true of rank (\d); the run ends\n",
        said[0],
    )
    assert told is not None, said[0]
    assert set(told.groups()) == {"1", "2"}
    assert "rank 0 (host host0, pid" in said[1]
    assert ranks.seconds < timeout_s + SLACK_S


# -- no false alarms: all end by themselves, and nobody says anything

AGAIN = "works:0.2,again,works:0.3,again,works:0.1"


@pytest.mark.slow
def test_ranks_may_end_at_different_times(play):
    assert play("works:0.5", "works:5", "works:1").end() == ([0] * 3, [NOTHING] * 3)


@pytest.mark.slow
def test_one_that_works_on_for_long_is_waited_for(play):
    assert play("works:5,waits:0.1", "waits:5").end() == ([0, 0], [NOTHING, NOTHING])


def test_zero_switches_it_off(play):
    assert play("reads:2", timeout_s=0).end() == ([0], [NOTHING])


def test_the_next_watchdog_finds_nothing_of_the_one_before(play):
    assert play(AGAIN, AGAIN, AGAIN).end() == ([0] * 3, [NOTHING] * 3)


@pytest.mark.slow
def test_a_pause_of_the_whole_machine_is_no_hang(play):
    ranks = play("works:2", "works:2", "works:2")
    ranks.wait_until_ready()
    for number, pause_s in ((signal.SIGSTOP, TIMEOUT_S + 1), (signal.SIGCONT, 0)):
        for rank in range(3):
            ranks.signal(rank, number)
        time.sleep(pause_s)
    assert ranks.end() == ([0] * 3, [NOTHING] * 3)


@pytest.mark.slow
def test_a_busy_machine_is_no_hang(play):
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        assert play("works:8", "works:8", "works:8", timeout_s=5).end() == ([0] * 3, [NOTHING] * 3)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


STRANGERS = {
    "another protocol": b"GET / HTTP/1.0\r\n\r\n",
    "no text": b"\x00" * 100_000,
    "JSON without end": b"[" * 60_000 + b"\n",
    "an empty object": b"{}\n",
    "a number": b"3\n",
    "a greeting without proof": b'{"rank": 1, "number": 99, "nonce": "a", "proof": "%s"}\n' % (b"0" * 64),
}


@pytest.mark.slow
def test_strangers_change_nothing(play):
    ranks = play("works:5", "works:5")
    ranks.wait_until_ready()
    _, port, token = ranks.offer()
    for rubbish in STRANGERS.values():
        assert token.encode() not in rubbish
        with socket.create_connection(("127.0.0.1", port), timeout=30) as stranger, suppress(OSError):
            stranger.sendall(rubbish)
            assert stranger.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=5):  # one that says nothing
        assert ranks.end() == ([0, 0], [NOTHING, NOTHING])
