"""The watchdog's judge: which ranks it declares hung on what evidence, and that no other process is ended."""

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from disttrain.watchdog.judge import Beat, Judge, Verdict
from disttrain.watchdog.processes import Process, is_running, kill, this_process

# -- whom to end


def test_only_the_very_process_is_killed():
    sleeper = subprocess.Popen(["sleep", "100"])
    try:
        stat = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()
        process = replace(this_process(), pid=sleeper.pid, started=stat[19])
        for other in (
            replace(process, started=str(int(process.started) + 1)),  # a later process of this number
            replace(process, machine="another"),
            Process(process.host, process.pid),
        ):
            assert not kill(other)
            assert not is_running(other)
        assert is_running(process)
        sleeper.send_signal(signal.SIGSTOP)
        os.waitpid(sleeper.pid, os.WUNTRACED)
        assert not is_running(process)
        assert kill(process)
        assert sleeper.wait(10) == -signal.SIGKILL
        assert not kill(process)
    finally:
        sleeper.kill()
        sleeper.wait()


# -- the judge


def judge(*ranks, timeout_s=10):
    processes = {rank: Process("ab"[rank > 1], 100 + rank) for rank in range(4)}
    return Judge(ranks or range(4), processes, 0.0, timeout_s=timeout_s, grace_s=5)


WORKS, STALLS = Beat(0, "training"), Beat(11, "reading", position=(1, 5))
WAITS, WAITED = Beat(5, "averaging", True), Beat(11, "averaging", True)


@pytest.mark.parametrize(
    ("beats", "kind", "ranks"),
    [
        ((WORKS, WORKS, WORKS, WORKS), None, ()),
        ((WAITED, WORKS, WAITED, WAITED), None, ()),  # one works on: the others may wait for it
        ((WAITED, STALLS, WAITED, WAITED), "stalled", (1,)),
        ((WAITED, STALLS, STALLS, WAITED), "stalled", (1, 2)),
        ((STALLS, WAITED, WAITED, WAITED), "stalled", (0,)),
        ((WAITED, WAITED, WAITED, WAITED), "network", (0, 1, 2, 3)),
        ((WAITED, WAITED, WAITS, WAITED), None, ()),  # one began to wait later
        ((WAITED, WAITED, None, WAITED), "silent", (2,)),  # never heard of, and waited for
        ((WORKS, WORKS, None, WORKS), None, ()),  # it cannot reach the leader, but the run goes on
    ],
)
def test_whom_the_beats_condemn(beats, kind, ranks):
    court = judge()
    for rank, beat in enumerate(beats):
        if beat is not None:
            court.heard(rank, beat, 20.0)
    verdict = court.verdict(20.5)
    assert (verdict.kind if verdict else None, verdict.ranks if verdict else ()) == (kind, ranks)


def test_a_silent_hosts_ranks_are_named_together():
    court = judge()
    for rank in range(4):
        court.heard(rank, WORKS, 20.0 + rank / 10)
    assert court.missed(24.5) == ""
    for rank in (0, 1):
        court.heard(rank, WAITED, 30.0)
    verdict = court.verdict(30.25)
    assert (verdict.kind, verdict.ranks) == ("silent", (2, 3))
    assert court.missed(30.25) == verdict.text
    assert verdict.text.startswith("rank 2 (host b, pid 102) has not been heard of for 10 s; it was last seen training")
    assert verdict.text.endswith("; the same is true of rank 3")


def test_a_connection_that_closed_counts_after_the_grace_unless_it_comes_back():
    court = judge()
    for rank in range(4):
        court.heard(rank, WORKS, 1.0)
    court.gone(2, 1.0)
    assert court.verdict(5.9) is None
    assert court.verdict(6.1).kind == "lost"
    court.back(2)
    assert court.verdict(6.1) is None
    court.gone(2, 7.0)
    court.left(2)
    assert court.verdict(10.9) is None


def test_one_that_told_its_exit_code_ends_the_run_with_it_after_the_grace_and_does_not_come_back():
    court = judge()
    for rank in range(4):
        court.heard(rank, WORKS, 1.0)
    court.failed(2, 3, 1.0)
    court.gone(1, 2.0)  # for it
    court.back(2)
    court.heard(2, WORKS, 1.5)
    assert court.verdict(5.9) is None
    verdict = court.verdict(6.1)
    assert (verdict.kind, verdict.ranks, verdict.exit_code) == ("failed", (1, 2), 3)


def test_clocks_start_anew_after_a_pause():
    court = judge()
    for rank in range(4):
        court.heard(rank, STALLS if rank else WORKS, 1.0)
    court.restart(100.0)
    assert court.verdict(109.9) is None
    assert court.verdict(110.1).kind == "silent"


def test_what_is_told_is_what_is_heard():
    for beat in (WORKS, STALLS, WAITED):
        assert Beat.from_message(beat.message()) == beat
    verdict = Verdict("silent", (1, 2), "rank 1 is silent")
    for one in (verdict, replace(verdict, kind="failed", told_exit_code=3)):
        assert Verdict.from_message(one.message()) == one
