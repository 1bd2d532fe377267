"""What outlasts one world of an elastic run, seen from one worker in this process; test_membership.py has real ones."""

import os
import signal
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from command import regression_rows, write_csv
from faults import checkpoints, read

from disttrain.checkpoints.commits import Commits, RunDefaults, WorldChanged
from disttrain.checkpoints.file import Checkpoint, Position, write_checkpoint
from disttrain.config import TrainConfig
from disttrain.distributed.local import LocalBackend
from disttrain.distributed.replicas import OneReplica
from disttrain.elastic.continuity import ElasticRun
from disttrain.elastic.reexec import VARIABLE
from disttrain.elastic.rendezvous import Rendezvous
from disttrain.errors import Stopped
from disttrain.run import session
from disttrain.run.context import open_context
from disttrain.run.worlds import run_training
from disttrain.training.stop_signals import StopSignals

NUM_ROWS, COMMITTED = 300, Position(2, 7)


class Waiting(BaseHTTPRequestHandler):
    """Answers as horovodrun does while it waits for hosts: stores values, and assigns no rank to a worker."""

    values: dict[str, bytes]

    def do_GET(self):
        if self.path.startswith("/rank_and_size"):
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(2)
            return
        value = self.values.get(self.path)
        self.send_response(404 if value is None else 200)
        self.end_headers()
        self.wfile.write(value or b"")

    def do_PUT(self):
        self.values[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def environ():
    """The environment of a worker that restarted in its process with a commit, while horovodrun waits for others."""
    Waiting.values = {}
    descriptor = os.memfd_create("commit")
    with open(descriptor, "wb") as stream, ThreadingHTTPServer(("127.0.0.1", 0), Waiting) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        commit = Checkpoint(COMMITTED, {"run": {"output": "runs/a"}}, {"weights/00000": np.arange(5)})
        write_checkpoint(commit, stream)
        stream.flush()
        place = {"HOROVOD_HOSTNAME": "localhost", "HOROVOD_RANK": "1", "HOROVOD_LOCAL_RANK": "0"}
        address = {"ADDR": "127.0.0.1", "PORT": str(server.server_port)}
        yield {
            "HOROVOD_ELASTIC": "1",
            VARIABLE: f"1 {os.dup(descriptor)}",
            **place,
            **{f"HOROVOD_GLOO_RENDEZVOUS_{name}": value for name, value in address.items()},
        }
        server.shutdown()


def test_a_run_that_is_stopped_while_its_workers_meet_keeps_the_last_commit(environ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped, match=r"^stopped in epoch 2, after step 7; to go on: --resume runs/a$") as raised:
        run_training(TrainConfig(), environ)
    assert not raised.value.is_shared  # rank 0 may be the one that was lost, so this one says it
    (kept,) = checkpoints(tmp_path / "runs" / "a" / "checkpoints")
    assert read(kept).position == COMMITTED
    np.testing.assert_array_equal(read(kept).arrays["weights/00000"], np.arange(5))


def test_of_those_that_are_stopped_together_the_lowest_rank_keeps_the_commit(environ):
    first = {}

    def stop(rank, position):
        first[rank, position] = Rendezvous(environ).is_first_to_stop(position, rank)

    cases = [(3, COMMITTED), (1, COMMITTED), (2, Position(2, 8))]
    threads = [threading.Thread(target=stop, args=case) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert first == {(3, COMMITTED): False, (1, COMMITTED): True, (2, Position(2, 8)): True}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains an elastic run's next world, of one worker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "")  # else flags for so small a network would be left here
    write_csv(tmp_path / "data.csv", *regression_rows(NUM_ROWS))

    def begin(commits: Commits, **options) -> None:
        config = TrainConfig(data="data.csv", batch_size=NUM_ROWS, hidden=(2,), cache_dir=tmp_path / "cache", **options)
        with ExitStack() as stack:
            run = ElasticRun({}, commits, StopSignals())
            session.train(open_context(config, {}, LocalBackend("local", OneReplica()), run, stack))

    return begin


@pytest.mark.slow
def test_an_epoch_of_one_call_ends_where_hosts_came_and_the_run_keeps_its_first_shards_and_its_place(train, capsys):
    commits = Commits()
    commits.defaults = RunDefaults("runs/begun", num_shards=3)
    commits.want_change()
    with pytest.raises(WorldChanged):
        train(commits, epochs=3)
    assert "1 worker, 3 x 300 rows a step" in capsys.readouterr().out
    assert commits.last.position == Position(1, 1)
    assert commits.last.about["run"]["output"] == "runs/begun"
    assert len(commits.last.about["standing"]["results"]) == 1


@pytest.mark.slow
def test_where_hosts_came_the_next_world_validates_what_this_one_trained(train):
    commits = Commits()
    commits.want_change()
    with pytest.raises(WorldChanged):
        train(commits, epochs=3, validation_data="data.csv")
    assert commits.last.position == Position(1, 1)
    assert commits.last.about["standing"]["results"] == []
    assert commits.defaults.num_shards == 1  # the first world settles it
