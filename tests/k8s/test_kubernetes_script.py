"""launch/k8s.sh: what it writes from the environment, and how it calls kubectl, which is a stand-in here."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from command import ROOT
from manifests import KUBECTL, OVERLAYS, copy_of_the_repository, k8s_sh, needs_kubectl, render

pytestmark = needs_kubectl
# A stand-in for what runs in the pod that holds the results.
IN_POD = "[[ $* != *' tar '* ]] || tar -C {results} -cf - ."


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return copy_of_the_repository(tmp_path_factory.mktemp("repository"))


# -- what it writes


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("disttrain", "disttrain:latest"),
        ("registry:5000/disttrain", "registry:5000/disttrain:latest"),
        ("a/b@sha256:" + "0" * 64, "a/b@sha256:" + "0" * 64),
    ],
)
def test_an_image_may_have_a_port_a_tag_or_a_digest(copy, image, expected):
    job = render(copy, "single-node", image=image).job
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == expected


def test_arguments_reach_the_container_that_reads_them(copy):
    arguments = ["--data", '/data/my $(HOME)\'s "file".csv', "--metrics", "mse,mae"]
    for overlay in OVERLAYS:
        variant = render(copy, overlay, "pvc", arguments=arguments)
        role = "launcher" if variant.job["kind"] == "MPIJob" else "worker"
        container = variant.pods()[role]["spec"]["containers"][0]
        assert [word.replace("$$(", "$(") for word in container["args"]] == arguments


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlay": "both"}, "must be single-node, indexed, mpijob, elastic, not 'both'"),
        ({"components": "gpus"}, "not 'gpus'"),
        ({"components": "object-store"}, "needs DISTTRAIN_STORE"),
        ({"store": "s3://b/a"}, "needs DISTTRAIN_STORE, such as s3://bucket/runs/a, and no other does"),
        ({"components": "object-store pvc", "store": "s3://b/a"}, "no volume for pvc"),
        ({"overlay": "indexed", "pods": "two"}, "DISTTRAIN_PODS must be a whole number from 1, not 'two'"),
        ({"pods": "2"}, "single-node is one pod"),
        ({"overlay": "mpijob", "max_np": "2"}, "are for elastic, not mpijob"),
        ({"overlay": "elastic", "pods": "3", "max_np": "2"}, "allow 1 to 2 workers, but 3 pods with 1 each start 3"),
        ({"overlay": "elastic", "min_np": "few"}, "DISTTRAIN_MIN_NP must be a whole number from 1, not 'few'"),
        ({"run": "Mine"}, "DISTTRAIN_RUN must be of a-z, 0-9 and -, not 'Mine'"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(copy, settings, said):
    told = k8s_sh(copy, "render", **settings)
    assert (told.returncode != 0, told.stdout, told.stderr.count("\n")) == (True, "", 1), told
    assert said in told.stderr


def test_an_elastic_run_has_the_workers_of_all_its_pods_and_the_limits_that_are_given(copy):
    run = render(copy, "elastic", "gpu", pods="4", gpus="8", arguments=["--epochs", "3"])
    assert {name: run.settings.get(f"DISTTRAIN_{name}") for name in ("NP", "MIN_NP", "MAX_NP")} == {
        "NP": "32",
        "MIN_NP": "1",
        "MAX_NP": None,
    }
    assert run.only("PodDisruptionBudget")["spec"]["minAvailable"] == 1
    run = render(copy, "elastic", "gpu", pods="4", gpus="8", min_np="17", max_np="48")
    assert (run.settings["DISTTRAIN_MIN_NP"], run.settings["DISTTRAIN_MAX_NP"]) == ("17", "48")
    assert run.only("PodDisruptionBudget")["spec"]["minAvailable"] == 3


# -- what it does


@pytest.fixture
def cluster(tmp_path):
    """A copy of the repository, and what a stand-in for kubectl was told; `kustomize` is the real one's."""
    place = copy_of_the_repository(tmp_path / "repository")
    (place / "bin").mkdir()
    told = place / "told"

    def make(does=""):
        text = f'#!/bin/bash\n[ "$1" != kustomize ] || exec {KUBECTL} "$@"\necho "$*" >>{told}\n{does}\n'
        (place / "bin/kubectl").write_text(text)
        (place / "bin/kubectl").chmod(0o755)
        return place, lambda: told.read_text().splitlines() if told.exists() else []

    return make


