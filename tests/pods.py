"""Runs a container of a rendered manifest on this machine, with its command and environment, but other paths."""

import os
import re
import sys
from pathlib import Path

from command import ROOT
from manifests import Rendered


class Pod:
    """One pod of a role, with a folder for each of its volumes; several pods share the results' volume."""

    def __init__(self, rendered: Rendered, role: str, shared: Path, home: Path, moved: dict[str, str]) -> None:
        self.rendered, self.home, self.shared = rendered, home, shared
        self.spec = rendered.pods()[role]["spec"]
        self.container = self.spec["containers"][0]
        self.places = {"/opt/disttrain/launch": str(ROOT / "launch")} | moved
        home.mkdir(parents=True, exist_ok=True)
        self._mount(self.container)

    def _mount(self, container: dict) -> None:
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in container["volumeMounts"]:
            volume, path = volumes[mount["name"]], mount["mountPath"]
            if path in self.places or path in ("/dev/shm", "/tmp"):  # this machine's own
                continue
            place = self.shared if "persistentVolumeClaim" in volume else self.home / path.strip("/").replace("/", "-")
            place.mkdir(exist_ok=True)
            self.places[path] = str(place)
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                for name, text in self.rendered.only("ConfigMap", volume["configMap"]["name"])["data"].items():
                    Path(self.places[mount["mountPath"]], name).write_text(self.here(text))

    def here(self, text: str) -> str:
        """Replaces each of the container's paths in a text by the path on this machine."""
        pattern = "|".join(re.escape(path) for path in sorted(self.places, key=len, reverse=True))
        return re.sub(rf"(?<![\w/])({pattern})(?![\w-])", lambda found: self.places[found[1]], text)

    def environment(self, **of_the_machine: str) -> dict[str, str]:
        """Returns the container's environment: from its ConfigMaps, itself, the image, the kubelet and controllers."""
        given: dict[str, str] = {}
        for source in self.container.get("envFrom", []):
            given |= self.rendered.only("ConfigMap", source["configMapRef"]["name"])["data"]
        given |= {entry["name"]: entry["value"] for entry in self.container.get("env", [])}
        image = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}
        image |= {"PYTHONPATH": str(ROOT), "HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        return image | {name: self.here(value) for name, value in given.items()} | of_the_machine

    def command(self) -> list[str]:
        """Returns its command and arguments, as Kubernetes expands them: $$(NAME) becomes $(NAME)."""
        words = self.container["command"] + self.container.get("args", [])
        return [self.here(word).replace("$$(", "$(") for word in words]


def sidecar(pod: Pod, name: str) -> Pod:
    """Returns the pod's init container that keeps running beside it, with the same volumes."""
    beside = object.__new__(Pod)
    beside.__dict__ |= pod.__dict__
    [beside.container] = [one for one in pod.spec["initContainers"] if one["name"] == name]
    beside._mount(beside.container)
    return beside
