"""The image of Dockerfile: really built, and run as careful clusters run it: without root, capabilities, or writing."""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import ROOT, history
from containers import BASE, Engine, built_wheel, import_base, lacking

pytestmark = [pytest.mark.timeout(1800)]
IMAGE = "localhost/disttrain:test"
LAUNCH = "/opt/disttrain/launch"
HEALTH = ("/opt/disttrain/bin/python", "-I", "-S", f"{LAUNCH}/container/health.py")
RESTRICTED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
EPOCHS = 60


@dataclass
class Volumes:
    """Folders of this machine that containers see as /data, /runs and the user's .ssh."""

    root: Path

    @property
    def options(self) -> list[str]:
        places = {"data": "/data:ro", "runs": "/runs", "ssh": "/home/disttrain/.ssh:ro"}
        return [f"--volume={self.root / name}:{place}" for name, place in places.items()]

    @property
    def runs(self) -> Path:
        return self.root / "runs"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    if reason := lacking():
        pytest.skip(reason)
    engine = Engine(tmp_path_factory.mktemp("engine"))
    try:
        import_base(engine)
        wheels = tmp_path_factory.mktemp("wheels")
        for package in ("horovod", "disttrain_collective"):
            shutil.copy(built_wheel(package), wheels)
        engine.run(
            *("buildah", "bud", "--isolation=chroot", "--format=docker", "--build-context", f"wheels={wheels}"),
            *("--build-arg", f"BASE={BASE}", "--build-arg", "KERNELS=x86-64-v3", "--build-arg", "VERSION=1.2.3"),
            *("--tag", IMAGE, ROOT),
            timeout_s=1500,
        )
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def volumes(engine, tmp_path_factory):
    """The data, written by the image itself, and a key pair for ssh."""
    volumes = Volumes(tmp_path_factory.mktemp("volumes"))
    for name in ("data", "runs", "ssh"):
        (volumes.root / name).mkdir()
        (volumes.root / name).chmod(0o777)
    made = engine.podman(
        *("run", "--rm", *RESTRICTED, "--network=none", f"--volume={volumes.root}/data:/data"),
        *("--env=NUMBA_DEBUG_CACHE=1", IMAGE, "make-data", "/data/rows.csv", "--rows=400000", "--features=2"),
    )
    assert_nothing_compiled(made.stdout)
    keys = 'ssh-keygen -q -t ed25519 -N "" -f /keys/id_ed25519 && cp /keys/id_ed25519.pub /keys/authorized_keys'
    inside = ("--entrypoint=bash", IMAGE, "-c", keys)
    engine.podman("run", "--rm", "--network=none", f"--volume={volumes.root}/ssh:/keys", *inside)
    return volumes


def assert_nothing_compiled(output: str) -> None:
    """Asserts, from the output of numba with NUMBA_DEBUG_CACHE=1, that nothing was compiled."""
    told = [line for line in output.splitlines() if "[cache]" in line]
    assert told
    assert not [line for line in told if "loaded from '/opt/disttrain/" not in line]


def run_once(engine, volumes, *arguments, options=()) -> subprocess.CompletedProcess[str]:
    restricted = ("--rm", *RESTRICTED, "--network=none", *volumes.options)
    return engine.podman("run", *restricted, *options, IMAGE, "--data=/data/rows.csv", *arguments)


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_the_image_tells_what_it_is(engine):
    (image,) = json.loads(engine.podman("inspect", IMAGE).stdout)
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in image["Labels"].items()}
    assert labels["title"] == "disttrain"
    assert (labels["version"], labels["base.name"]) == ("1.2.3", BASE)
    assert image["Config"]["Entrypoint"] == ["python", "-m", "disttrain"]
    assert image["User"] == "1000:1000"
    assert tuple(image["Healthcheck"]["Test"]) == ("CMD", *HEALTH)
    assert image["Size"] < 2.2e9


LOOK = r"""
id -un; id -u; id -g
for tool in gcc g++ cc c++ cc1 clang as ld make cmake nvcc git pip python3-config; do command -v "$tool"; done
find / -xdev \( -name .git -o -name test_container.py -o -name constraints.txt -o -name Dockerfile -o -name '*.whl' \
  -o -name 'ssh_host_*' -o -path '/build*' -o -path '/root/.cache/*' -o -path '/wheels/*' \) -print
find /opt/disttrain -not -type l \( -not -user root -o -perm /022 \) -print
"""


@pytest.mark.slow
def test_the_image_holds_what_runs_and_nothing_that_builds(engine):
    done = engine.podman("run", "--rm", *RESTRICTED, "--entrypoint=bash", IMAGE, "-c", f"{LOOK}true")
    assert done.stdout.split() == ["disttrain", "1000", "1000"]


@pytest.mark.slow
@pytest.mark.parametrize("user", ["1000:1000", "1234567890:0"])
def test_it_trains_read_only_as_any_user_and_compiles_no_kernel(engine, volumes, user):
    output = f"/runs/user-{user.partition(':')[0]}"
    options = (f"--user={user}", "--env=NUMBA_DEBUG_CACHE=1")
    words = (f"--output={output}", "--epochs=2", "--batch-size=5000", "--shuffle=global")
    done = run_once(engine, volumes, *words, options=options)
    assert "Done:" in done.stdout
    assert_nothing_compiled(done.stdout)
    assert (volumes.root / output[1:] / "model.keras").exists()


@pytest.mark.slow
def test_for_another_processor_kernels_are_compiled_outside_the_image(engine):
    options = (*RESTRICTED, "--network=none", "--env=NUMBA_CPU_NAME=x86-64", "--env=NUMBA_DEBUG_CACHE=1")
    done = engine.podman("run", "--rm", *options, IMAGE, "make-data", "/tmp/rows.csv", "--rows=10")
    assert "data saved to '/tmp/" in done.stdout


