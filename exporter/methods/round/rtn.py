"""Round to nearest, with scale and zero point of each block searched to minimize its weighted squared error.

For codes q the best scale is the least-squares one, s = Σ w x q / Σ w q², which leaves the error
Σ w x² − (Σ w x q)² / Σ w q². So each candidate scale gives codes, the codes give the error in closed form, and the
candidate with the largest (Σ w x q)² / Σ w q² wins. The codes reach from −2^(bits−1) to 2^(bits−1) − 1, one step
further down than up, so a scale may be negative: the block's largest magnitude then takes the longer side whatever its
sign (llama.cpp's Q4_0 does the same). Asymmetric candidates are pairs of scale and zero point; the rest is the same.
With one scale a row the whole row is one block; with 4 or 8 bits that scale is positive, as accelerators ask for.

Measured, held-out bits per byte of the weights put back in transformers (stories260k | tiny1m; the 4-bit blocks are
32, then 64 | 128):

======================  =================  =====================  ================
error that is weighed   4 bits, block 32   4 bits, block 64|128   8 bits, block 32
======================  =================  =====================  ================
(fp32)                  0.9174 | 0.8370    0.9174 | 0.8370        0.9174 | 0.8370
absmax, no search       1.0313 | 0.9550    1.0586 | 1.0163        0.9178 | 0.8374
w = 1                   0.9872 | 0.8991    1.0154 | 0.9259        0.9177 | 0.8374
w = |x|                 0.9912 | 0.9053    1.0224 | 0.9369
w = √(mean x² + x²)     0.9899 | 0.8994    1.0245 | 0.9317
w = x²  (llama.cpp)     0.9949 | 0.9084    1.0242 | 0.9544
======================  =================  =====================  ================

So without an importance all columns are weighted alike. The five candidates for 4 bits reach, on these models' weights
and on normal, Laplace and t₄ samples, 0.02 dB less SQNR than a grid of 320 scales (block 32; 0.03 dB at block 128)
and 1.4 to 1.8 dB more than absmax rounding; one more candidate gives 0.002 to 0.007 dB for a tenth more time. Two
for 8 bits: 0.3 dB more than one (0.14 dB at block 128); five give 0.04 to 0.06 dB on top.

The other candidates were chosen greedily from a grid, on the same kinds of samples. Symmetric | asymmetric SQNR in dB,
and in brackets a grid of 60 scales (and every zero point) with the least-squares scale:

===========================  =================================  =================================
samples                      2 bits                             4 bits
===========================  =================================  =================================
normal, block 32             9.56 (9.58) | 9.57 (9.59)          21.76 (21.77) | 22.23 (22.29)
normal, block 128            8.75 (8.77) | 8.76 (8.76)          20.19 (20.23) | 20.33 (20.37)
t₄, block 32                 8.52 (8.52) | 8.56 (8.57)          19.00 (19.00) | 20.60 (20.63)
t₄, block 128                6.86 (6.93) | 6.92 (6.91)          15.61 (15.63) | 16.93 (16.98)
===========================  =================================  =================================

With 2 bits a zero point is hardly worth its bytes: −2 to 1 with a scale of either sign is what 1 and 2 as zero points
give, and only blocks (nearly) of one sign gain by 0 and 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.arrays import kernels
from edgepress.exporter.arrays.packing import Quantized, pack, pack_zero_points
from edgepress.exporter.arrays.scheme import Candidates, Scheme
from edgepress.exporter.methods.kinds import Method

Floats = NDArray[np.float32]

# Symmetric candidates: what the group's largest magnitude becomes, in steps, before rounding and clipping.
# −(2^(bits−1) − 1) is among them, which is plain absmax rounding, so the search is never worse than that.
_EXTREMES = {2: (-3.5, -3.0, -2.6, -2.2, 2.5, -1.0), 4: (-9.2, -8.7, -8.3, -7.8, -7.0), 8: (-128.0, -127.0)}
# A whole row has farther outliers, and it pays to clip more of them.
_ROW_EXTREMES = {
    2: (-9.75, -6.5, -4.25, -3.5, -2.4, 3.6, 5.1, -1.0),
    4: (-24.0, -16.5, -14.0, -11.5, -10.0, -8.7, -7.8, -7.0),
    8: (-132.0, -128.0, -127.0),
}
# Asymmetric candidates: the steps from the group's least to its greatest element, and what is added to the zero point
# before that is rounded. (2^bits − 1, 0) is among them, which is plain rounding between the two.
_SPANS = {
    2: ((6.4, 0.0), (5.4, -0.5), (5.0, 0.5), (4.2, 0.0), (3.4, 0.0), (3.0, 0.0)),
    4: ((16.5, 0.0), (15.75, 0.0), (15.0, 0.0), (14.25, 0.0)),
    8: ((255.0, 0.0), (253.5, 0.0)),
}
_ROW_SPANS = {
    2: ((18.5, 0.0), (11.0, 0.5), (9.5, -0.5), (6.5, 0.5), (6.5, -0.5), (4.5, 0.0), (3.0, 0.0)),
    4: ((34.0, -1.0), (24.0, 0.0), (22.0, 1.0), (20.0, 0.0), (17.0, 0.0), (15.0, 0.0)),
    8: ((260.0, 0.0), (255.0, 0.0)),
}
_ACCELERATED = (4, 8)  # bits of rows that accelerators take; they ask for scales above 0
_TILE = 1 << 18  # elements worked on at a time: smaller ones wait on Python, larger ones on memory
_STRIP = 256  # blocks transposed at a time, so that what is read stays in the first cache
_PLAIN = (2.0**-40, 2.0**40)  # block maxima in this range need no rescaling to keep sums and reciprocals finite
_LEAST_WEIGHT = np.float32(2.0**-20)  # of the block's largest
_TINY = np.float32(1e-30)  # below any Σ w q² but 0


@dataclass(frozen=True)
class Work:
    """Buffers for one tile; groups stand in columns so that every reduction is over whole rows of the array.

    Sums then run in the order of the group's elements, whatever the number of groups beside it: the same bits on any
    chunking, thread count or CPU.
    """

    x: Floats  # (group size, groups) weights
    q: Floats  # (group size, groups) codes − zero point
    t: Floats  # (group size, groups)

    @classmethod
    def of(cls, block_size: int, blocks: int) -> "Work":
        """Empty buffers."""
        return cls(*(np.empty((block_size, blocks), np.float32) for _ in range(3)))

    def first(self, blocks: int) -> "Work":
        """Contiguous buffers for fewer blocks, in the same memory."""
        size = len(self.x)
        return Work(*(a.reshape(-1)[: size * blocks].reshape(size, blocks) for a in (self.x, self.q, self.t)))


def quantize(rows: Floats, scheme: Scheme, importance: Floats | None) -> Quantized:
    """See :class:`~edgepress.exporter.methods.kinds.Method`."""
    compiled = kernels.loaded()
    if compiled is None or importance is not None:
        return _by_tiles(rows, scheme, importance)
    every, found = _groups(rows, scheme)
    if not compiled.search(every, _candidates(scheme), found.values, found.scales, found.zero_points):
        return _by_tiles(rows, scheme, importance)
    return found.of_rows(len(rows), rows.shape[1], scheme)


@cache
def _candidates(scheme: Scheme) -> Candidates:
    """What the search tries."""
    if scheme.symmetric:
        steps = (_ROW_EXTREMES if scheme.per_channel else _EXTREMES)[scheme.bits]
        return Candidates(scheme.bits, steps, aligned=scheme.per_channel and scheme.bits in _ACCELERATED)
    steps, shifts = zip(*(_ROW_SPANS if scheme.per_channel else _SPANS)[scheme.bits], strict=True)
    return Candidates(scheme.bits, steps, shifts)


@dataclass(frozen=True)
class _Found:
    """What is found for groups, before it is laid out as rows: (groups, …) each."""

    values: NDArray[np.uint8]
    scales: Floats
    zero_points: NDArray[np.uint8]

    def of_rows(self, rows: int, columns: int, scheme: Scheme) -> Quantized:
        """Groups that are rows: the scale and zero point of a row are stored for each of its blocks."""
        groups = len(self.scales) // rows if rows else 1
        each = scheme.blocks(columns) // groups
        zero_points = np.repeat(self.zero_points.reshape(rows, groups), each, axis=1)
        return Quantized(
            self.values.reshape(scheme.values_shape(rows, columns)),
            np.repeat(self.scales.reshape(rows, groups), each, axis=1),
            None if scheme.symmetric else pack_zero_points(zero_points, scheme.bits),
        )


def _groups(rows: Floats, scheme: Scheme) -> tuple[Floats, _Found]:
    """Cut rows into groups of one scale, blocks or whole rows, (groups, size), and make room for what is found."""
    blocks = scheme.blocks(rows.shape[1])
    groups, size = (1, blocks * scheme.block_size) if scheme.per_channel else (blocks, scheme.block_size)
    padding = groups * size - rows.shape[1]
    if padding:
        rows = np.pad(rows, ((0, 0), (0, padding)))
    every = np.ascontiguousarray(rows).reshape(-1, size)
    values = np.empty((len(every), size * scheme.bits // 8), np.uint8)
    return every, _Found(values, np.empty(len(every), np.float32), np.zeros(len(every), np.uint8))


def _by_tiles(rows: Floats, scheme: Scheme, importance: Floats | None) -> Quantized:
    """Quantize tiles of about ``_TILE`` elements of the rows' groups and pack them."""
    every, into = _groups(rows, scheme)
    size = every.shape[1]
    groups = len(every) // len(rows) if len(rows) else 1  # in a row
    weights = None if importance is None else _group_weights(importance, groups, size)  # (group size, groups)
    # numpy sums a lone column pairwise, not in order: every tile has two groups or more, the last one zeros if need be
    tile = max(2, min(_TILE // size, len(every)))
    work = Work.of(size, tile)
    for start in range(0, len(every), tile):
        stop = min(start + tile, len(every))
        used = work.first(max(2, stop - start))
        used.x[:, stop - start :] = 0
        for at in range(start, stop, _STRIP):
            strip = every[at : min(at + _STRIP, stop)]
            np.copyto(used.x[:, at - start : at - start + len(strip)], strip.T)
        w = None if weights is None else weights[:, np.arange(start, start + used.x.shape[1]) % groups]
        extreme, factor = _extremes(used.x)
        found, zeros = _search(used, extreme, w, scheme)
        if factor is not None:
            found = found / factor
        codes = used.q[:, : stop - start].astype(np.uint8)  # (group size, groups)
        into.values[start:stop] = pack(codes.T, scheme.bits)
        into.scales[start:stop] = found[: stop - start]
        if zeros is not None:
            into.zero_points[start:stop] = zeros[: stop - start]
    return into.of_rows(len(rows), rows.shape[1], scheme)


def _group_weights(importance: Floats, groups: int, size: int) -> Floats:
    """Importance relative to the largest of its group, (group size, groups); all alike where it is 0 throughout."""
    padded = np.zeros(groups * size, np.float32)
    padded[: len(importance)] = importance
    weights = padded.reshape(groups, size)
    top = weights.max(axis=1, keepdims=True)  # (groups, 1)
    weights = np.divide(weights, top, out=np.ones_like(weights), where=top > 0)
    return np.ascontiguousarray(np.maximum(weights, _LEAST_WEIGHT).T)


def _search(work: Work, extreme: Floats, w: Floats | None, scheme: Scheme) -> tuple[Floats, Floats | None]:
    """Leave the codes of ``work.x`` in ``work.q``; return scales and, unless symmetric, zero points, (groups,).

    ``extreme`` is each group's element of largest magnitude, ∞ for a group of zeros, whose codes and sums are then 0.
    """
    candidates = _symmetric(extreme, scheme) if scheme.symmetric else _asymmetric(work.x, scheme)
    xq, qq, scale, gain = (np.empty_like(extreme) for _ in range(4))  # (groups,)
    best_gain, best_scale = np.full_like(extreme, -1), np.zeros_like(extreme)
    middle, top = np.float32(scheme.zero_point), np.float32((1 << scheme.bits) - 1)
    best_zero = None if scheme.symmetric else np.zeros_like(extreme)
    for inverse, zero in candidates:
        low = middle if zero is None else zero
        _round(work, inverse, -low, top - low)
        _sums(work, w, xq, qq)
        np.divide(xq, np.maximum(qq, _TINY, out=qq), out=scale)
        np.multiply(scale, xq, out=gain)
        better = gain > best_gain
        best_scale = np.where(better, scale, best_scale)
        if zero is not None and best_zero is not None:
            best_zero = np.where(better, zero, best_zero)
        np.maximum(gain, best_gain, out=best_gain)
    # The codes nearest for the best scale, and the scale best for those codes.
    low = middle if best_zero is None else best_zero
    inverse = np.divide(np.float32(1), np.where(best_scale == 0, np.float32(np.inf), best_scale))
    _round(work, inverse, -low, top - low)
    _sums(work, w, xq, qq)
    np.divide(xq, np.maximum(qq, _TINY, out=qq), out=scale)
    np.add(work.q, low, out=work.q)
    return scale, best_zero


def _symmetric(extreme: Floats, scheme: Scheme) -> Iterator[tuple[Floats, None]]:
    """Candidates: 1 / scale, (groups,)."""
    inverse = np.empty_like(extreme)
    largest = -np.abs(extreme) if _candidates(scheme).aligned else extreme
    for step in _candidates(scheme).steps:
        yield np.divide(np.float32(step), largest, out=inverse), None


def _asymmetric(x: Floats, scheme: Scheme) -> Iterator[tuple[Floats, Floats]]:
    """Candidates: 1 / scale and zero point, (groups,) each. The range holds 0, as a zero point is among the codes."""
    low, high = np.minimum(x.min(axis=0), 0), np.maximum(x.max(axis=0), 0)
    span = np.where(high > low, high - low, np.float32(np.inf)).astype(np.float32)  # (groups,)
    top = np.float32((1 << scheme.bits) - 1)
    centre = -low / span  # (groups,), from 0 to 1
    tried = _candidates(scheme)
    for steps, shift in zip(tried.steps, tried.shifts, strict=True):
        yield np.float32(steps) / span, np.clip(np.rint(centre * top + np.float32(shift)), np.float32(0), top)


def _extremes(x: Floats) -> tuple[Floats, Floats | None]:
    """Return each group's element of largest magnitude, ∞ where all are 0.

    Groups too large or too small for float32 sums are first multiplied by a power of two, in place; then the factors
    are returned too.
    """
    top, bottom = x.max(axis=0), x.min(axis=0)
    extreme = np.where(top > -bottom, top, bottom)
    size = np.abs(extreme)
    odd = (size != 0) & ((size < _PLAIN[0]) | (size > _PLAIN[1]))
    factor = None
    if odd.any():
        exponent = np.clip(np.frexp(extreme)[1], -120, 120)
        factor = np.where(odd, np.ldexp(np.float32(1), -exponent), np.float32(1)).astype(np.float32)
        np.multiply(x, factor, out=x)
        np.multiply(extreme, factor, out=extreme)
    return np.where(extreme == 0, np.float32(np.inf), extreme), factor


def _round(work: Work, inverse: Floats, low: Floats | np.float32, high: Floats | np.float32) -> None:
    """Put codes − zero point, from ``low`` to ``high``, in ``work.q``."""
    np.multiply(work.x, inverse, out=work.q)
    np.rint(work.q, out=work.q)
    if isinstance(low, np.ndarray):  # np.clip takes four times as long for these
        np.maximum(work.q, low, out=work.q)
        np.minimum(work.q, high, out=work.q)
    else:
        np.clip(work.q, low, high, out=work.q)


def _sums(work: Work, w: Floats | None, xq: Floats, qq: Floats) -> None:
    """Put Σ w x q and Σ w q² of each group in ``xq`` and ``qq``, (groups,)."""
    np.multiply(work.x, work.q, out=work.t)
    if w is not None:
        np.multiply(work.t, w, out=work.t)
    np.add.reduce(work.t, axis=0, out=xq)
    np.square(work.q, out=work.t)
    if w is not None:
        np.multiply(work.t, w, out=work.t)
    np.add.reduce(work.t, axis=0, out=qq)


METHOD = Method("rtn", quantize)
