"""Sends random lines, which nobody who knows the token would send, to both ends of a connection.

python tests/hostile_lines.py 10000000 [SEED]
"""

import json
import random
import socket
import sys

from disttrain.distributed.json_lines import MAX_LINE_BYTES, Lines, hello_of, hello_proof, welcome_proof

TOKEN = "the token"
VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**63,
    10**400,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "a",
    "\ud800",
    "é",
    "\0",
    [],
    {},
    [[]],
    {"a": "\udfff"},
    "0" * 64,
    "f" * 64,
    hello_proof("another", 1, 1, "").decode(),
    welcome_proof("another", "").decode(),
]
NAMES = ["rank", "number", "nonce", "proof", "goodbye", "failed", "go", "\ud800", "a"]


def a_line(draw):
    """JSON of the right names and wrong values, or any bytes."""
    if draw.random() < 0.7:
        names = draw.sample(NAMES, draw.randint(0, 6))
        return json.dumps({name: draw.choice(VALUES) for name in names}).encode()
    if draw.random() < 0.5:
        return json.dumps(draw.choice(VALUES)).encode() * draw.randint(1, 3)
    odd = [b"[" * draw.randint(1, 5000), b"9" * 5000, b'{"proof":"\\ud800"}']
    return draw.choice([draw.randbytes(draw.randint(0, 40)), *odd])


def check(line):
    """Asserts that a line causes no error on either side, and that neither side believes it."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(message, dict):
        assert hello_of(message, TOKEN) is None


def run(num_lines, seed):
    """Checks so many lines; one in a thousand by way of a socket."""
    draw = random.Random(seed)
    for number in range(num_lines):
        line = a_line(draw)
        check(line)
        if number % 1000 == 0:
            here, there = socket.socketpair()
            lines = Lines(here)
            there.sendall(line[:MAX_LINE_BYTES] + b"\n")
            for message in lines.receive():
                assert hello_of(message, TOKEN) is None
            lines.close()
            there.close()


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{int(sys.argv[1]):,} hostile lines: none raised, none was believed")
