"""What the tests of launchers share: whether MPI is there, and an environment without what launchers set."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from command import ROOT

LAUNCH = ROOT / "launch"
SETTINGS = (
    "DISTTRAIN_",
    "SLURM_",
    "PBS_",
    "LSB_",
    "CUDA_",
    "XLA_",
    "OMPI_",
    "HOROVOD_",
    "NCCL_",
    "AWS_",
    "GOOGLE_",
    "AZURE_",
    "TF_",
    "LD_LIBRARY_PATH",
)
MPI_LIBRARIES = Path(sys.executable).parent.parent.glob("lib/python*/site-packages/horovod/tensorflow/mpi_lib*.so")
HAS_MPI = shutil.which("mpirun") is not None and any(b"libmpi" in path.read_bytes() for path in MPI_LIBRARIES)
needs_mpi = pytest.mark.skipif(not HAS_MPI, reason="Horovod was built without MPI")


def clean(directory, **settings):
    """Returns this environment without what launchers and schedulers set, with a test's programs first in PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    path = f"{directory / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": path, "PYTHON": sys.executable, "PYTHONPATH": ""} | settings
