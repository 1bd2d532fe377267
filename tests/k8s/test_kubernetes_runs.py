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

import psutil
import pytest
from command import ROOT, history, regression_rows, write_csv
from launching import needs_mpi
from manifests import copy_of_the_repository, needs_kubectl, render
from namespaces import Network, why_not
from pods import Pod, sidecar

from disttrain.config import TrainConfig

pytestmark = needs_kubectl
BACKENDS = TrainConfig.model_fields["backend"].annotation.__args__
ROWS = 2000
EPOCHS = 20  # of which many are left when a pod is lost in the second one


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

    def make(overlay, role, count, epochs=2, **moved):
        arguments = ["--data", "/data/small.csv", "--epochs", str(epochs), "--num-shards", "2", "--batch-size", "100"]
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
    """Waits for processes that must all end with 0; returns the output of each."""
    with ExitStack() as stack:
        for process in processes:
            stack.callback(lambda process=process: process.poll() is None and process.kill())
        texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(texts)
    return texts


def check_trained(results, epochs=2):
    assert (results / "run/model.keras").stat().st_size > 0
    assert history(results / "run")["epoch"] == list(range(1, epochs + 1))


def stand_in(directory, name, *lines):
    """Writes a stand-in for a program, a few lines of bash, to a folder of a PATH."""
    path = directory / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)


def path_of(directory, pod):
    """The PATH of a pod, with a folder's stand-ins before it."""
    return f"{directory / 'bin'}:{pod.environment()['PATH']}"


def lose(pod):
    """Kills the processes of a pod, as when its node is gone."""
    if pod.poll() is None:
        for process in [*psutil.Process(pod.pid).children(recursive=True), pod]:
            process.kill()
    pod.communicate()


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


@pytest.fixture
def indexed(tmp_path):
    """Starts pods of an Indexed Job, with addresses for the names that the cluster's DNS would know."""
    hosts = {f"disttrain-1-{index}.disttrain-1:12345": f"127.0.0.1:{free_port()}" for index in range(2)}
    lines = [f"TF_CONFIG=${{TF_CONFIG//{name}/{address}}}" for name, address in hosts.items()]
    stand_in(tmp_path, "python", *lines, f'exec {sys.executable} "$@"')

    def start(pod, index, **of_the_machine):
        identity = {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"disttrain-1-{index}"}
        return run(pod, **identity, PATH=path_of(tmp_path, pod), **of_the_machine)

    return start


@pytest.mark.slow
@needs_backend("multiworker")
def test_two_pods_of_an_indexed_job_train_together_and_wait_in_their_places_for_one_that_is_lost(
    pods, indexed, tmp_path
):
    both = pods("indexed", "worker", 2, epochs=EPOCHS)
    stand_in(tmp_path, "sleep", "exit")
    leader, lost = (indexed(pod, index) for index, pod in enumerate(both))
    begun = "".join(iter_until(leader.stdout, "epoch 2/"))
    lose(lost)
    text, _ = ended(leader, indexed(both[1], 1))
    assert "2 workers" in begun
    assert re.search("again: it ended with [67].*2 workers.*Going on from the checkpoint", text, re.DOTALL), text
    check_trained(tmp_path / "results", EPOCHS)


def iter_until(stream, words):
    """The lines of a stream up to the first one with these words."""
    for line in stream:
        yield line
        if words in line:
            return


