#!/usr/bin/env python3
"""Writes the kustomizations of one run into a folder below k8s/runs/, from the environment: see launch/k8s.sh --help.

run/ is the run itself; delete/ is the same without the results' volume; fetch/ is a pod that holds that volume; data/
makes the volume of the component pvc, with the example's file, for all runs.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPONENTS = ("gpu", "pvc", "object-store", "tensorboard")
# overlay -> (kind, label of its name, further labels of the pod that prints, its container)
OVERLAYS = {
    "single-node": ("Job", "batch.kubernetes.io/job-name", "", "disttrain"),
    "indexed": ("Job", "batch.kubernetes.io/job-name", ",batch.kubernetes.io/job-completion-index=0", "disttrain"),
    "mpijob": ("MPIJob", "training.kubeflow.org/job-name", ",training.kubeflow.org/job-role=launcher", "launcher"),
    "elastic": ("MPIJob", "training.kubeflow.org/job-name", ",training.kubeflow.org/job-role=launcher", "launcher"),
}
ARGUMENTS = {
    "Job": "/spec/template/spec/containers/0/args",
    "MPIJob": "/spec/mpiReplicaSpecs/Launcher/template/spec/containers/0/args",
}
LIMITS = ("DISTTRAIN_MIN_NP", "DISTTRAIN_MAX_NP")
COUNTS = ("DISTTRAIN_PODS", "DISTTRAIN_GPUS", *LIMITS)
HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
WITHOUT_RESULTS = """patches:
  - target: {kind: PersistentVolumeClaim}
    patch: |-
      apiVersion: v1
      kind: PersistentVolumeClaim
      metadata: {name: any}
      $patch: delete
"""


def main(folder: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Writes run/, delete/ and fetch/ into `folder`; one line on stderr where the environment makes no sense."""
    overlay = environ.get("DISTTRAIN_OVERLAY") or "single-node"
    components = (environ.get("DISTTRAIN_COMPONENTS") or "").replace(",", " ").split()
    store = (environ.get("DISTTRAIN_STORE") or "").rstrip("/")
    check(overlay, components, store, environ)
    suffix = f"-{folder.name}"
    shared = HEAD
    if namespace := environ.get("DISTTRAIN_NAMESPACE"):
        shared += f"namespace: {json.dumps(namespace)}\n"
    image = environ.get("DISTTRAIN_IMAGE") or "disttrain:latest"
    shared += f"images:\n  - {{name: disttrain, {image_of(image)}}}\n"
    common = shared + f"nameSuffix: {json.dumps(suffix)}\n"
    up = os.path.relpath(HERE, folder / "run")
    texts = {
        "run": about(overlay, suffix, store) + common + body(overlay, components, store, arguments, environ, up),
        "delete": HEAD + "resources: [../run]\n" + ("" if store else WITHOUT_RESULTS),
        "fetch": common + f"resources: [{up}/fetch]\npatches:\n  - target: {{kind: Pod}}\n    patch: |-\n"
        "      - {op: replace, path: /spec/volumes/0/persistentVolumeClaim/claimName,"
        f" value: disttrain-results{suffix}}}\n",
    }
    if "pvc" in components:
        rows = environ.get("DISTTRAIN_ROWS") or "500e6"
        texts["data"] = (
            shared
            + f"resources: [{up}/data]\npatches:\n"
            + "\n".join(patch("Job", "/spec/template/spec/containers/0/args/2", rows, name="disttrain-data"))
            + "\n"
        )
    if store:
        del texts["fetch"]
        shutil.rmtree(folder / "fetch", ignore_errors=True)
    for name, text in texts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "kustomization.yaml").write_text(text, encoding="utf-8")


