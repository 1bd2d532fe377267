"""k8s/: what the pods of each overlay run, on this machine."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from command import ROOT, history, regression_rows, write_csv
from manifests import copy_of_the_repository, needs_kubectl, render
from pods import Pod, sidecar
from test_launchers import HAS_MPI

from disttrain.config import TrainConfig

pytestmark = needs_kubectl
BACKENDS = TrainConfig.model_fields["backend"].annotation.__args__
needs_mpi = pytest.mark.skipif(not HAS_MPI, reason="Horovod was built without MPI, or there is no mpirun")
ROWS = 2000


def needs_backend(name):
    return pytest.mark.skipif(name not in BACKENDS, reason=f"no backend {name}")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return copy_of_the_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A volume with a CSV."""
    place = tmp_path_factory.mktemp("data")
    write_csv(place / "small.csv", *regression_rows(ROWS))
    return place


@pytest.fixture
def pods(copy, data, tmp_path):
    """Makes the pods of an overlay with the component pvc, as many as are asked for, of one role."""

    def make(overlay, role, count, **moved):
        arguments = ["--data", "/data/small.csv", "--epochs", "2", "--num-shards", "2", "--batch-size", "100"]
        rendered = render(copy, overlay, "pvc", arguments=arguments)
        places = {"/data": str(data)} | {f"/{name.replace('_', '/')}": str(path) for name, path in moved.items()}
        return [Pod(rendered, role, tmp_path / "results", tmp_path / f"{role}-{i}", places) for i in range(count)]

    return make


