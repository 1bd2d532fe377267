"""Elastic runs under a real horovodrun: workers are killed, hosts come and go, and every row still counts once."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from command import ROOT
from elastic_run import HOSTS, PATIENCE_S, ElasticRun

from disttrain.elastic.rendezvous import Rendezvous
from disttrain.errors import UsageError


class CountingRun(ElasticRun):
    """A run of elastic_worker.py, whose workers print their progress."""

    def __init__(self, directory: Path, hosts: list[str], *options: str, dies_in_start: str = "") -> None:
        self.may_finish = directory / "finish"
        command = [sys.executable, str(ROOT / "tests/elastic_worker.py"), dies_in_start]
        super().__init__(directory, hosts, *options, command=command)

    def finish(self) -> str:
        self.may_finish.touch()
        return super().finish()

    def kill(self, host: str) -> None:
        pids = re.findall(rf"\[{re.escape(host)} (\d+)\] rank", self.text())
        os.kill(int(pids[-1]), signal.SIGKILL)

    def have_trained(self) -> set[tuple[str, str]]:
        """Host and process number of each worker that has trained."""
        return set(re.findall(r"\[([\w.]+) (\d+)\] rank", self.text()))

    def host_of_rank(self, rank: int) -> str:
        return re.findall(rf"\[([\w.]+) \d+\] rank {rank} of", self.text())[-1]


@pytest.fixture
def start(tmp_path):
    runs = []

    def begin(*arguments, **options) -> CountingRun:
        runs.append(CountingRun(tmp_path, *arguments, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


@pytest.mark.slow
def test_a_run_survives_the_leaders_death_and_takes_a_new_host_in(start):
    run = start(HOSTS[:3], "--min-np", "2", "--max-np", "4")
    run.wait_for(r"committed \d+0", times=6)
    leader = run.host_of_rank(0)
    run.kill(leader)
    run.wait_for(r"rank \d of 2", times=2)
    run.set_hosts([*HOSTS[:3], HOSTS[3]])
    run.wait_for(r"rank \d of 3", times=6)
    told = run.finish()
    assert told.count("counted each of 16000 rows once: True") == 3
    assert told.count("] began with 3\n") == 3  # the newest worker too
    assert re.search(r"Lost a worker: going on from epoch 1, step \d+ with 2 workers instead of 3", told)
    assert re.search(r"A worker joined: going on from epoch 1, step \d+ with 3 workers instead of 2", told)


@pytest.mark.slow
def test_two_workers_lost_at_once_and_a_new_host_that_cannot_start_do_not_end_the_run(start, tmp_path):
    run = start(HOSTS[:4], "--min-np", "1", "--max-np", "5")
    run.wait_for(r"committed \d+0", times=8)
    follower = run.host_of_rank(2)
    run.kill(run.host_of_rank(0))
    run.kill(follower)
    run.wait_for(r"rank \d of 2", times=2)
    run.set_hosts([*HOSTS[:4], "no-such-host.invalid"])  # ssh to it fails
    run.wait_for("The hosts changed")
    told = run.finish()
    assert told.count("counted each of 16000 rows once: True") == 2


@pytest.mark.slow
def test_a_worker_that_dies_while_the_others_start_horovod_does_not_take_them_along(start):
    run = start(HOSTS[:2], "--min-np", "1", "--max-np", "3", dies_in_start=HOSTS[2])
    run.wait_for(r"committed \d+0", times=4)
    before = run.have_trained()
    run.set_hosts(HOSTS[:3])
    run.wait_for(r"rank \d of 2", times=4)
    told = run.finish()
    assert told.count("counted each of 16000 rows once: True") == 2
    assert run.have_trained() == before  # the same processes
    assert told.count("] committed 30\n") == 2  # and none began anew


@pytest.mark.slow
def test_a_run_goes_on_without_a_host_that_is_taken_out_and_ends_where_too_few_are_left(start):
    run = start(HOSTS[:3], "--min-np", "2", "--max-np", "3", "--elastic-timeout", "10")
    run.wait_for(r"committed \d+0", times=6)
    leader = run.host_of_rank(0)
    run.set_hosts([host for host in HOSTS[:3] if host != leader])
    run.wait_for(r"rank \d of 2", times=2)
    run.wait_for(re.escape(f"{leader}:0 is no longer among the hosts that were found"))
    run.kill(run.host_of_rank(1))
    assert run.process.wait(PATIENCE_S) != 0
    assert "rows once" not in run.text()


def test_an_elastic_run_that_horovodrun_did_not_start_is_a_usage_error():
    with pytest.raises(UsageError, match="horovodrun --gloo --min-np"):
        Rendezvous({"HOROVOD_ELASTIC": "1", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"})
