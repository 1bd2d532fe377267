"""Builds and runs images with buildah and podman, in a storage of its own that is removed afterwards."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOOLS = ("buildah", "podman", "runc", "debootstrap", "iptables")
PACKAGES = "buildah podman runc debootstrap uidmap iptables netavark aardvark-dns"
BASE = "localhost/base"
CACHE = Path(os.environ.get("DISTTRAIN_CACHE_DIR") or Path.home() / ".cache/disttrain")
KEPT = CACHE / "container-test"  # the base system and pip's downloads: a minute of each later run
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class Engine:
    """Runs buildah and podman; `close` removes what they made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "tmp").mkdir()
        (KEPT / "build").mkdir(parents=True, exist_ok=True)
        (root / "tmp/buildah-cache").symlink_to(KEPT / "build")  # where buildah looks for what a build may keep
        (root / "containers.conf").write_text(
            '[engine]\nruntime = "runc"\n'  # crun fails on hybrid cgroups
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
            f'[network]\nnetwork_config_dir = "{root}/networks"\n'
        )
        (root / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{root}/run"\ngraphroot = "{root}/storage"\n'
        )
        self.environ = dict(os.environ) | {
            "CONTAINERS_CONF": str(root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
            "TMPDIR": str(root / "tmp"),
            "DISABLE_HC_SYSTEMD": "true",  # health is asked for, not watched
        }

    def run(self, *command: object, check: bool = True, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; with `check`, it must succeed."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def podman(self, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
        return self.run("podman", *arguments, **options)

    def close(self) -> None:
        for removal in (("rm", "--all", "--force", "--time", "0"), ("network", "prune", "--force"), ("rmi", "-af")):
            with suppress(subprocess.TimeoutExpired):
                self.podman(*removal, check=False, timeout_s=120)
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.root}/")]):
            subprocess.run(["umount", "--lazy", mount], check=False)
        for name in ("storage", "run", "networks", "tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)


def lacking() -> str | None:
    """Returns why no image can be built here, or nothing if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "images are built by root, on Linux"
    if not all(map(shutil.which, TOOLS)):
        return f"to build images, run: apt-get install {PACKAGES}"
    if not built_wheel("horovod") or not built_wheel("disttrain_collective"):
        return "there are no wheels of Horovod for this Python; run: launch/install-horovod.sh"
    return None


def built_wheel(package: str) -> Path | None:
    """The wheel that this environment's package was installed from, else the newest kept one."""
    try:
        origin = json.loads(importlib.metadata.distribution(package).read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        origin = {}
    newest = sorted(CACHE.glob(f"wheels/*/{package}-*.whl"), key=lambda path: path.stat().st_mtime, reverse=True)
    tag = "cp{}{}".format(*sys.version_info[:2])
    places = [Path(unquote(urlsplit(origin.get("url", "")).path)), *newest]
    return next((path for path in places if path.is_file() and tag in path.name), None)


def import_base(engine: Engine) -> None:
    """Makes the image BASE, without a registry, from this machine's Debian with Python."""
    system = platform.freedesktop_os_release()
    trusted = Path(ssl.get_default_verify_paths().cafile or CERTIFICATES).read_bytes()
    recipe = f"{system['ID']}-{system['VERSION_CODENAME']}-{hashlib.sha256(trusted).hexdigest()[:8]}"
    kept = KEPT / f"{recipe}.tar"
    if not kept.exists():
        made = _bootstrapped(engine, system, trusted)
        engine.run("tar", "--create", "--file", engine.root / "base.tar", "--directory", made, ".")
        shutil.rmtree(made)
        shutil.move(engine.root / "base.tar", kept.with_suffix(".new"))
        kept.with_suffix(".new").rename(kept)
    settings = {"PIP_CERT": CERTIFICATES, "SSL_CERT_FILE": CERTIFICATES}
    settings |= {name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST") if name in os.environ}
    changes = [word for name, value in settings.items() for word in ("--change", f"ENV {name}={value}")]
    engine.podman("import", *changes, kept, BASE)
    asked = ("python3", "-c", "import sys; print(*sys.version_info[:2])")
    told = engine.podman("run", "--rm", "--network", "none", BASE, *asked, check=False)
    if told.returncode != 0:
        pytest.skip(f"podman runs nothing here: {told.stderr[-500:]}")
    if told.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        pytest.skip(f"this Python's Horovod does not fit that of {recipe}, Python {told.stdout.strip()}")


def _bootstrapped(engine: Engine, system: dict[str, str], trusted: bytes) -> Path:
    made = engine.root / "base"
    components = "main,universe" if system["ID"] == "ubuntu" else "main"
    options = ("--variant=minbase", "--include=python3,ca-certificates", f"--components={components}")
    done = engine.run("debootstrap", *options, system["VERSION_CODENAME"], made, check=False, timeout_s=900)
    if done.returncode != 0:
        pytest.skip(f"debootstrap: {(done.stdout + done.stderr)[-500:]}")
    for place in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(made / place)
        (made / place / "partial").mkdir(parents=True)
    (made / CERTIFICATES.lstrip("/")).write_bytes(trusted)
    return made