def run(pod, **of_the_machine):
    return subprocess.Popen(
        pod.command(),
        env=pod.environment(**of_the_machine),
        cwd=pod.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def ended(*processes):
    """The output of each, which must all end with 0."""
    with ExitStack() as stack:
        for process in processes:
            stack.callback(lambda process=process: process.poll() is None and process.kill())
        texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(texts)
    return texts


def check_trained(results):
    assert (results / "run/model.keras").stat().st_size > 0
    assert history(results / "run")["epoch"] == [1, 2]


def catches(process, number):
    """Whether a process has set a handler for a signal, as proc(5) tells."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return probe.getsockname()[1]


# -- what the pods run


@pytest.mark.slow
@needs_backend("mirrored")
def test_the_pod_of_a_single_node_trains(pods, tmp_path):
    [pod] = pods("single-node", "worker", 1)
    assert pod.command()[:3] == ["python", "-m", "disttrain"]
    ended(run(pod))
    check_trained(tmp_path / "results")


@pytest.mark.slow
@needs_backend("multiworker")
def test_two_pods_of_an_indexed_job_train_together(pods, tmp_path):
    both = pods("indexed", "worker", 2)
    hosts = {f"disttrain-1-{index}.disttrain-1:12345": f"127.0.0.1:{free_port()}" for index in range(2)}
    python = tmp_path / "bin/python"  # the cluster's DNS: it puts addresses for names
    python.parent.mkdir()
    lines = [f"TF_CONFIG=${{TF_CONFIG//{name}/{address}}}" for name, address in hosts.items()]
    python.write_text("\n".join(["#!/bin/bash", *lines, f'exec {sys.executable} "$@"', ""]))
    python.chmod(0o755)
    workers = []
    for index, pod in enumerate(both):
        identity = {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"disttrain-1-{index}"}
        workers.append(run(pod, **identity, PATH=f"{python.parent}:{pod.environment()['PATH']}"))
    texts = ended(*workers)
    assert "2 workers" in texts[0]
    check_trained(tmp_path / "results")


def test_each_pod_of_an_indexed_job_has_its_place_in_the_cluster(pods, tmp_path):
    for index, pod in enumerate(pods("indexed", "worker", 2)):
        fake = tmp_path / f"bin-{index}"
        fake.mkdir()
        (fake / "python").write_text('#!/bin/bash\nprintf "%s\\n" "$TF_CONFIG" "$*"\n')
        (fake / "python").chmod(0o755)
        identity = {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"disttrain-1-{index}"}
        [text] = ended(run(pod, **identity, PATH=f"{fake}:{pod.environment()['PATH']}"))
        cluster, arguments = text.splitlines()
        workers = ["disttrain-1-0.disttrain-1:12345", "disttrain-1-1.disttrain-1:12345"]
        assert json.loads(cluster) == {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        assert arguments.startswith("-m disttrain --backend multiworker --data")


@pytest.fixture
def sshd():
    """A port that answers, as that of a worker's sshd does, which on one machine nobody needs."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield {"DISTTRAIN_SSH_PORT": str(server.getsockname()[1]), "DISTTRAIN_NETWORK_INTERFACE": "lo"}


@pytest.fixture
def mpi_config(tmp_path):
    """What the operator mounts at /etc/mpi: its newConfigMap and updateDiscoverHostsInConfigMap, for one pod."""
    place = tmp_path / "mpi"
    place.mkdir()
    (place / "hostfile").write_text("localhost slots=2\n")
    (place / "discover_hosts.sh").write_text("#!/bin/sh\necho localhost\n")
    return place


# The environment that the operator gives to the launcher: its ompiEnvVars.
OPERATORS = {
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
    "OMPI_MCA_orte_set_default_slots": "2",
    "NVIDIA_VISIBLE_DEVICES": "",
}


def launcher(pods, overlay, mpi_config):
    """The launcher, whose workers on this machine find the worker pod's volumes where it has them."""
    [worker] = pods(overlay, "worker", 1)
    [pod] = pods(overlay, "launcher", 1, etc_mpi=mpi_config)
    pod.places |= {path: place for path, place in worker.places.items() if path not in pod.places}
    return pod


@pytest.mark.slow
@needs_mpi
def test_the_launcher_of_an_mpijob_trains(pods, mpi_config, sshd, tmp_path):
    pod = launcher(pods, "mpijob", mpi_config)
    hosts = {"OMPI_MCA_orte_default_hostfile": str(mpi_config / "hostfile")}
    [text] = ended(run(pod, **sshd, **OPERATORS, **hosts))
    assert "horovod backend, 2 workers" in text
    check_trained(tmp_path / "results")


@pytest.mark.slow
def test_the_launcher_of_an_elastic_mpijob_trains(pods, mpi_config, sshd, tmp_path):
    pod = launcher(pods, "elastic", mpi_config)
    found = f"{pod.environment()['DISTTRAIN_DISCOVERY']} --list {mpi_config}/discover_hosts.sh"
    [text] = ended(run(pod, **(sshd | OPERATORS), DISTTRAIN_DISCOVERY=found))
    assert "2 workers" in text
    check_trained(tmp_path / "results")


@needs_mpi
@pytest.mark.parametrize(("codes", "expected", "rounds"), [("75 75 0", 0, 3), ("75 3", 3, 2), ("6", 6, 1)])
def test_a_launcher_goes_on_after_a_checkpoint_and_after_nothing_else(
    pods, mpi_config, sshd, tmp_path, codes, expected, rounds
):
    """Its mpirun ends with one code after the other."""
    pod = launcher(pods, "mpijob", mpi_config)
    (tmp_path / "codes").write_text(codes.replace(" ", "\n") + "\n")
    fake = tmp_path / "bin/mpirun"
    fake.parent.mkdir()
    version = 'if [ "$*" = --version ]; then echo "mpirun (Open MPI) 4.1.4"; exit; fi'
    do = f'read -r code <{tmp_path}/codes; sed -i 1d {tmp_path}/codes; echo "round $code"; exit "$code"'
    fake.write_text(f"#!/bin/bash\n{version}\n{do}\n")
    fake.chmod(0o755)
    process = run(pod, **sshd, PATH=f"{fake.parent}:{pod.environment()['PATH']}")
    text, _ = process.communicate(timeout=60)
    assert (process.returncode, text.count("round")) == (expected, rounds), text


@needs_mpi
def test_a_launcher_that_is_to_go_hands_the_signal_on_and_does_not_begin_again(pods, mpi_config, sshd, tmp_path):
    pod = launcher(pods, "mpijob", mpi_config)
    fake = tmp_path / "bin/mpirun"
    fake.parent.mkdir()
    version = 'if [ "$*" = --version ]; then echo "mpirun (Open MPI) 4.1.4"; exit; fi'
    fake.write_text(f'#!/bin/bash\n{version}\ntrap "exit 75" TERM\necho round\nsleep 60 >/dev/null 2>&1 & wait\n')
    fake.chmod(0o755)
    process = run(pod, **sshd, PATH=f"{fake.parent}:{pod.environment()['PATH']}")
    assert process.stdout.readline() == "round\n"
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert (process.returncode, text) == (75, "")


def test_a_launcher_that_waits_for_its_workers_can_be_ended(pods, mpi_config, sshd):
    pod = launcher(pods, "mpijob", mpi_config)
    process = run(pod, **sshd | {"DISTTRAIN_SSH_PORT": str(free_port())})
    while not catches(process, signal.SIGTERM):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_before_its_end_a_worker_pod_lets_the_training_in_it_end(pods, tmp_path):
    """The preStop hook, which looks through the processes of its pod, here of a copy of /proc with two of them."""
    [pod] = pods("mpijob", "worker", 1)
    hook = [pod.here(word) for word in pod.container["lifecycle"]["preStop"]["exec"]["command"]]
    begun = tmp_path / "begun"
    lines = ["import pathlib, signal, sys, time", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))"]
    lines += [f"pathlib.Path('{begun}').touch()", "time.sleep(60)", ""]
    (tmp_path / "disttrain.py").write_text("\n".join(lines))
    training = subprocess.Popen([sys.executable, "-m", "disttrain", "--data", "x"], cwd=tmp_path)
    other = subprocess.Popen(["sleep", "60"])
    try:
        while not begun.exists():
            assert training.poll() is None
            time.sleep(0.05)
        processes = tmp_path / "proc"
        processes.mkdir()
        for process in (training, other):
            (processes / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        script = tmp_path / "stop.sh"
        script.write_text((ROOT / "k8s/overlays/mpijob/stop.sh").read_text().replace("/proc/", f"{processes}/"))
        assert hook[0] == "bash"
        stopping = subprocess.Popen(["bash", script])
        assert training.wait(30) == 75
        assert stopping.wait(30) == 0
        assert other.poll() is None
    finally:
        for process in (training, other):
            process.kill()
            process.wait()


@pytest.mark.slow
@needs_backend("mirrored")
def test_results_and_checkpoints_go_to_the_object_store(copy, data, s3, tmp_path):
    url = s3.put("small.csv", (data / "small.csv").read_bytes())
    arguments = ["--data", url, "--epochs", "2"]
    rendered = render(copy, "single-node", "object-store", arguments=arguments, store=s3.url("runs/1"))
    pod = Pod(rendered, "worker", tmp_path / "none", tmp_path / "pod", {})
    credentials = "[default]\naws_access_key_id = key\naws_secret_access_key = secret\nregion = us-east-1\n"
    (tmp_path / "pod/credentials/aws").write_text(credentials)  # the Secret's one file
    server = {"AWS_ENDPOINT_URL": s3.environ["AWS_ENDPOINT_URL"]}
    publisher = run(sidecar(pod, "publish"), **server)
    ended(run(pod, **server))
    publisher.send_signal(signal.SIGTERM)  # as the kubelet does then
    ended(publisher)
    keys = {item["Key"] for item in s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="runs/1/")["Contents"]}
    assert {f"runs/1/{name}" for name in ("model.keras", "history.csv", "config.json", "metrics.jsonl")} <= keys
    assert [key for key in keys if key.startswith("runs/1/checkpoints/epoch-")]
    assert not (tmp_path / "none").exists()
