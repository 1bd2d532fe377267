"""Several machines: two hosts with a network, processes and an sshd of their own, and a store with the data on a third.

What the link between them does to a run: nothing while it works. If it is cut, the run ends with an error that names
the lost worker, and with a checkpoint; an elastic run continues with fewer workers. On a slow link, `--sync-every`
reduces the waiting.
"""

import random
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest
from command import ROOT, environment, history, regression_rows, write_csv
from launching import HAS_MPI
from namespaces import SSH_PORT, Network, wait_for, why_not

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]

GLOO_TIMEOUT_S = 10
# Gloo gives up before --timeout, as it does by default; MPI never does. Compiling on a busy machine takes half of 24 s.
LAUNCHERS = [("horovod.sh", 30), *([("mpi.sh", 24)] if HAS_MPI else [])]
LAUNCHER_S = 20  # launch/supervise.py: what a launcher may take to end after its workers
ELASTIC_TIMEOUT_S = 30  # all meet anew, once ssh has found after 20 s that a host is gone
PATIENCE_S = 150
EPOCHS = 12
OPTIONS = ("--data", "s3://rows/data.csv", "--epochs", EPOCHS, "--batch-size", 50)


class Cluster:
    """The two hosts, and the processes that are started on them from the first one."""

    def __init__(self, place, network):
        self.place, self.network = place, network
        self.numbers = count()

    def start(self, *words):
        """A command on host a; what it says goes to `process.log`."""
        log = self.place / f"{next(self.numbers)}.log"
        environ = environment(self.place, PYTHON=sys.executable, HOROVOD_GLOO_TIMEOUT_SECONDS=str(GLOO_TIMEOUT_S))
        process = self.network.a.popen(*words, directory=self.place, log=log, environ=environ)
        process.log = log
        return process

    def launch(self, script, *options, hosts):
        """A script of launch/ for these hosts; `options` are for disttrain."""
        ssh = ("--network-interface", "eth0", "--ssh-port", SSH_PORT, "--ssh-key", self.network.place / "key")
        return self.start(ROOT / "launch" / script, *hosts, *ssh, "--", *options)

    def finish(self, process, code=0):
        """Waits for the end, which must have this exit code and leave no process on any host; returns the output."""
        assert process.wait(PATIENCE_S) == code, process.log.read_text()
        self.wait_until_empty()
        return process.log.read_text()

    def wait_until_empty(self):
        for host in (self.network.a, self.network.b):
            wait_for(lambda host=host: not host.processes(), f"no process on {host.name}", PATIENCE_S)

    @contextmanager
    def cut_in_epoch_2(self, process):
        """Cuts host b off once the run is in its second epoch; reconnects it on leaving."""
        wait_for(lambda: "epoch 2/" in said(process), "epoch 2", PATIENCE_S)
        self.network.b.cut()
        try:
            yield
        finally:
            self.network.b.mend()


def said(process):
    text = process.log.read_text()
    assert process.poll() is None, text
    return text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    place = tmp_path_factory.mktemp("cluster")
    data = write_csv(place / "data.csv", *regression_rows(8000))
    network = Network(place / "network", data)
    try:
        yield Cluster(place, network)
    finally:
        network.close()
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(host.netns in listed for host in network.hosts.values())


@pytest.fixture(scope="module")
def alone(cluster):
    """The history of one process on the data of the four workers."""
    process = cluster.start(sys.executable, "-m", "disttrain", *OPTIONS, "--num-shards", 4, "--output", "alone")
    cluster.finish(process)
    return history(cluster.place / "alone")


def assert_same(ours, theirs):
    for name in ("epoch", "rows"):
        assert ours[name] == theirs[name]
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


def test_a_cut_link_ends_the_run_with_a_name_and_the_same_command_ends_as_one_process_does(cluster, alone):
    """With one of the launchers, another one from time to time."""
    script, timeout_s = random.Random(time.time_ns()).choice(LAUNCHERS)
    print(script)
    output = script.partition(".")[0]
    begin = (script, *OPTIONS, "--timeout", timeout_s, "--output", output)
    process = cluster.launch(*begin, hosts=("-H", "a:2,b:2"))
    with cluster.cut_in_epoch_2(process):
        seconds = wait_for(lambda: process.poll() is not None, "the end", PATIENCE_S)
        told = cluster.finish(process, code=7)
    assert seconds < timeout_s + LAUNCHER_S + 10
    assert re.search(r"rank [23] \(host b, pid \d+\) has not been heard of for \d+ s", told), told
    told = cluster.finish(cluster.launch(*begin, hosts=("-H", "a:2,b:2")))
    assert "Going on from the checkpoint" in told
    assert "(Horovod's all-reduce, as the workers are on several machines), 4 workers, 4 x 50 rows a step" in told
    assert_same(history(cluster.place / output), alone)


def test_an_elastic_run_goes_on_without_the_host_that_is_cut_off(cluster, alone):
    (cluster.place / "hosts.txt").write_text("a:1\nb:1\n")
    discovery = f"{ROOT}/launch/discovery/hosts-file.sh {cluster.place}/hosts.txt"
    hosts = ("--discovery", discovery, "-np", 2, "--min-np", 1)
    options = ("--num-shards", 4, "--timeout", ELASTIC_TIMEOUT_S, "--output", "elastic")
    process = cluster.launch("horovod.sh", *OPTIONS, *options, hosts=hosts)
    with cluster.cut_in_epoch_2(process):
        told = cluster.finish(process)
    assert re.search(r"Lost a worker: going on from epoch \d+, step \d+ with 1 worker instead of 2", told), told
    assert_same(history(cluster.place / "elastic"), alone)


def test_syncing_less_often_is_faster_over_a_slow_link(cluster):
    def rows_per_s(sync_every):
        output = f"sync-{sync_every}"
        options = ("--epochs", 2, "--batch-size", 100, "--hidden", "256,128", "--sync-every", sync_every)
        run = cluster.launch("horovod.sh", *OPTIONS, *options, "--output", output, hosts=("-H", "a:1,b:1"))
        cluster.finish(run)
        told = history(cluster.place / output)
        return told["rows"][1] / told["seconds"][1]

    cluster.network.b.limit("10mbit")
    try:
        assert rows_per_s(64) > 3 * rows_per_s(1)
    finally:
        cluster.network.b.limit(None)