def test_its_help_tells_how_to_call_it_and_it_is_short():
    told = k8s_sh(ROOT, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "launch/k8s.sh" in told.stdout.splitlines()[0]
    assert len((ROOT / "launch/k8s.sh").read_text().splitlines()) < 60


def test_a_dry_run_tells_what_a_run_does(cluster):
    place, told = cluster("exit 1")
    dry = {}
    for step in ("validate", "apply", "follow", "fetch", "delete"):
        done = k8s_sh(place, step, "--dry-run", overlay="indexed", namespace="team", run="b")
        assert (done.returncode, done.stderr) == (0, "")
        dry[step] = [line.removeprefix("kubectl ").replace("\\", "") for line in done.stdout.splitlines()]
    assert told() == []
    (place / "results").mkdir()
    (place / "results/model.keras").touch()
    cluster(IN_POD.format(results=place / "results"))
    for step in ("validate", "apply", "fetch", "delete"):
        (place / "told").unlink(missing_ok=True)
        assert k8s_sh(place, step, overlay="indexed", namespace="team", run="b").returncode == 0
        assert told() == dry[step]
        assert all(line.startswith("--namespace team ") for line in told())
    assert dry["apply"] == ["--namespace team apply --kustomize k8s/runs/b/run"]
    leader = "batch.kubernetes.io/job-name=disttrain-b,batch.kubernetes.io/job-completion-index=0"
    assert f"--selector {leader} --container disttrain" in dry["follow"][0]


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["indexed", "elastic"])
def test_following_ends_as_the_run_does(cluster, overlay):
    done = "Complete" if overlay == "indexed" else "Succeeded"
    for ending, code in ((done, 0), ("Failed", 1)):
        states = f'[{{"reason":"x","status":"True","type":"{ending}"}}]'
        running = '[{"status":"False","type":"Failed"},{"status":"True","type":"Running"}]'
        place, told = cluster(
            f"[[ $* != *conditions* ]] || {{ if [ -e seen ]; then echo '{states}'; rm seen; else "
            f"echo '{running}'; touch seen; fi; }}"
        )
        (place / "told").unlink(missing_ok=True)
        k8s_sh(place, "render", overlay=overlay)
        assert k8s_sh(place, "follow").returncode == code
        logs = [line for line in told() if line.startswith("logs")]
        assert ["--since-time" in line for line in logs] == [False, True]


@pytest.mark.parametrize(
    ("in_pod", "said"),
    [
        ("exit 0", "not copied whole"),  # of which kubectl cp would say nothing
        ("[ $4 = env ] || tar -C $(mktemp -d) -cf - .", "there is nothing to fetch"),
        ("head -c 5000 {tar}", "not copied whole"),  # broken off
        ("[ $4 = env ] || cat {tar}; [ $4 = tar ] || echo ./b", "not copied: ./b"),
        ("exit 7", "not copied whole"),
    ],
)
def test_results_that_were_not_copied_whole_are_no_success(cluster, in_pod, said):
    place, told = cluster()
    (place / "results").mkdir()
    (place / "results/a").write_bytes(bytes(20_000))
    tar = place / "results.tar"
    subprocess.run(["tar", "-C", place / "results", "-cf", tar, "."], check=True)
    cluster("[ $1 != exec ] || { " + in_pod.format(tar=tar) + "; }")
    k8s_sh(place, "render")
    done = k8s_sh(place, "fetch")
    assert done.returncode != 0
    assert said in done.stderr
    assert not list((place / "runs").glob("1*"))
    deleted = [line for line in told() if line.startswith("delete")]
    assert len(deleted) == 2  # what an earlier one left, and its own


