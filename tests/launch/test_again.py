"""launch/container/again.sh: after which exit codes a command is run again, and how often."""

import os
import signal
import subprocess

import pytest
from command import ROOT

AGAIN = ROOT / "launch/container/again.sh"


@pytest.fixture
def again(tmp_path):
    """Runs the script on a short bash command, with a stand-in for `sleep` that runs `pause` instead."""

    def start(does, pause="true", **settings):
        sleep = tmp_path / "bin/sleep"
        sleep.parent.mkdir()
        sleep.write_text(f"#!/bin/bash\n{pause}\n")
        sleep.chmod(0o755)
        environ = os.environ | {"PATH": f"{sleep.parent}:{os.environ['PATH']}"} | settings
        return subprocess.Popen(
            [AGAIN, "bash", "-c", does], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True
        )

    return start


NEXT_CODE = 'read -r code <codes; sed -i 1d codes; echo "round $code"; exit "$code"'


@pytest.mark.parametrize(
    ("codes", "rounds", "hours"),
    [
        ([0], 1, 0),
        ([75, 75, 75, 75, 75, 0], 6, 0),  # stopped with a checkpoint: however often
        ([75, 3], 2, 0),
        ([4, 6, 7, 0], 4, 0),
        ([205, 255, 0], 3, 0),  # as mpirun ends when a host of it is gone
        ([6, 7, 6, 7, 0], 4, 0),  # three times more, and then it is enough
        ([75, 6, 75, 6, 75, 6, 75, 6, 0], 8, 0),
        ([6, 6, 6, 6, 6, 0], 6, 2),  # and once more for each hour
        ([7, 7, 7, 7, 7, 7, 0], 6, 2),
        ([1], 1, 0),
        ([2], 1, 0),
        ([5], 1, 0),
        ([137], 1, 0),
    ],
)
def test_a_command_is_run_again_where_that_may_help(again, tmp_path, codes, rounds, hours):
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    process = again(NEXT_CODE, SECONDS=str(3600 * hours))  # from where bash counts them
    text, _ = process.communicate(timeout=30)
    assert (process.returncode, text.count("round")) == (codes[rounds - 1], rounds)


def test_a_signal_is_handed_on_and_the_command_not_run_again(again):
    process = again('trap "exit 75" TERM; echo round; command -p sleep 20 &>/dev/null & wait')
    assert process.stdout.readline() == "round\n"
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)
    assert (process.returncode, text) == (75, "")


def test_a_signal_in_the_pause_is_the_end(again):
    process = again("echo round; exit 6", pause="kill -TERM $PPID")
    text, _ = process.communicate(timeout=30)
    assert (process.returncode, text) == (6, "round\n")