def check(overlay: str, components: Sequence[str], store: str, environ: Mapping[str, str]) -> None:
    """Ends with one line where the settings contradict each other."""
    if overlay not in OVERLAYS:
        sys.exit(f"k8s: DISTTRAIN_OVERLAY must be {', '.join(OVERLAYS)}, not '{overlay}'")
    if unknown := set(components) - set(COMPONENTS):
        sys.exit(f"k8s: DISTTRAIN_COMPONENTS are {', '.join(COMPONENTS)}, not '{min(unknown)}'")
    if "object-store" in components and {"pvc", "tensorboard"} & set(components):
        sys.exit("k8s: the component object-store has no volume for pvc or tensorboard")
    if bool(store) != ("object-store" in components):
        sys.exit("k8s: the component object-store needs DISTTRAIN_STORE, such as s3://bucket/runs/a, and no other does")
    for name in COUNTS:
        value = environ.get(name) or "1"
        if not value.isdecimal() or int(value) < 1:
            sys.exit(f"k8s: {name} must be a whole number from 1, not '{value}'")
    if overlay == "single-node" and environ.get("DISTTRAIN_PODS", "1") != "1":
        sys.exit("k8s: single-node is one pod; DISTTRAIN_PODS is for indexed, mpijob and elastic")
    if not re.fullmatch(r"[1-9][0-9]*m?", environ.get("DISTTRAIN_CPUS") or "1"):
        sys.exit(f"k8s: DISTTRAIN_CPUS must be a number such as 1 or 500m, not '{environ['DISTTRAIN_CPUS']}'")
    least, most = (int(environ.get(name) or 0) for name in LIMITS)
    if (least or most) and overlay != "elastic":
        sys.exit(f"k8s: {' and '.join(LIMITS)} are for elastic, not {overlay}")
    pods, gpus = sizes(overlay, components, environ)
    if not least <= pods * gpus <= (most or pods * gpus):
        allowed = f"{least or 1} to {most or 'any number of'} workers"
        sys.exit(f"k8s: {' and '.join(LIMITS)} allow {allowed}, but {pods} pods with {gpus} each start {pods * gpus}")


def sizes(overlay: str, components: Sequence[str], environ: Mapping[str, str]) -> tuple[int, int]:
    """How many pods train, and how many workers each of them has in an MPIJob."""
    pods = 1 if overlay == "single-node" else int(environ.get("DISTTRAIN_PODS") or 2)
    return pods, int(environ.get("DISTTRAIN_GPUS") or 1) if "gpu" in components else 1


def about(overlay: str, suffix: str, store: str) -> str:
    """Comments from which launch/k8s.sh learns what it is to follow."""
    kind, label, more, container = OVERLAYS[overlay]
    lines = {"kind": kind.lower(), "leader": f"{label}=disttrain{suffix}{more}", "container": container}
    lines |= {"store": store} if store else {}
    return "".join(f"# {name}: {value}\n" for name, value in lines.items())


def body(
    overlay: str, components: Sequence[str], store: str, arguments: Sequence[str], environ: Mapping[str, str], up: str
) -> str:
    """The overlay, its components, their settings, and what disttrain is given."""
    used = [name for name in COMPONENTS if name in components]
    pods, gpus = sizes(overlay, components, environ)
    kind = OVERLAYS[overlay][0]
    settings = {"WORKERS": str(pods), "GPUS": str(gpus)}
    patches = []
    if overlay == "elastic":
        settings["DISTTRAIN_NP"] = str(pods * gpus)
        settings |= {name: environ[name] for name in LIMITS if environ.get(name)}
        kept = math.ceil(int(settings.get("DISTTRAIN_MIN_NP", 1)) / gpus)
        patches += patch("PodDisruptionBudget", "/spec/minAvailable", kept)
    if cpus := environ.get("DISTTRAIN_CPUS"):
        place = "/spec" if kind == "Job" else "/spec/mpiReplicaSpecs/Worker"
        for name in ("requests", "limits"):
            patches += patch(kind, f"{place}/template/spec/containers/0/resources/{name}/cpu", cpus)
    if store:
        settings |= {"RESULTS_URL": store, "DISTTRAIN_CHECKPOINT_DIR": f"{store}/checkpoints"}
    if overlay != "single-node":
        used.append("settings")
    lines = ["resources:", f"  - {up}/overlays/{overlay}", *(["components:"] if used else [])]
    lines += [f"  - {up}/components/{name}" for name in used]
    lines += ["configMapGenerator:", "  - name: disttrain-settings", "    behavior: merge", "    literals:"]
    lines += [f"      - {json.dumps(f'{name}={value}')}" for name, value in settings.items()]
    lines += ["generatorOptions:", "  disableNameSuffixHash: true"]
    if arguments:
        values = [argument.replace("$(", "$$(") for argument in arguments]  # Kubernetes expands $(NAME)
        patches += patch(kind, ARGUMENTS[kind], values)
    return "\n".join([*lines, *(["patches:", *patches] if patches else [])]) + "\n"


def patch(kind: str, path: str, value: int | str | Sequence[str], name: str = "disttrain") -> list[str]:
    """Lines that replace what stands there in the object of a kind."""
    operation = f"{{op: replace, path: {path}, value: {json.dumps(value)}}}"
    return [f"  - target: {{kind: {kind}, name: {name}}}", "    patch: |-", f"      - {operation}"]


def image_of(image: str) -> str:
    """`registry:5000/name:tag` or `name@sha256:...` as kustomize has it."""
    name, at, digest = image.partition("@")
    if at:
        return f"newName: {json.dumps(name)}, digest: {json.dumps(digest)}"
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        name, tag = image, "latest"
    return f"newName: {json.dumps(name)}, newTag: {json.dumps(tag)}"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:], os.environ)