def test_what_keeps_pods_waiting_is_told_once(cluster):
    pending = {"metadata": {"name": "disttrain-1-a"}, "status": {"phase": "Pending"}}
    pending["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu"}
    ]
    image = {"name": "disttrain", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    killed = {"name": "disttrain", "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}, "state": {}}
    pods = [
        pending,
        {"metadata": {"name": "disttrain-1-b"}, "status": {"phase": "Pending", "containerStatuses": [image]}},
        {"metadata": {"name": "disttrain-1-c"}, "status": {"phase": "Failed", "containerStatuses": [killed]}},
        {"metadata": {"name": "disttrain-1-d"}, "status": {"phase": "Running"}},
    ]
    place, _ = cluster()
    (place / "pods.json").write_text(json.dumps({"items": pods}))
    (place / "none.json").write_text(json.dumps({"items": []}))
    cluster(
        f'case "$*" in *conditions*) if [ -e {place}/seen ]; then echo \'"status":"True","type":"Failed"\'; '
        f"else touch {place}/seen; fi ;; *json) cat {place}/pods.json ;; *tail\\ 20*) echo the cause ;; "
        "*events*) echo FailedScheduling because ;; logs*) echo No resources found in default namespace. >&2 ;; esac"
    )
    k8s_sh(place, "render")
    done = k8s_sh(place, "follow")
    assert done.returncode == 1
    for said in (
        "disttrain-1-a: Pending; Unschedulable: 0/1 nodes: Insufficient cpu (FailedScheduling because)",
        "disttrain-1-b: Pending; disttrain waits: ImagePullBackOff (no such image)",
        "disttrain-1-c: Failed; disttrain ended: OOMKilled, exit code 137",
        "the end of disttrain-1-c:\nthe cause",
    ):
        assert done.stderr.count(said) == 1, done.stderr
    assert "No resources found" not in done.stderr
    assert "disttrain-1-d" not in done.stderr


def test_a_run_that_is_there_with_other_arguments_is_one_line(cluster):
    place, _ = cluster("[ $1 != apply ] || { echo 'The Job is invalid: a page: field is immutable' >&2; exit 1; }")
    done = k8s_sh(place, "apply", run="b")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run b already exists with other settings: launch/k8s.sh delete removes it" in done.stderr


def test_deleting_waits_for_the_pods(cluster):
    place, told = cluster()
    k8s_sh(place, "render")
    assert k8s_sh(place, "delete").returncode == 0
    assert "--cascade=foreground" in told()[-1]


def test_one_setting_fits_pods_to_a_small_node_and_one_makes_less_data(cluster):
    place, _ = cluster()
    for overlay in OVERLAYS:
        run = render(place, overlay, "pvc", cpus="500m", rows="1e6")
        role = "worker"
        resources = run.pods()[role]["spec"]["containers"][0]["resources"]
        assert (resources["requests"]["cpu"], resources["limits"]["cpu"]) == ("500m", "500m")
        text = subprocess.run([KUBECTL, "kustomize", place / "k8s/runs/1/data"], capture_output=True, text=True)
        assert "--rows\n        - 1e6\n" in text.stdout.replace('"', "")
        assert all(
            one["imagePullPolicy"] == "IfNotPresent" for _, _, one in run.containers() if "disttrain" in one["image"]
        )
    assert "DISTTRAIN_CPUS must be" in k8s_sh(place, "render", cpus="two").stderr


def test_deleting_leaves_the_results(cluster):
    place, _ = cluster()
    for namespace in ({}, {"namespace": "team"}):
        k8s_sh(place, "render", overlay="indexed", **namespace)
        kinds = {}
        for part in ("run", "delete"):
            text = subprocess.run([KUBECTL, "kustomize", place / f"k8s/runs/1/{part}"], capture_output=True, text=True)
            kinds[part] = sorted(line for line in text.stdout.splitlines() if line.startswith("kind:"))
        kinds["run"].remove("kind: PersistentVolumeClaim")
        assert kinds["delete"] == kinds["run"]
        assert "kind: Job" in kinds["delete"]


def test_the_data_of_all_runs_is_made_by_the_same_image(cluster):
    place, _ = cluster()
    k8s_sh(place, "render", components="pvc", image="registry.example/disttrain:7", namespace="team")
    folder = place / "k8s/runs/1/data"
    text = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=True).stdout
    assert text.count("namespace: team") == text.count("  name: disttrain-data\n") == 2
    assert "image: registry.example/disttrain:7\n" in text


def test_the_example_in_the_readme_is_what_it_says(cluster):
    place, _ = cluster()
    text = (ROOT / "k8s/README.md").read_text()
    lines = text[text.index("    resources: [../overlays") :].split("\n\n")[0].splitlines()
    (place / "k8s/mine").mkdir()
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    (place / "k8s/mine/kustomization.yaml").write_text(head + "\n".join(line[4:] for line in lines) + "\n")
    done = subprocess.run([KUBECTL, "kustomize", place / "k8s/mine"], capture_output=True, text=True, check=True)
    objects = {thing["kind"]: thing for thing in yaml.safe_load_all(done.stdout)}
    job, [container] = objects["Job"]["spec"], objects["Job"]["spec"]["template"]["spec"]["containers"]
    assert (job["completions"], container["resources"]["limits"]["nvidia.com/gpu"]) == (4, 8)
    assert container["image"] == "registry.example/disttrain:1"
    assert objects["Service"]["metadata"]["name"] == "disttrain-1"


def test_results_in_a_store_are_not_fetched_from_a_volume(cluster):
    place, _ = cluster()
    k8s_sh(place, "render", components="pvc")
    k8s_sh(place, "render", components="object-store", store="s3://b/runs/1")
    done = k8s_sh(place, "fetch")
    assert (done.returncode, done.stderr) == (2, "k8s: the results are in s3://b/runs/1\n")
    shutil.rmtree(place / "k8s/runs")
    assert "render it" in k8s_sh(place, "fetch").stderr


@pytest.mark.parametrize("arguments", [["--data", "x"], []])
def test_a_mistake_is_one_line(cluster, arguments):
    place, _ = cluster()
    done = k8s_sh(place, *(["apply", *arguments] if arguments else ["start"]))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_scripts_are_clean():
    scripts = [ROOT / "launch/k8s.sh", *(ROOT / "k8s").rglob("*.sh")]
    shellcheck = shutil.which("shellcheck", path=str(KUBECTL and sys.executable.rpartition("/")[0]))
    done = subprocess.run([shellcheck or "shellcheck", "--external-sources", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
