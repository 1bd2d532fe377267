"""launch/discovery/: what each script prints for horovodrun, and what it says where it cannot."""

import http.server
import json
import os
import subprocess
import threading
import urllib.parse
from pathlib import Path

import pytest

DISCOVERY = Path(__file__).resolve().parents[2] / "launch" / "discovery"
SCRIPTS = sorted(path.name for path in DISCOVERY.iterdir() if path.is_file())


def run(script, *arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DISTTRAIN_", "KUBERNETES_"))}
    return subprocess.run(
        [str(DISCOVERY / script), *map(str, arguments)],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def complaint(told):
    """The one line that a script that fails says."""
    assert (told.returncode != 0, told.stdout, told.stderr.count("\n")) == (True, "", 1), told
    return told.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_how_to_call_it(script):
    told = run(script, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"usage: launch/discovery/{script}")


@pytest.fixture
def only_tools(tmp_path):
    """A PATH with what localhost.sh needs, to which a test adds its nvidia-smi."""
    for tool in ("bash", "env", "grep", "nproc"):
        (tmp_path / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    return tmp_path


def test_localhost_has_a_slot_for_each_core(only_tools):
    assert run("localhost.sh", PATH=str(only_tools)).stdout == f"localhost:{len(os.sched_getaffinity(0))}\n"


def test_localhost_has_a_slot_for_each_gpu(only_tools):
    smi = only_tools / "nvidia-smi"
    listed = ["GPU 0: NVIDIA H100 (UUID: GPU-1)", "  MIG 1g.10gb     Device  0: (UUID: MIG-1)", "GPU 1: NVIDIA H100"]
    smi.write_text("#!/bin/bash\n" + "".join(f"echo '{line}'\n" for line in listed))
    smi.chmod(0o755)
    assert run("localhost.sh", PATH=str(only_tools)).stdout == "localhost:2\n"


def test_localhost_has_the_slots_that_are_asked_for():
    assert run("localhost.sh", DISTTRAIN_SLOTS="7").stdout == "localhost:7\n"
    assert "whole number from 1, not 'two'" in complaint(run("localhost.sh", DISTTRAIN_SLOTS="two"))
    assert "whole number from 1, not '0'" in complaint(run("localhost.sh", DISTTRAIN_SLOTS="0"))
    assert "'--nonsense'" in complaint(run("localhost.sh", "--nonsense"))


def test_a_hosts_file_may_be_written_in_three_ways_with_comments(tmp_path):
    hosts = tmp_path / "my hosts.txt"
    hosts.write_text("# all\nnode-1:8\n  node2.example.org slots=4  # the old one\n\n10.0.0.3\nlast:1")
    expected = "node-1:8\nnode2.example.org:4\n10.0.0.3:1\nlast:1\n"
    assert run("hosts-file.sh", hosts).stdout == expected
    assert run("hosts-file.sh", DISTTRAIN_HOSTS_FILE=str(hosts)).stdout == expected


def test_a_hosts_file_may_be_empty(tmp_path):
    (tmp_path / "hosts").write_text("# none left\n")
    assert (run("hosts-file.sh", tmp_path / "hosts").returncode, run("hosts-file.sh", tmp_path / "hosts").stdout) == (
        0,
        "",
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a:0", "line 2: expected a number of slots from 1, found '0'"),
        ("a:", "line 2: expected a number of slots from 1, found ''"),
        ("a:two", "line 2: expected 'HOST:SLOTS'"),
        ("a 2", "line 2: expected 'HOST:SLOTS'"),
        ("$(reboot)", "line 2: expected 'HOST:SLOTS'"),
        ("first:2", "line 2: first is listed a second time"),
    ],
)
def test_a_faulty_line_of_a_hosts_file_is_named(tmp_path, line, reason):
    (tmp_path / "hosts").write_text(f"first:1\n{line}\n")
    told = run("hosts-file.sh", tmp_path / "hosts")
    assert told.returncode == 2
    assert f"{tmp_path}/hosts, {reason}" in told.stderr


def test_a_hosts_file_that_is_missing_is_named(tmp_path):
    assert f"{tmp_path}/none: there is no such file" in complaint(run("hosts-file.sh", tmp_path / "none"))
    assert "DISTTRAIN_HOSTS_FILE" in complaint(run("hosts-file.sh"))


def pod(name, *, ready="True", gpus=None, subdomain="train", ip="10.1.0.9", **metadata):
    """Returns a Pod as in the API's v1 PodList, with only the fields that are read."""
    resources = {"limits": {"cpu": "4", "nvidia.com/gpu": gpus}} if gpus else {}
    return {
        "metadata": {"name": name, "namespace": "team-a", "labels": {"app": "disttrain"}, **metadata},
        "spec": {
            "containers": [{"name": "worker", "image": "disttrain", "resources": resources}],
            **({"hostname": name, "subdomain": subdomain} if subdomain else {}),
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-02T15:04:05Z"},
            ],
            "podIP": ip,
        },
    }


PODS = [
    pod("worker-1", gpus="2"),
    pod("worker-0"),
    pod("worker-2", ready="False"),
    pod("worker-3", deletionTimestamp="2026-01-02T15:04:05Z", deletionGracePeriodSeconds=30),
    pod("bare", subdomain=None),
    {
        "metadata": {"name": "pending", "namespace": "team-a"},
        "spec": {"containers": []},
        "status": {"phase": "Pending"},
    },
]


class Api(http.server.BaseHTTPRequestHandler):
    """The one request of the Kubernetes API that the script makes."""

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        if self.headers["Authorization"] != "Bearer let-me-in":
            self.answer(401, {"kind": "Status", "status": "Failure", "message": "Unauthorized", "code": 401})
        elif url.path != "/api/v1/namespaces/team-a/pods":
            message = 'pods is forbidden: User "system:serviceaccount:team-a:default" cannot list resource "pods"'
            self.answer(403, {"kind": "Status", "status": "Failure", "message": message, "code": 403})
        else:
            wanted = urllib.parse.parse_qs(url.query)["labelSelector"] == ["app=disttrain,role in (worker)"]
            self.answer(200, {"kind": "PodList", "apiVersion": "v1", "items": PODS if wanted else []})

    def answer(self, code, content):
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def api():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def account(tmp_path):
    (tmp_path / "token").write_text("let-me-in\n")
    (tmp_path / "namespace").write_text("team-a")
    return tmp_path


SELECTOR = "app=disttrain,role in (worker)"


def test_kubernetes_lists_the_pods_that_are_ready_by_name_with_their_gpus(api, account):
    told = run("kubernetes.py", "--selector", SELECTOR, "--server", api, "--account", account)
    assert told.stderr == ""
    assert told.stdout == "10.1.0.9:1\nworker-0.train.team-a.svc:1\nworker-1.train.team-a.svc:2\n"


def test_kubernetes_takes_slots_and_selector_from_the_environment(api, account):
    told = run("kubernetes.py", "--server", api, "--account", account, DISTTRAIN_SELECTOR=SELECTOR, DISTTRAIN_SLOTS="3")
    assert told.stdout.splitlines()[1] == "worker-0.train.team-a.svc:3"


def test_kubernetes_says_what_the_api_refuses(api, account):
    command = ["kubernetes.py", "--selector", SELECTOR, "--server", api, "--account", account]
    assert 'cannot list resource "pods"' in complaint(run(*command, "--namespace", "other"))
    (account / "token").write_text("old")
    assert "401 Unauthorized" in complaint(run(*command))
    (account / "token").unlink()
    assert "token" in complaint(run(*command))


def test_kubernetes_says_where_no_api_answers(account):
    command = ["kubernetes.py", "--selector", SELECTOR, "--server", "http://127.0.0.1:9", "--account", account]
    assert "http://127.0.0.1:9/api/v1/namespaces/team-a/pods" in complaint(run(*command))


def test_kubernetes_reads_what_the_mpi_operator_mounts(tmp_path):
    """Both files as mpi-operator v2beta1 writes them for an MPIJob with slotsPerWorker: 2."""
    hosts = [f"job-worker-{number}.job.team-a.svc" for number in range(2)]
    (tmp_path / "discover_hosts.sh").write_text("#!/bin/sh\n" + "".join(f"echo {host}\n" for host in hosts))
    told = run("kubernetes.py", "--list", tmp_path / "discover_hosts.sh")
    assert told.stdout == "".join(f"{host}:1\n" for host in hosts)
    (tmp_path / "hostfile").write_text("".join(f"{host} slots=2\n" for host in hosts))
    told = run("kubernetes.py", "--list", tmp_path / "discover_hosts.sh")
    assert told.stdout == "".join(f"{host}:2\n" for host in hosts)
    assert "--selector" in complaint(run("kubernetes.py", "--list", tmp_path / "none"))


def test_every_script_can_be_run():
    assert [script for script in SCRIPTS if not os.access(DISCOVERY / script, os.X_OK)] == []
