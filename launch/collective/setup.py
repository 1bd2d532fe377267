"""Builds the libraries against the TensorFlow of this environment, which is not imported.

The one for GPUs is built where HOROVOD_NCCL_HOME and HOROVOD_CUDA_HOME say where NCCL and CUDA are.
"""

import importlib.util
import os
from pathlib import Path

from setuptools import Extension, setup

TENSORFLOW = Path(importlib.util.find_spec("tensorflow").origin).parent


def library(name, source, homes=(), files=(), places=()):
    """Describes one library, which finds TensorFlow and others beside it where both are installed."""
    rpaths = ",".join(f"-rpath,$ORIGIN/{place}" for place in ("tensorflow", *places))
    return Extension(
        name,
        [source],
        include_dirs=[str(TENSORFLOW / "include"), *(str(home / "include") for home in homes)],
        extra_compile_args=["-std=c++17", "-O3", "-g0"],
        extra_link_args=[
            *(f"-L{folder}" for folder in (TENSORFLOW, *(home / "lib" for home in homes))),
            *(f"-l:{file}" for file in ("libtensorflow_cc.so.2", *files)),
            f"-Wl,{rpaths}",
        ],
    )


modules = [library("disttrain_collective", "collective.cc")]
homes = [Path(os.environ[name]) for name in ("HOROVOD_NCCL_HOME", "HOROVOD_CUDA_HOME") if os.environ.get(name)]
if len(homes) == 2:
    modules.append(library("disttrain_collective_nccl", "nccl.cc", homes, ["libnccl.so.2"], ["nvidia/nccl/lib"]))
setup(ext_modules=modules, py_modules=[])
