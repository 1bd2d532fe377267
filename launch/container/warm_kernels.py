"""Lets numba use the kernels that were compiled when the image was built, where nothing can be written.

Numba itself passes over a cache that it cannot write to. In the image NUMBA_CACHE_LOCATOR_CLASSES names this class,
and after it numba's own for the user's cache, which serves what is not in the image: another processor, your model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core import registry
from numba.core.caching import IndexDataCacheFile, InTreeCacheLocator


class KernelsOfTheImage(InTreeCacheLocator):
    """The cache beside a module, if it holds a function compiled for this processor from this very source."""

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> KernelsOfTheImage | None:
        """The cache of a function, or None for numba to ask the next class."""
        locator = cls(py_func, py_file)
        cache = Path(locator.get_cache_path())
        processor = registry.cpu_target.target_context.codegen().magic_tuple()
        version = "py{}{}".format(*sys.version_info[:2])
        for path in cache.glob(f"{Path(py_file).stem}.*-{locator.get_disambiguator()}.{version}*.nbi"):
            overloads = IndexDataCacheFile(str(cache), path.stem, locator.get_source_stamp())._load_index()
            if any(key[1] == processor for key in overloads):
                return locator
        return None
