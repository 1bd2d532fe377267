"""launch/cluster.py: finds a worker's rank and its peers from the variables that each platform sets."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from command import ROOT

from disttrain.config import TrainConfig

SCRIPT = ROOT / "launch/cluster.py"
BACKENDS = TrainConfig.model_fields["backend"].annotation.__args__
PLATFORMS = ("CLUSTER_SPEC", "AWS_BATCH_", "TF_CONFIG")


def start(*arguments, **settings):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PLATFORMS)}
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=kept | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def place_of(process):
    """The TF_CONFIG that a dry run prints, and disttrain's arguments."""
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    _, variable, *command = shlex.split(out)
    assert command[1:5] == ["-m", "disttrain", "--backend", "multiworker"]
    return json.loads(variable.removeprefix("TF_CONFIG=")), command[5:]


def complaint(process):
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.count("\n")) == (2, "", 1)
    return error


@pytest.mark.parametrize(
    ("pool", "index", "rank"), [("workerpool0", 0, 0), ("workerpool1", 0, 1), ("workerpool1", 1, 2)]
)
def test_vertex_ai_tells_it_in_an_environment_variable(pool, index, rank):
    pools = {"workerpool0": ["job-0-0:2222"], "workerpool1": ["job-1-0:2222", "job-1-1:2222"]}
    spec = {"cluster": pools, "environment": "cloud", "task": {"type": pool, "index": index, "trial": ""}}
    config, arguments = place_of(start("--dry-run", "--", "--data", "my file", CLUSTER_SPEC=json.dumps(spec)))
    assert config["cluster"] == {"worker": ["job-0-0:2222", "job-1-0:2222", "job-1-1:2222"]}
    assert config["task"] == {"type": "worker", "index": rank}
    assert arguments == ["--data", "my file"]


def test_sagemaker_tells_it_in_a_file(tmp_path):
    file = tmp_path / "resourceconfig.json"
    names = ["localhost", "127.0.0.1"]  # which have addresses here; there algo-1, algo-2
    file.write_text(json.dumps({"current_host": "localhost", "hosts": names, "network_interface_name": "eth0"}))
    code = f"import pathlib, cluster; print(cluster.find_place({{}}, None, 5, pathlib.Path({str(file)!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, timeout=60)
    assert done.stdout == "(['127.0.0.1:12345', 'localhost:12345'], 1)\n", done.stderr


def test_nodes_of_aws_batch_meet_in_a_folder(tmp_path):
    job = {"AWS_BATCH_JOB_NUM_NODES": "3", "AWS_BATCH_JOB_ATTEMPT": "2", "AWS_BATCH_JOB_MAIN_NODE_INDEX": "0"}
    nodes = [
        start(
            *("--meet", tmp_path, "--dry-run", "--", "--epochs", 3),
            AWS_BATCH_JOB_NODE_INDEX=str(index),
            AWS_BATCH_JOB_ID="4b2f" + (f"#{index}" if index else ""),
            **job,
        )
        for index in range(3)
    ]
    places = [place_of(node) for node in nodes]
    for index, (config, arguments) in enumerate(places):
        assert config["task"] == {"type": "worker", "index": index}
        assert config["cluster"] == places[0][0]["cluster"]
        assert len(config["cluster"]["worker"]) == 3
        assert arguments == ["--epochs", "3"]
    assert sorted(path.name for path in (tmp_path / "4b2f-2").iterdir()) == ["0", "1", "2"]


def test_a_node_that_does_not_come_is_named(tmp_path):
    job = {"AWS_BATCH_JOB_NUM_NODES": "2", "AWS_BATCH_JOB_ID": "j", "AWS_BATCH_JOB_NODE_INDEX": "0"}
    assert "node 1 of 2 has not written its address" in complaint(start("--meet", tmp_path, "--wait", "0.1", **job))
    assert "needs --meet" in complaint(start(**job))


def test_elsewhere_it_says_so():
    assert "no job of Vertex AI, SageMaker or AWS Batch" in complaint(start())


@pytest.mark.skipif("multiworker" not in BACKENDS, reason="no backend multiworker")
def test_what_it_starts_is_disttrain():
    spec = {"cluster": {"workerpool0": ["job-0-0:2222"]}, "task": {"type": "workerpool0", "index": 0}}
    process = start("--", "--version", CLUSTER_SPEC=json.dumps(spec), PYTHONPATH=str(ROOT))
    assert process.communicate(timeout=60)[0].startswith("disttrain ")
