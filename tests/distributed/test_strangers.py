"""Strangers that send lines to a port of a run, at either end: no line raises an error, and none is believed."""

import random
import socket
import threading
import time

import hostile_lines
import pytest

from disttrain.distributed.json_lines import Waiter, address_for, first_to_prove, listen, network, own_addresses
from disttrain.distributed.links import Link, Server
from disttrain.watchdog.watchdog import _address_of_run

LOOPBACK = (int(socket.AF_INET), "127.0.0.1")


def test_no_line_of_a_stranger_raises_or_is_believed():
    """Ten million were tried once: docs/records/reliability.md."""
    hostile_lines.run(20_000, seed=5)


@pytest.fixture
def server():
    waiter = Waiter()
    server = Server(waiter, listen(LOOPBACK))
    server.came = []

    def listen_on():
        while not waiter.is_stopping:
            server.came += server.poll(time.monotonic() + 1)

    thread = threading.Thread(target=listen_on)
    thread.start()
    yield server
    waiter.stop()
    thread.join()
    server.close()
    waiter.close()


def test_who_knows_the_token_gets_through_a_crowd_of_strangers(server):
    draw = random.Random(7)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(hostile_lines.a_line(draw) + b"\n")
    waiter = Waiter()
    link = Link(waiter, [LOOPBACK], server.port, server.token, rank=1)
    assert link.connect(10)
    link.send({"beat": 1})
    deadline_s = time.monotonic() + 10
    while (1, {"beat": 1}) not in server.came and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert server.came == [(1, {"beat": 1})]
    link.close()
    waiter.close()


def test_a_stranger_in_the_leaders_place_is_not_believed():
    draw = random.Random(9)
    with socket.create_server(("127.0.0.1", 0)) as impostor:

        def answer():
            for _ in range(30):
                connection, _ = impostor.accept()
                with connection:
                    connection.sendall(hostile_lines.a_line(draw) + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = impostor.getsockname()[1]
        hello = {"rank": 1, "number": 1, "nonce": "n", "proof": "p"}
        for _ in range(30):
            assert first_to_prove([LOOPBACK], port, hello, b"f" * 64, time.monotonic() + 5) is None
        thread.join()


def test_the_leader_listens_where_the_others_are():
    assert _address_of_run([(own_addresses(), network()), ([], network())]) == LOOPBACK
    away = [address for address in own_addresses() if address[1] != "127.0.0.1"]
    assert _address_of_run([(away[:1], "of another machine")]) in (None, *away)
    assert address_for([]) is None
    assert address_for([[LOOPBACK]]) is None  # of another machine: its loopback is no way there
    with listen(LOOPBACK) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
