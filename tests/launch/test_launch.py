"""launch/ and .ci/run: their messages, the set-up, and Horovod's wheel."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "launch/quickstart.sh",
    "launch/test.sh",
    "launch/setup.sh",
    "launch/local.sh",
    "launch/horovod.sh",
    "launch/mpi.sh",
    "launch/k8s.sh",
    "launch/collective/build.sh",
    "launch/install-horovod.sh",
    "launch/refresh-constraints.sh",
    "launch/horovod/build.sh",
    "launch/horovod/check.sh",
    "launch/discovery/localhost.sh",
    "launch/discovery/hosts-file.sh",
    "launch/discovery/job.sh",
    "launch/container/packages.sh",
    "launch/container/horovod.sh",
    "launch/container/app.sh",
    "launch/container/trim.sh",
    "launch/container/runtime.sh",
    "launch/container/sshd.sh",
    "launch/container/again.sh",
    ".ci/run",
]
SOURCED = ["launch/arguments.sh", "launch/workers.sh", "launch/horovod/environment.sh"]
BIN = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


# -- what the scripts say


def test_shellcheck_finds_nothing() -> None:
    scripts = [*COMMANDS, *SOURCED, "launch/slurm.sbatch"]
    checked = run(BIN / "shellcheck", "--external-sources", *scripts)
    assert (checked.stdout, checked.returncode) == ("", 0)


def test_every_script_is_checked() -> None:
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "launch").rglob("*.sh")} | {".ci/run"}
    assert scripts == {*COMMANDS, *SOURCED}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_how_to_call_a_script_from_any_folder(command: str, tmp_path: Path) -> None:
    told = run(ROOT / command, "--help", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"usage: {command}")
    assert max(map(len, told.stdout.splitlines())) <= 100


@pytest.mark.parametrize("command", ["launch/setup.sh", "launch/install-horovod.sh", "launch/refresh-constraints.sh"])
def test_an_unknown_argument_is_a_usage_error_of_one_line(command: str) -> None:
    told = run(ROOT / command, "--nonsense")
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "'--nonsense'" in told.stderr


def test_a_missing_compiler_is_said_in_one_line_with_the_packages_name(tmp_path: Path) -> None:
    for tool in ("bash", "env", "dirname", "cmake"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    told = run(ROOT / "launch/install-horovod.sh", sys.executable, PATH=str(tmp_path))
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert told.stderr.endswith("run: apt-get install g++ make\n")


def test_a_missing_python_is_said_in_one_line(tmp_path: Path) -> None:
    told = run(ROOT / "launch/setup.sh", PYTHON=str(tmp_path / "python3"))
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "Python 3.10 to 3.13" in told.stderr
    assert "apt-get install python3 python3-venv" in told.stderr


def test_a_python_without_venv_is_said_in_one_line_with_the_packages_name(tmp_path: Path) -> None:
    python = tmp_path / "python3"  # as Debian's python3 is without python3-venv
    python.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    told = run(tmp_path / "launch/setup.sh", PYTHON=str(python))
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert told.stderr.endswith(f"apt-get install python3.{sys.version_info.minor}-venv\n")


# -- the set-up


def tiny_wheel(folder: Path) -> str:
    """Writes a wheel of one empty module into `folder`; returns its SHA-256."""
    metadata = {
        "tiny.py": "",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in metadata.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**metadata, "tiny-1.0.dist-info/RECORD": f"{record}tiny-1.0.dist-info/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False])
def test_a_wrong_hash_is_refused(right: bool, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sha256 = tiny_wheel(tmp_path)
    pins = f"# [base]\ntiny==1.0 \\\n    --hash=sha256:{sha256 if right else sha256[::-1]}\n"
    (tmp_path / "launch/constraints.txt").write_text(pins)
    # disttrain itself is not in the copy, so that the installation ends after the pinned packages.
    ended = run(
        tmp_path / "launch/setup.sh",
        PYTHON=sys.executable,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(tmp_path),
        PIP_CONFIG_FILE=os.devnull,
    )
    assert ended.returncode != 0
    assert ("DO NOT MATCH THE HASHES" in ended.stderr) is not right
    assert (run(tmp_path / ".venv/bin/python", "-c", "import tiny").returncode == 0) is right
    assert not (tmp_path / ".venv/disttrain-setup").exists()


@pytest.mark.skipif(not (ROOT / ".venv/disttrain-setup").exists(), reason="launch/test.sh has not made .venv")
def test_the_second_set_up_takes_no_time() -> None:
    assert run(ROOT / "launch/setup.sh").returncode == 0
    started = time.monotonic()
    done = run(ROOT / "launch/setup.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 3


# -- Horovod

TENSORFLOW_FOR_GPUS = """
from types import SimpleNamespace as Module
__version__ = "2.21.0"
sysconfig = Module(get_compile_flags=list, get_link_flags=list, get_lib=lambda: "/lib")
test = Module(is_built_with_cuda=lambda: True)
"""
ABOUT_THE_BUILD = """
set -eu
here=$1 python=$2
. "$here/horovod/environment.sh"
echo "${parts[*]} ${HOROVOD_NCCL_HOME:-}"
"""


@pytest.fixture
def about_the_build(tmp_path: Path):
    """Prints how Horovod would be built for a TensorFlow made for GPUs, with NCCL beside it, as by setup.sh --gpu."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text(TENSORFLOW_FOR_GPUS)
    for nccl in (tmp_path / "nvidia/nccl", tmp_path / "own"):
        (nccl / "include").mkdir(parents=True)
        (nccl / "include/nccl.h").write_text("#define NCCL_MAJOR 2\n")
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "cat", "grep", "c++"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    settings = {"PYTHONPATH": str(tmp_path), "HOROVOD_CUDA_HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}

    def run_it(**more: str) -> subprocess.CompletedProcess[str]:
        return run("bash", "-c", ABOUT_THE_BUILD, "bash", ROOT / "launch", sys.executable, **(settings | more))

    return run_it


def test_horovod_gets_the_nccl_that_tensorflow_has_unless_another_one_is_named(about_the_build, tmp_path: Path) -> None:
    (tmp_path / "bin/nvcc").write_text("#!/bin/sh\necho release 12.9\n")
    (tmp_path / "bin/nvcc").chmod(0o755)
    told = about_the_build()
    assert (told.stdout, told.stderr) == (f"TensorFlow Gloo NCCL {tmp_path}/nvidia/nccl\n", "")
    assert about_the_build(HOROVOD_NCCL_HOME=f"{tmp_path}/own").stdout == f"TensorFlow Gloo NCCL {tmp_path}/own\n"


def test_a_build_for_gpus_without_nccl_says_what_is_missing(about_the_build) -> None:
    told = about_the_build()
    assert (told.stdout, told.stderr.count("\n")) == ("TensorFlow Gloo \n", 1)
    assert "there is no nvcc: install the CUDA toolkit, or set HOROVOD_CUDA_HOME" in told.stderr


@pytest.mark.slow
def test_horovod_was_built_with_gloo_for_tensorflow() -> None:
    told = run(BIN / "horovodrun", "--check-build")
    assert "[X] TensorFlow" in told.stdout
    assert told.stdout.count("[X] Gloo") == 2  # controller, operations


@pytest.mark.slow
def test_another_environment_takes_the_wheel_that_is_kept(tmp_path: Path) -> None:
    assert run(ROOT / "launch/install-horovod.sh", sys.executable).returncode == 0
    venv.create(tmp_path / "other", with_pip=True)
    (other,) = (tmp_path / "other").glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        built_here = package.name.startswith(("horovod", "disttrain_collective"))
        if not built_here and not (other / package.name).exists():
            (other / package.name).symlink_to(package)
    python = tmp_path / "other/bin/python"
    first = run(ROOT / "launch/install-horovod.sh", python)
    assert first.returncode == 0, first.stderr
    assert "Building" not in first.stdout
    assert "over Gloo" in first.stdout
    (library,) = (other / "horovod/tensorflow").glob("mpi_lib*.so")
    assert b"$ORIGIN/../../nvidia/nccl/lib" in library.read_bytes()  # where NCCL lies, in an environment for GPUs
    second = run(ROOT / "launch/install-horovod.sh", python)
    assert re.fullmatch(r"Horovod with .* is installed\nThe compiled all-reduce is installed\n", second.stdout)
    assert list(other.glob("disttrain_collective*.so"))


@pytest.mark.slow
def test_a_compiled_all_reduce_that_does_not_build_is_said_in_one_line_and_leaves_no_wheel(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    compiler.chmod(0o755)
    build = ROOT / "launch/collective/build.sh"
    ended = run(build, sys.executable, tmp_path / "wheels", CC=str(compiler), CXX=str(compiler))
    assert ended.returncode == 1
    assert "the compiled all-reduce did not build; gradients go through Horovod" in ended.stderr.splitlines()[-1]
    assert "no such luck" in (tmp_path / "wheels" / "build.log").read_text()
    assert not list((tmp_path / "wheels").glob("*.whl"))


@pytest.mark.slow
def test_a_failed_build_shows_the_logs_end_and_leaves_no_wheel(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit\necho no such luck >&2\nexit 1\n')
    compiler.chmod(0o755)
    ended = run(
        ROOT / "launch/install-horovod.sh",
        sys.executable,
        CXX=str(compiler),
        DISTTRAIN_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert ended.returncode == 1
    assert "Horovod did not build" in ended.stderr.splitlines()[-1]
    (log,) = (tmp_path / "cache").rglob("build.log")
    assert str(log) in ended.stderr.splitlines()[-1]
    assert "no such luck" in log.read_text()
    assert len(ended.stderr.splitlines()) < 30
    assert not list((tmp_path / "cache").rglob("*.whl"))
