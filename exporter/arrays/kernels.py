"""Compiled kernels where numba is installed and the work is worth loading it; numpy gives the same bits without.

numba keeps what it compiled on disk, pickled: a folder of the user's own that nobody else may write, else one that goes
with the process. Compiling takes some four seconds of a core, so only an export that gains that much does it by itself;
``load(WORTH_COMPILING)`` does it ahead, for a build machine that keeps ``~/.cache/edgepress/kernels``.
"""

import atexit
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.cache import cache_folder
from edgepress.errors import InputError

WORTH = 50_000_000  # weights that numpy rounds in the time in which numba is loaded, on one or two cores
# Compiling takes as long as it saves on 250 (AVX2) to 700 (AVX-512) million weights, and the next export saves it all.
WORTH_COMPILING = 400_000_000

_log = logging.getLogger("edgepress.export")
_lock = threading.Lock()


@dataclass(frozen=True)
class Kernels:
    """The functions of :mod:`.fused`."""

    search: Callable[..., bool]
    compare: Callable[..., None]
    pairwise: Callable[[int], NDArray[np.int64]]


@dataclass
class _Loaded:
    kernels: Kernels | None = None
    tried: bool = False


_loaded = _Loaded()


def loaded() -> Kernels | None:
    """The kernels if :func:`load` was called and could load them."""
    return _loaded.kernels


def load(weights: int) -> None:
    """Load the kernels if ``weights`` are to be rounded that make it worth while; what was compiled once is kept.

    One thread loads them; for others this returns at once, and until the kernels are there they use numpy.
    """
    if weights < WORTH or (weights < WORTH_COMPILING and not _is_compiled()) or not _lock.acquire(blocking=False):
        return
    try:
        if not _loaded.tried:
            _loaded.kernels = _import()
            _loaded.tried = True
    finally:
        _lock.release()


def _is_compiled() -> bool:
    """Whether the disk has what numba compiled of this version of :mod:`.fused`."""
    try:
        source = Path(__file__).with_name("fused.py").stat().st_mtime
        return any(index.stat().st_mtime >= source for index in cache_folder("kernels").rglob("fused.search*.nbi"))
    except (OSError, InputError):
        return False


def _import() -> Kernels | None:
    try:
        import numba

        numba.config.CACHE_DIR = str(folder := _cache())  # type: ignore[attr-defined] # numba makes it when loaded
        from edgepress.exporter.arrays import fused

        kernels = Kernels(fused.search, fused.compare, fused.pairwise)
        try:
            _try(kernels)
        except Exception as error:  # whatever unpickling half a file raises
            _log.info("%s is damaged (%s) and made anew", folder, error)
            shutil.rmtree(folder)
            folder.mkdir(mode=0o700)
            _try(kernels)
    except Exception as error:  # no numba for this Python, a full disk, a release of it that compiles this no more
        _log.info("rounding with numpy: %s", error)
        return None
    return kernels


def _try(found: Kernels) -> None:
    """Compile both, or read them from the disk, with the types that they are called with."""
    x, none = np.zeros((1, 32), np.float32), np.zeros(0, np.float32)
    values, scales, zeros = np.zeros((1, 16), np.uint8), np.zeros(1, np.float32), np.zeros(1, np.uint8)
    found.search(x, none, none, True, False, 4, values, scales, zeros)
    blocks = values[:, None], scales[:, None], zeros[:, None]
    found.compare(x, found.pairwise(32), *blocks, 4, scales, scales.copy(), scales.copy())


def _cache() -> Path:
    """A folder that is this user's alone."""
    try:
        folder = cache_folder("kernels")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(folder):
            return folder
    except (OSError, InputError):
        pass
    folder = Path(tempfile.mkdtemp(prefix="edgepress-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` is a directory, not a link, that this user owns and nobody else may write."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return False
    return not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)