WORKERS = {"worker": ["a:1", "b:1"]}
CHIEF = {"chief": ["a:1"], "worker": ["b:1"]}


def cluster(hosts, kind, index):
    return {"TF_CONFIG": json.dumps({"cluster": hosts, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    ("settings", "is_looked_at"),
    [
        ({}, True),
        ({"HOROVOD_RANK": "0"}, True),
        ({"HOROVOD_RANK": "1"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1"}, False),
        ({"PMI_RANK": "1"}, False),
        (cluster(WORKERS, "worker", 0), True),
        (cluster(WORKERS, "worker", 1), False),
        (cluster(CHIEF, "chief", 0), True),
        (cluster(CHIEF, "worker", 0), False),
        ({"TF_CONFIG": "{}"}, True),
    ],
)
def test_only_the_worker_that_writes_must_show_progress(tmp_path, settings, is_looked_at):
    spec = importlib.util.spec_from_file_location("health", ROOT / "launch/container/health.py")
    health = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(health)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["cat"], cwd=tmp_path, env=settings, **pipes) as worker:
        worker.stdin.write(b"\n")
        worker.stdin.flush()
        worker.stdout.readline()  # it runs, and its environment can be read
        age_s = health.since_progress_s(Path(f"/proc/{worker.pid}"))
        worker.kill()
    assert (age_s is not None) == is_looked_at


@pytest.mark.slow
def test_a_stopped_container_tells_its_health_and_goes_on_where_it_was(engine, volumes):
    command = ("--data=/data/rows.csv", "--output=/runs/stopped", f"--epochs={EPOCHS}", "--batch-size=50")
    options = ("--name=stopped", *RESTRICTED, "--network=none", "--tmpfs=/cache", *volumes.options)
    engine.podman("run", "--detach", *options, IMAGE, *command)
    wait_for(lambda: "epoch 3/" in engine.podman("logs", "stopped").stdout)
    assert engine.podman("healthcheck", "run", "stopped").returncode == 0
    impatient = engine.podman("exec", "--env=HEALTH_AGE_S=0.000001", "stopped", *HEALTH, check=False)
    assert (impatient.returncode, impatient.stdout[:23]) == (1, "no sign of training for")
    engine.podman("kill", "--signal=STOP", "stopped")
    wait_for(lambda: engine.podman("healthcheck", "run", "stopped", check=False).returncode == 1)
    engine.podman("kill", "--signal=CONT", "stopped")

    engine.podman("stop", "--time=120", "stopped")
    told = engine.podman("logs", "stopped")
    assert engine.podman("wait", "stopped").stdout.strip() == "75", told.stdout + told.stderr
    assert list((volumes.runs / "stopped/checkpoints").glob("*.ckpt"))

    again = engine.podman("start", "--attach", "stopped")  # the same command
    assert "Going on from the checkpoint of" in again.stdout
    assert history(volumes.runs / "stopped")["epoch"] == list(range(1, EPOCHS + 1))
    assert (volumes.runs / "stopped/model.keras").exists()


def wait_for(condition, timeout_s=180):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def network(engine):
    engine.podman("network", "create", "disttrain-test")
    return "disttrain-test"


@pytest.fixture(scope="module")
def second(engine, volumes, network):
    """A container that waits for launchers."""
    options = ("--name=second", "--hostname=second", "--network", network, *RESTRICTED, *volumes.options)
    serving = (f"--entrypoint={LAUNCH}/container/sshd.sh", '--env=AWS_REGION=of "this" container\\', IMAGE)
    engine.podman("run", "--detach", *options, *serving)
    wait_for(lambda: engine.podman("healthcheck", "run", "second", check=False).returncode == 0)
    return "second"


def run_first(engine, volumes, network, *command):
    """Runs a command in a container beside the second one, whose name it is told: not every host's podman has a DNS."""
    address = engine.podman("inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "second")
    known = f"--add-host=second:{address.stdout.strip()}"
    options = ("--rm", "--name=first", "--hostname=first", "--network", network, known, *RESTRICTED, *volumes.options)
    return engine.podman("run", *options, f"--entrypoint={command[0]}", IMAGE, *command[1:])


@pytest.mark.slow
def test_what_ssh_starts_has_the_containers_environment(engine, volumes, network, second):
    done = run_first(
        engine, volumes, network, "ssh", second, "echo $DISTTRAIN_CACHE_DIR; printenv AWS_REGION; python -V"
    )
    assert done.stdout.splitlines()[:2] == ["/cache", 'of "this" container\\']
    assert done.stdout.splitlines()[2].startswith("Python 3.")


@pytest.mark.slow
def test_two_containers_train_together(engine, volumes, network, second):
    has_mpi = b"libmpi" in horovod_library()
    launcher = random.choice(["horovod.sh", "mpi.sh"]) if has_mpi else "horovod.sh"  # drawn anew each time
    print(launcher)
    done = run_first(
        *(engine, volumes, network, f"{LAUNCH}/{launcher}", "-H", f"first:1,{second}:1", "--network-interface", "eth0"),
        *("--", "--data=/data/rows.csv", f"--output=/runs/{launcher}", "--epochs=2", "--batch-size=5000"),
    )
    assert "as the workers are on several machines), 2 workers, 2 x 5,000 rows a step, 40 steps an epoch" in done.stdout
    assert (volumes.runs / launcher / "model.keras").exists()
    assert history(volumes.runs / launcher)["rows"] == [400_000, 400_000]


def horovod_library() -> bytes:
    places = Path(sys.executable).parent.parent.glob("lib/python*/site-packages/horovod/tensorflow/mpi_lib*.so")
    return b"".join(path.read_bytes() for path in places)
