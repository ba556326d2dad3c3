"""Round to nearest, with the scale of each block searched to minimize its weighted squared error.

For codes q the best scale is the least-squares one, s = Σ w x q / Σ w q², which leaves the error
Σ w x² − (Σ w x q)² / Σ w q². So each candidate scale gives codes, the codes give the error in closed form, and the
candidate with the largest (Σ w x q)² / Σ w q² wins. The codes reach from −2^(bits−1) to 2^(bits−1) − 1, one step
further down than up, so a scale may be negative: the block's largest magnitude then takes the longer side whatever its
sign (llama.cpp's Q4_0 does the same).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.compress import Method, Quantized
from edgepress.exporter.compress.packing import pack
from edgepress.exporter.scheme import Scheme

Floats = NDArray[np.float32]

# Codes that the block's largest magnitude may take, before rounding: the candidates.
_EXTREMES = {
    4: (-8.0, -7.6, -7.2, -8.4, -8.8, -9.2, 7.0, 7.4),
    8: (-128.0,),
}
_TILE = 1 << 16  # elements worked on at a time: three float32 arrays of them stay in cache
_PLAIN = (2.0**-60, 2.0**60)  # block maxima in this range need no rescaling to keep sums and reciprocals finite


@dataclass(frozen=True)
class _Work:
    """Buffers for one tile; blocks stand in columns so that every reduction is over whole rows of the array.

    Sums then run in the order of the block's elements, whatever the number of blocks beside it: the same bits on any
    chunking, thread count or CPU.
    """

    x: Floats  # (block size, blocks) weights
    q: Floats  # (block size, blocks) codes − zero point
    t: Floats  # (block size, blocks)

    @classmethod
    def of(cls, block_size: int, blocks: int) -> "_Work":
        return cls(*(np.empty((block_size, blocks), np.float32) for _ in range(3)))

    def first(self, blocks: int) -> "_Work":
        """Contiguous buffers for fewer blocks, in the same memory."""
        size = len(self.x)
        return _Work(*(a.reshape(-1)[: size * blocks].reshape(size, blocks) for a in (self.x, self.q, self.t)))


def quantize(rows: Floats, scheme: Scheme, importance: Floats | None) -> Quantized:
    """See :class:`~edgepress.exporter.compress.Method`."""
    size, blocks = scheme.block_size, scheme.blocks(rows.shape[1])
    padding = blocks * size - rows.shape[1]
    if padding:
        rows = np.pad(rows, ((0, 0), (0, padding)))
    every = rows.reshape(-1, size)  # (rows · blocks, block size)
    values = np.empty((len(every), size * scheme.bits // 8), np.uint8)
    scales = np.empty(len(every), np.float32)
    weights = None if importance is None else _block_weights(importance, blocks, size)  # (block size, blocks)
    # numpy sums a lone column pairwise, not in order: every tile has two blocks or more, the last one zeros if need be
    tile = max(2, min(_TILE // size, len(every)))
    work = _Work.of(size, tile)
    for start in range(0, len(every), tile):
        stop = min(start + tile, len(every))
        used = work.first(max(2, stop - start))
        used.x[:, stop - start :] = 0
        np.copyto(used.x[:, : stop - start], every[start:stop].T)
        w = None if weights is None else weights[:, np.arange(start, start + used.x.shape[1]) % blocks]
        found = _quantize_tile(used, w, scheme)
        codes = used.q[:, : stop - start].astype(np.uint8)  # (block size, blocks)
        values[start:stop] = pack(codes.T, scheme.bits)
        scales[start:stop] = found[: stop - start]
    return Quantized(values.reshape(scheme.values_shape(len(rows), rows.shape[1])), scales.reshape(-1, blocks))


def _block_weights(importance: Floats, blocks: int, size: int) -> Floats:
    """Importance relative to the largest, (block size, blocks); 0 for padding."""
    padded = np.zeros(blocks * size, np.float32)
    top = importance.max()
    padded[: len(importance)] = importance / top if top > 0 else 1
    return np.ascontiguousarray(padded.reshape(blocks, size).T)


def _quantize_tile(work: _Work, w: Floats | None, scheme: Scheme) -> Floats:
    """Leave the codes of ``work.x`` in ``work.q`` and return the scales, (blocks,)."""
    factor = _rescale(work.x)
    top, bottom = work.x.max(axis=0), work.x.min(axis=0)
    extreme = np.where(top > -bottom, top, bottom)  # (blocks,)
    codes = np.array(_EXTREMES[scheme.bits], np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverses = np.where(extreme == 0, np.float32(0), codes[:, None] / extreme)  # (candidates, blocks)
    xq, qq = np.empty_like(inverses), np.empty_like(inverses)
    for candidate, inverse in enumerate(inverses):
        _round(work, inverse, scheme.zero_point)
        _sums(work, w, xq[candidate], qq[candidate])
    gain = xq * xq / np.maximum(qq, np.float32(1e-30))
    best = gain.argmax(axis=0)[None, :]
    scale = _quotient(np.take_along_axis(xq, best, 0)[0], np.take_along_axis(qq, best, 0)[0])
    # The codes nearest for that scale, and the scale best for those codes.
    _round(work, _quotient(np.ones_like(scale), scale), scheme.zero_point)
    _sums(work, w, xq[0], qq[0])
    scale = _quotient(xq[0], qq[0])
    np.add(work.q, np.float32(scheme.zero_point), out=work.q)
    return scale if factor is None else scale / factor


def _rescale(x: Floats) -> Floats | None:
    """Multiply blocks with extreme magnitudes by a power of two, in place; return the factors, None when none."""
    top = np.maximum(x.max(axis=0), -x.min(axis=0))  # (blocks,)
    odd = (top != 0) & ((top < _PLAIN[0]) | (top > _PLAIN[1]))
    if not odd.any():
        return None
    exponent = np.clip(np.frexp(top)[1], -120, 120)
    factor = np.where(odd, np.ldexp(np.float32(1), -exponent), np.float32(1)).astype(np.float32)
    np.multiply(x, factor, out=x)
    return factor


def _quotient(a: Floats, b: Floats) -> Floats:
    """``a / b``, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def _round(work: _Work, inverse: Floats, zero_point: int) -> None:
    """Put codes − zero point in ``work.q``."""
    np.multiply(work.x, inverse, out=work.q)
    np.rint(work.q, out=work.q)
    np.clip(work.q, np.float32(-zero_point), np.float32(zero_point - 1), out=work.q)


def _sums(work: _Work, w: Floats | None, xq: Floats, qq: Floats) -> None:
    """Put Σ w x q and Σ w q² of each block in ``xq`` and ``qq``, (blocks,)."""
    for factor, out in ((work.x, xq), (work.q, qq)):
        np.multiply(factor, work.q, out=work.t)
        if w is not None:
            np.multiply(work.t, w, out=work.t)
        np.add.reduce(work.t, axis=0, out=out)


METHOD = Method("rtn", quantize)