def test_each_pod_of_an_indexed_job_has_its_place_in_the_cluster(pods, tmp_path):
    stand_in(tmp_path, "python", 'printf "%s\\n" "$TF_CONFIG" "$*"')
    for index, pod in enumerate(pods("indexed", "worker", 2)):
        identity = {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"disttrain-1-{index}"}
        [text] = ended(run(pod, **identity, PATH=path_of(tmp_path, pod)))
        cluster, arguments = text.splitlines()
        workers = ["disttrain-1-0.disttrain-1:12345", "disttrain-1-1.disttrain-1:12345"]
        assert json.loads(cluster) == {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        assert arguments.startswith("-m disttrain --backend multiworker --data")


def mpi_config(place, host):
    """Writes what the operator mounts at /etc/mpi for one pod: its newConfigMap and updateDiscoverHostsInConfigMap."""
    place.mkdir()
    (place / "hostfile").write_text(f"{host} slots=2\n")
    (place / "discover_hosts.sh").write_text(f"#!/bin/sh\necho {host}\n")
    return place


# The environment that the operator gives to the launcher: its ompiEnvVars.
OPERATORS = {
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
    "OMPI_MCA_orte_set_default_slots": "2",
    "NVIDIA_VISIBLE_DEVICES": "",
}
SSH_PORT = 2223  # 2222 is that of the hosts' own sshd


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A host for the launcher, which has the image's settings for ssh, and one for a worker pod."""
    if reason := why_not():
        pytest.skip(reason)
    network = Network(tmp_path_factory.mktemp("network") / "network")
    settings = (ROOT / "launch/container/runtime.sh").read_text().split("<<'END'\n")[1].split("END\n")[0]
    Path("/etc/netns", network.a.netns, "ssh/ssh_config").write_text(settings)
    yield network
    network.close()


@pytest.fixture
def mpijob(pods, network, tmp_path):
    """Starts the pods of an MPIJob as its operator does; the worker's sshd takes the key of these hosts."""
    ssh = {"DISTTRAIN_SSH_PORT": str(SSH_PORT), "SSH_PORT": str(SSH_PORT), "TMPDIR": str(tmp_path)}
    stack = ExitStack()

    def start_worker(overlay):
        [pod] = pods(overlay, "worker", 1)
        words = [*pod.command(), "-o", f"AuthorizedKeysFile={network.place}/key.pub"]
        log = tmp_path / "worker.log"
        worker = network.b.popen(*words, directory=pod.home, log=log, environ=pod.environment(**ssh))
        stack.callback(lose, worker)
        return pod, worker

    def start_launcher(overlay, worker, **of_the_machine):
        config = mpi_config(tmp_path / "mpi", "b")
        [pod] = pods(overlay, "launcher", 1, etc_mpi=config)
        # mpirun and horovodrun hand its environment on, whose paths are the worker's.
        pod.places |= {path: place for path, place in worker.places.items() if path not in pod.places}
        hosts = {"OMPI_MCA_orte_default_hostfile": str(config / "hostfile")}
        hosts["DISTTRAIN_SSH_KEY"] = str(network.place / "key")
        if discovery := pod.environment().get("DISTTRAIN_DISCOVERY"):
            hosts["DISTTRAIN_DISCOVERY"] = f"{discovery} --list {config}/discover_hosts.sh"
        environ = pod.environment(**ssh, **OPERATORS, **hosts, **of_the_machine)
        log = tmp_path / "launcher.log"
        launcher = network.a.popen(*pod.command(), directory=pod.home, log=log, environ=environ)
        stack.callback(lose, launcher)
        return launcher

    with stack:
        yield start_launcher, start_worker


@pytest.mark.slow
@pytest.mark.parametrize("overlay", [pytest.param("mpijob", marks=needs_mpi), "elastic"])
def test_the_launcher_of_an_mpijob_trains_in_a_worker_pod(mpijob, overlay, tmp_path):
    start_launcher, start_worker = mpijob
    pod, _ = start_worker(overlay)
    launcher = start_launcher(overlay, pod)
    code = launcher.wait(300)
    said = (tmp_path / "launcher.log").read_text()
    assert code == 0, said + (tmp_path / "worker.log").read_text()
    assert re.search(r"horovod backend \(.*\), 2 workers", said), said
    check_trained(tmp_path / "results")


@pytest.fixture
def sshd():
    """A port that answers as a worker's sshd would; no worker is started."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield {"DISTTRAIN_SSH_PORT": str(server.getsockname()[1]), "DISTTRAIN_NETWORK_INTERFACE": "lo"}


@pytest.fixture
def launcher(pods, tmp_path):
    """The launcher of an MPIJob whose one host is this machine, with a stand-in for mpirun."""

    def make(does="exit"):
        version = 'if [ "$*" = --version ]; then echo "mpirun (Open MPI) 4.1.4"; exit; fi'
        stand_in(tmp_path, "mpirun", version, does)
        [pod] = pods("mpijob", "launcher", 1, etc_mpi=mpi_config(tmp_path / "mpi", "localhost"))
        return pod

    return make


@needs_mpi
def test_a_launcher_goes_on_when_a_worker_pod_was_lost(launcher, sshd, tmp_path):
    codes = tmp_path / "codes"
    codes.write_text("75\n7\n3\n")
    stand_in(tmp_path, "sleep", "exit")
    pod = launcher(f'read -r code <{codes}; sed -i 1d {codes}; echo "round $code"; exit "$code"')
    process = run(pod, **sshd, PATH=path_of(tmp_path, pod))
    text, _ = process.communicate(timeout=60)
    assert (process.returncode, text.count("round")) == (3, 3), text


@needs_mpi
def test_a_launcher_that_is_to_go_hands_the_signal_on_and_does_not_begin_again(launcher, sshd, tmp_path):
    pod = launcher('trap "exit 75" TERM; echo round; sleep 60 >/dev/null 2>&1 & wait')
    process = run(pod, **sshd, PATH=path_of(tmp_path, pod))
    assert process.stdout.readline() == "round\n"
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert (process.returncode, text) == (75, "")


def test_a_launcher_says_for_whom_it_waits_and_can_be_ended(launcher, sshd):
    port = str(free_port())
    process = run(launcher(), **sshd | {"DISTTRAIN_SSH_PORT": port})
    assert process.stdout.readline() == f"launcher: waiting for sshd on localhost, port {port}\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_launcher_whose_workers_do_not_come_tells_what_to_do_and_ends(launcher, sshd, tmp_path):
    stand_in(tmp_path, "sleep", "exit")
    pod = launcher()
    process = run(pod, **sshd | {"DISTTRAIN_SSH_PORT": str(free_port()), "WAIT_S": "0"}, PATH=path_of(tmp_path, pod))
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "localhost did not answer in 0 s; if its pod has failed, delete it" in text


def test_before_its_end_a_worker_pod_lets_the_training_in_it_end(pods, tmp_path):
    """The preStop hook searches the processes of its pod, here in a copy of /proc with two of them."""
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
@needs_backend("multiworker")
def test_results_and_checkpoints_go_to_the_object_store(copy, data, s3, indexed, tmp_path):
    url = s3.put("small.csv", (data / "small.csv").read_bytes())
    arguments = ["--data", url, "--epochs", "2"]
    rendered = render(copy, "indexed", "object-store", arguments=arguments, store=s3.url("runs/1"))
    both = [Pod(rendered, "worker", tmp_path / "none", tmp_path / f"pod-{index}", {}) for index in range(2)]
    credentials = "[default]\naws_access_key_id = key\naws_secret_access_key = secret\nregion = us-east-1\n"
    for pod in both:
        (pod.home / "credentials/aws").write_text(credentials)  # the Secret's one file
    server = {"AWS_ENDPOINT_URL": s3.environ["AWS_ENDPOINT_URL"]}
    publishers = [run(sidecar(pod, "publish"), **server) for pod in both]
    ended(*(indexed(pod, index, **server) for index, pod in enumerate(both)))
    for publisher in publishers:
        publisher.send_signal(signal.SIGTERM)  # as the kubelet does then
    ended(*publishers)
    keys = {item["Key"] for item in s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="runs/1/")["Contents"]}
    assert {f"runs/1/{name}" for name in ("model.keras", "history.csv", "config.json", "metrics.jsonl")} <= keys
    assert [key for key in keys if key.startswith("runs/1/checkpoints/epoch-")]
    assert not (tmp_path / "none").exists()
