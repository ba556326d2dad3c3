"""Compiled kernels where llvmlite is installed and the work is worth loading it; numpy gives the same bits without."""

import logging
import sys
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.arrays.scheme import Candidates

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

# Weights: numpy rounds so many in half a second to more than one, LLVM in a tenth, and its library takes 70 MB.
WORTH = 50_000_000

_log = logging.getLogger("edgepress.export")
_lock = threading.Lock()


class Kernels:
    """What :mod:`.fused` writes, compiled when it is first asked for."""

    def __init__(self) -> None:
        """Load LLVM.

        Raises:
            ImportError: it is not installed.
            OSError: its library cannot be loaded.

        """
        from edgepress.exporter.arrays import fused

        self._fused = fused
        self._lock = threading.Lock()
        self._compiled: dict[Hashable, Callable[..., None] | None] = {}

    def search(self, every: Floats, candidates: Candidates, values: Codes, scales: Floats, zeros: Codes) -> bool:
        """Quantize groups, ``every`` (groups, size), all of whose elements weigh the same.

        Fills ``values`` (groups, size · bits / 8), ``scales`` and ``zeros`` (groups,). Returns False, with nothing done
        that counts, where numpy has to do it: a group is so large or small that it must be rescaled first.
        """
        run = self._get(self._fused.search, candidates)
        groups, size = every.shape
        if run is None or not every.size or size * candidates.bits % 32:
            return False
        x = np.zeros((size, self._fused.LANES), np.float32)
        packed = np.zeros((size * candidates.bits // 32, self._fused.LANES), np.uint32)
        plain = np.zeros(1, np.uint8)
        run(groups, size, np.ascontiguousarray(every), x, packed, values.view(np.uint32), scales, zeros, plain)
        return bool(plain[0])

    def compare(self, x: Floats, values: Codes, scales: Floats, zeros: Codes, bits: int) -> tuple[Floats, ...] | None:
        """Σ x², Σ (x − x̂)² and the largest |x − x̂| of each row of ``x`` (rows, columns), (rows,) each.

        ``values`` are (rows, blocks, bytes in a block), ``scales`` and ``zeros``, not packed, (rows, blocks). None
        where numpy has to do it.
        """
        (rows, columns), sums = x.shape, self._fused.SUMS
        run = self._get(self._fused.compare, bits, values.shape[2] * 8 // bits)
        if run is None or not x.size or columns % sums:
            return None
        cuts = _pairwise(columns)
        power, noise = (np.empty((len(cuts) - 1, rows), np.float32) for _ in range(2))
        largest = np.empty((rows, sums), np.float32)
        codes = values.reshape(rows, -1).view(f"u{bits}")
        given = (np.array(cuts), *map(np.ascontiguousarray, (x, codes, scales, zeros)))
        run(rows, columns, scales.shape[1], len(cuts) - 1, *given, power, noise, largest)
        return _add_pairwise(power, cuts), _add_pairwise(noise, cuts), largest.max(axis=1)

    def _get(self, write: Callable[..., Callable[..., None]], *of: Hashable) -> Callable[..., None] | None:
        """What ``write`` compiles of these; None where that fails."""
        with self._lock:
            if (write, *of) not in self._compiled:
                try:
                    self._compiled[write, *of] = write(*of)
                except Exception as error:  # a release of LLVM that compiles this no more, pages that may not be run
                    _log.info("rounding with numpy: %s", error)
                    self._compiled[write, *of] = None
            return self._compiled[write, *of]


def _half(start: int, stop: int) -> int | None:
    """Where numpy cuts a contiguous sum in two; None where it does not."""
    half = (stop - start) // 2
    return start + half - half % 8 if stop - start > 128 else None


def _pairwise(count: int, start: int = 0) -> list[int]:
    """Where the pieces of ``count`` numbers begin that numpy adds up without halving, and where the last one ends."""
    half = _half(start, count)
    return [start, count] if half is None else [*_pairwise(half, start)[:-1], *_pairwise(count, half)]


def _add_pairwise(sums: Floats, cuts: list[int]) -> Floats:
    """Add the sums of pieces, (pieces, rows), in numpy's order."""
    half = _half(cuts[0], cuts[-1])
    if half is None:
        return np.asarray(sums[0], np.float32)
    at = cuts.index(half)
    return _add_pairwise(sums[:at], cuts[: at + 1]) + _add_pairwise(sums[at:], cuts[at:])


@dataclass
class _Loaded:
    kernels: Kernels | None = None
    tried: bool = False


_loaded = _Loaded()


def loaded() -> Kernels | None:
    """The kernels if :func:`load` was called and could load them."""
    return _loaded.kernels


def load(weights: int) -> None:
    """Load the compiler if ``weights`` are to be rounded that make it worth while.

    One thread loads it; for others this returns at once, and until the kernels are there they use numpy.
    """
    if weights < WORTH or sys.byteorder != "little" or not _lock.acquire(blocking=False):
        return
    try:
        if not _loaded.tried:
            _loaded.tried = True
            _loaded.kernels = Kernels()
    except (ImportError, OSError) as error:
        _log.info("rounding with numpy: %s", error)
    finally:
        _lock.release()
