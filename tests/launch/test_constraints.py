"""The pinned packages: complete, and with all that is installed of them in a container and by the set-up."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def pinned() -> dict[str, list[Requirement]]:
    """Section of the constraints file -> its requirements."""
    sections: dict[str, list[Requirement]] = {}
    for line in (ROOT / "launch/constraints.txt").read_text().splitlines():
        if heading := re.match(r"# \[(.+)\]", line):
            section = sections.setdefault(heading[1], [])
        elif re.match(r"\w", line):
            section.append(Requirement(line.removesuffix("\\").strip()))
    return sections


def test_the_constraints_name_no_address_and_a_hash_for_every_version() -> None:
    text = (ROOT / "launch/constraints.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    blocks = re.split(r"\n(?=[\w#])", text)
    packages = [block for block in blocks if re.match(r"\w", block)]
    assert len(packages) > 100
    for block in packages:
        assert re.match(r"[\w.-]+==[\w.]+( ;[^\\]+)? \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+\n*$", block), block


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_constraints_cover_every_dependency(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    training = [*project["project"]["dependencies"], *extras["horovod"], *project["dependency-groups"]["launch"]]
    everything = [*training, *(line for extra in extras.values() for line in extra)]
    machine = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}
    sections = pinned()
    for wanted, names in (
        (training, ("tensorflow", "tensorflow-cpu", "base")),
        (everything, tuple(sections)),
    ):
        versions = {
            canonicalize_name(pin.name): pin.specifier
            for name in names
            for pin in sections[name]
            if pin.marker is None or pin.marker.evaluate(machine)
        }
        for requirement in map(Requirement, wanted):
            if requirement.marker is None or requirement.marker.evaluate(machine):
                (pin,) = versions[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(pin.version), requirement


def needed(extras: tuple[str, ...]) -> set[str]:
    """What the installed packages say that disttrain needs with some extras, on this machine."""
    found: set[tuple[str, frozenset[str]]] = set()
    left = [("disttrain", frozenset(extras))]
    while left:
        name, own = left.pop()
        if (name, own) in found:
            continue
        found.add((name, own))
        for wanted in map(Requirement, importlib.metadata.requires(name) or ()):
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *own)):
                other = canonicalize_name(wanted.name)
                left.append(("tensorflow-cpu" if other == "tensorflow" else other, frozenset(wanted.extras)))
    return {name for name, _ in found} - {"disttrain"}


@pytest.mark.parametrize("stores", [(), ("s3", "gcs", "azure", "http")], ids=["alone", "with stores"])
def test_a_container_needs_nothing_that_its_sections_lack(stores: tuple[str, ...]) -> None:
    try:
        importlib.metadata.version("tensorflow-cpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("another TensorFlow is installed here")
    try:
        wanted = needed(("horovod", *stores))
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here")
    sections = pinned()
    names = ("tensorflow-cpu", "base", *(["stores"] if stores else []))
    assert wanted <= {canonicalize_name(pin.name) for name in names for pin in sections[name]}
