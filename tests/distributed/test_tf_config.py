"""Workers without a launcher meet at the first one's address, in any order and also when strangers connect."""

import socket
import threading
import time

import pytest

from disttrain.distributed.tf_config import meet
from disttrain.errors import HungError, UsageError


@pytest.fixture
def addresses():
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]
    for server in servers:
        server.close()
    return found


def connect(address, said=b""):
    """Connects to an address, as soon as somebody listens there."""
    host, port = address.split(":")
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        try:
            connection = socket.create_connection((host, int(port)), timeout=30)
        except OSError:
            time.sleep(0.01)
            continue
        connection.sendall(said)
        return connection
    pytest.fail("nobody listens")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_go_on_once_all_are_there(addresses, order):
    gone_on = []
    workers = [
        threading.Thread(target=lambda rank=rank: (meet(addresses, rank, 60), gone_on.append(rank))) for rank in order
    ]
    for worker in workers[:-1]:
        worker.start()
    time.sleep(0.3)
    assert gone_on == []
    workers[-1].start()
    for worker in workers:
        worker.join(60)
    assert sorted(gone_on) == [0, 1, 2]


def test_strangers_and_those_who_left_are_not_counted(addresses):
    leader = threading.Thread(target=meet, args=(addresses, 0, 60))
    leader.start()
    for said in (
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"rank": 1, "number": 1, "nonce": "", "proof": "\\ud800"}\n',
        b"disttrain 1\n",
    ):
        with connect(addresses[0], said) as stranger:
            assert stranger.recv(1) == b""
    with pytest.raises(HungError):
        meet(addresses, 1, 1, "another secret")
    with pytest.raises(HungError, match="still waits for other workers"):  # came, and ended
        meet(addresses, 1, 1)
    others = [threading.Thread(target=meet, args=(addresses, rank, 60)) for rank in (2, 1)]
    others[0].start()
    others[0].join(1)
    assert leader.is_alive()
    others[1].start()
    for worker in (leader, *others):
        worker.join(60)
        assert not worker.is_alive()


@pytest.mark.slow
def test_who_is_missing_is_named(addresses):
    def come_and_wait():
        with pytest.raises(HungError):
            meet(addresses, 1, 4)

    other = threading.Thread(target=come_and_wait)
    other.start()
    with pytest.raises(HungError, match=f"within 2 s no worker connected from {addresses[2]}"):
        meet(addresses, 0, 2)
    other.join(60)
    with pytest.raises(HungError, match=f"the leader, {addresses[0]}, does not answer"):
        meet(addresses, 2, 1)


def test_a_port_that_is_taken_is_a_usage_error(addresses):
    port = addresses[0].split(":")[1]
    with socket.create_server(("", int(port))), pytest.raises(UsageError, match=f"port {port} is taken"):
        meet(addresses, 0, 5)
