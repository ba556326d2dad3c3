"""Scales under which a QDQ model's 8-bit sums are the same numbers on every CPU.

onnxruntime's QLinearAdd adds ``a · (sA / sC) + b · (sB / sC)`` in float32 on x86, rounding ties to even, and in
integers on ARM, with ratios of 22 bits and ties away from zero (its mlas/lib/qladd.cpp). With scales as calibration
finds them the two differ now and then, and a network multiplies the difference. Where both ratios are multiples of 2⁻¹³
below 2, either way is exact (every partial sum is a multiple of 2⁻¹³ below 2¹¹: 24 bits); and where no pair of codes
makes a tie, they are equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgepress.exporter.arrays.ranges import to_scale
from edgepress.exporter.graph.qdq.calibrate import Ranges
from edgepress.exporter.graph.qdq.graph import FloatModel

GRID = 8192
_LARGEST = 2 * GRID
_TRIED = 64  # of what: a sum's scale grows by at most 1 / 64, an input's by 1 / 64 of the sum's
_TOP = 255


@dataclass(frozen=True)
class _Codes:
    """Scale and zero point of 8-bit codes; ``low`` is the least value that they must reach."""

    scale: np.float32
    low: float

    @property
    def zero(self) -> int:
        return int(np.clip(np.rint(-self.low / self.scale), 0, _TOP))

    @property
    def range(self) -> tuple[float, float]:
        return -self.zero * float(self.scale), (_TOP - self.zero) * float(self.scale)


def exact_sums(model: FloatModel, ranges: Ranges) -> Ranges:
    """Widen ranges, by less than two percent of a sum's, so that sums are exact and without ties; return all ranges.

    From the first sum to the last: what comes in from an earlier sum keeps its scale, the sum's own follows from that,
    and the other input's from the sum's. A sum of two earlier sums stays as it is.
    """
    wanted = {model.ties.of(name): _Codes(to_scale(*bounds, 8)[0], bounds[0]) for name, bounds in ranges.items()}
    settled: dict[str, _Codes] = {}
    for first, second, total in _sums(model, ranges):
        if total in settled or len({first, second, total}) < 3 or {first, second} <= set(settled):
            continue
        kept, free = (second, first) if second in settled else (first, second)
        base = settled.get(kept, wanted[kept])
        found = _exact(base, wanted[free], wanted[total])
        if found is not None:
            settled[kept] = base
            settled[free], settled[total] = found
    return ranges | {name: settled[model.ties.of(name)].range for name in ranges if model.ties.of(name) in settled}


def _sums(model: FloatModel, ranges: Ranges) -> Iterator[tuple[str, str, str]]:
    """Both inputs and the output of every sum of two activations, each by the value that it is tied to.

    A Relu that alone reads a sum disappears into the sum's integers, so its output counts as the sum. A Clip does too,
    and must not be widened.
    """
    for node in model.nodes:
        if node.op_type != "Add" or any(name not in ranges for name in (*node.input, *node.output)):
            continue
        total = node.output[0]
        readers = model.readers.get(total, ())
        if len(readers) == 1 and total not in model.outputs:
            if readers[0].op_type == "Clip":
                continue
            if readers[0].op_type == "Relu":
                total = readers[0].output[0]
        if not set(node.input) & set(model.constants):
            yield model.ties.of(node.input[0]), model.ties.of(node.input[1]), model.ties.of(total)


def _exact(base: _Codes, free: _Codes, total: _Codes) -> tuple[_Codes, _Codes] | None:
    """Codes of the free input and of the sum, for an input that has those of ``base``; None when there are none."""
    most = int(np.floor(float(base.scale) / float(total.scale) * GRID))
    for first in range(min(most, _LARGEST), max(most - most // _TRIED - 1, 0), -1):
        for whole in _around(float(base.scale) * GRID / first):
            if base.scale / whole == np.float32(first / GRID):
                other = _exact_other(first, base, free, _Codes(whole, total.low))
                if other is not None:
                    return other, _Codes(whole, total.low)
                break
    return None


def _exact_other(first: int, base: _Codes, free: _Codes, total: _Codes) -> _Codes | None:
    """Codes of the free input when ``base`` is ``first / GRID`` of the sum's."""
    least = int(np.ceil(float(free.scale) / float(total.scale) * GRID))
    for second in range(max(least, 1), min(least + GRID // _TRIED, _LARGEST)):
        for scale in _around(float(total.scale) * second / GRID):
            if scale / total.scale == np.float32(second / GRID):
                other = _Codes(scale, free.low)
                if not has_ties(first, second, base.zero, other.zero, total.zero):
                    return other
                break
    return None


def _around(value: float) -> tuple[np.float32, ...]:
    """The nearest float32 and its neighbours."""
    nearest = np.float32(value)
    return nearest, np.nextafter(nearest, np.float32(np.inf)), np.nextafter(nearest, np.float32(0))


def has_ties(first: int, second: int, zero_first: int, zero_second: int, zero_total: int) -> bool:
    """Whether codes exist whose sum, in steps of the total's scale, lies halfway between two codes of the total.

    ``first`` and ``second`` are the ratios of scales in units of 1 / GRID.
    """
    codes = np.arange(_TOP + 1, dtype=np.int32)
    sums = (codes - zero_first)[:, None] * np.int32(first) + (codes - zero_second) * np.int32(second)  # (256, 256)
    halves = (sums & (GRID - 1)) == GRID // 2
    seen = (sums >= -zero_total * GRID) & (sums <= (_TOP - zero_total) * GRID)  # beyond, all is clipped
    return bool((halves & seen).any())
