"""The scale search and the comparison of what was stored, each in one pass over weights: compiled by numba.

The same arithmetic as :mod:`.compress.rtn`, :mod:`.compress.packing` and :mod:`.stream` in numpy, operation by
operation and in the same order, so the bits are theirs: groups stand side by side in the lanes of a vector and sums run
along a group's elements; nothing is contracted to multiply-adds. numpy's arrays go through memory some 45 times on the
way, here a strip of groups stays in the first cache. :mod:`.kernels` decides whether this is loaded at all.
"""

import math
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

_STRIP = 1 << 12  # elements in the first cache; at least one vector of groups beside each other
_LANES = 16
_TINY = np.float32(1e-30)  # as in rtn: below any Σ q² but 0
_LEAST, _MOST = np.float32(2.0**-40), np.float32(2.0**40)  # rtn's _PLAIN
_ZERO, _HALF, _ONE, _INFINITY = np.float32(0), np.float32(0.5), np.float32(1), np.float32(np.inf)
_PAIRWISE = 128  # elements that numpy adds up with eight accumulators before it halves

jit = njit(nogil=True, cache=True, error_model="numpy")


@cache
def pairwise(count: int) -> NDArray[np.int64]:
    """How numpy adds up ``count`` contiguous numbers: halves, down to pieces of at most ``_PAIRWISE``.

    One row a piece: its start, its count, and how many sums are then added to the one before them. (A recursive kernel
    would say it without; numba crashes when it reads one back from its cache.)
    """
    pieces: list[list[int]] = []

    def cut(start: int, count: int, merges: int) -> None:
        if count <= _PAIRWISE:
            pieces.append([start, count, merges])
            return
        half = count // 2
        half -= half % 8
        cut(start, half, 0)
        cut(start + half, count - half, merges + 1)

    cut(0, count, 0)
    return np.array(pieces, np.int64)


@jit
def _fit(x, inverse, low, high, q, xq, qq):
    """Leave codes − zero point in ``q`` (size, groups), Σ x q and Σ q² in ``xq`` and ``qq`` (groups,)."""
    for i in range(x.shape[0]):
        for g in range(x.shape[1]):
            code = np.rint(x[i, g] * inverse[g])
            code = low[g] if code < low[g] else code
            code = high[g] if code > high[g] else code
            q[i, g] = code
            a, b = x[i, g] * code, code * code
            xq[g] = a if i == 0 else xq[g] + a
            qq[g] = b if i == 0 else qq[g] + b
    for g in range(x.shape[1]):
        qq[g] = qq[g] if qq[g] > _TINY else _TINY


@jit
def _extremes(x, least, greatest, extreme, factor):
    """As rtn's function of this name; ``x`` is rescaled in place, by ``factor``, which is 1 otherwise."""
    for g in range(x.shape[1]):
        least[g] = greatest[g] = x[0, g]
    for i in range(1, x.shape[0]):
        for g in range(x.shape[1]):
            least[g] = x[i, g] if x[i, g] < least[g] else least[g]
            greatest[g] = x[i, g] if x[i, g] > greatest[g] else greatest[g]
    for g in range(x.shape[1]):
        extreme[g] = greatest[g] if greatest[g] > -least[g] else least[g]
        size = abs(extreme[g])
        factor[g] = _ONE
        if size != 0 and (size < _LEAST or size > _MOST):
            factor[g] = np.float32(math.ldexp(1.0, -min(max(math.frexp(extreme[g])[1], -120), 120)))
            for i in range(x.shape[0]):
                x[i, g] *= factor[g]
            extreme[g] *= factor[g]
            least[g] *= factor[g]
            greatest[g] *= factor[g]
        extreme[g] = _INFINITY if extreme[g] == 0 else extreme[g]


@jit
def _candidate(step, shift, symmetric, aligned, top, of_groups):
    """Put one candidate's 1 / scale, and its least and greatest code − zero point, into their rows of ``of_groups``."""
    least, greatest, extreme = of_groups[0], of_groups[1], of_groups[2]
    inverse, low, high = of_groups[7], of_groups[8], of_groups[9]
    for g in range(of_groups.shape[1]):
        if symmetric:
            inverse[g] = step / (-abs(extreme[g]) if aligned else extreme[g])
            low[g] = -np.float32((top + _ONE) * _HALF)
        else:
            bottom = min(least[g], _ZERO)
            span = max(greatest[g], _ZERO) - bottom
            span = span if span > 0 else _INFINITY
            inverse[g] = step / span
            low[g] = -min(max(np.rint(-bottom / span * top + shift), _ZERO), top)
        high[g] = top + low[g]


@jit
def _pack(codes, bits, values):
    """Codes (size, groups) as bytes in ``values`` (groups, size · bits / 8), as packing.pack lays them out."""
    for g in range(values.shape[0]):
        for j in range(values.shape[1]):
            if bits == 4:
                values[g, j] = codes[2 * j, g] | codes[2 * j + 1, g] << np.uint8(4)
            elif bits == 2:
                low = codes[4 * j, g] | codes[4 * j + 1, g] << np.uint8(2)
                high = codes[4 * j + 2, g] | codes[4 * j + 3, g] << np.uint8(2)
                values[g, j] = low | high << np.uint8(4)
            else:
                values[g, j] = codes[j, g]


@jit
def _unpack(values, bits, codes):
    """Bytes (n,) as codes (n · 8 / bits,)."""
    if bits == 4:
        for j in range(len(values)):
            codes[2 * j], codes[2 * j + 1] = values[j] & np.uint8(15), values[j] >> np.uint8(4)
    elif bits == 2:
        for j in range(len(values)):
            for k in range(4):
                codes[4 * j + k] = (values[j] >> np.uint8(2 * k)) & np.uint8(3)
    else:
        codes[:] = values


@jit
def search(every, steps, shifts, symmetric, aligned, bits, values, scales, zero_points):
    """Quantize groups, ``every`` (groups, size) of float32, all of whose elements weigh the same.

    ``steps`` are rtn's candidates, ``shifts`` what goes with each of the asymmetric ones; ``aligned`` asks for scales
    above 0. Fills ``values`` (groups, size · bits / 8), ``scales`` and ``zero_points`` (groups,).
    """
    groups, size = every.shape
    lanes = max(_LANES, _STRIP // size)
    x, q = np.empty((size, lanes), np.float32), np.empty((size, lanes), np.float32)
    codes = np.empty((size, lanes), np.uint8)
    of_groups = np.empty((12, lanes), np.float32)
    least, greatest, extreme, factor = of_groups[0], of_groups[1], of_groups[2], of_groups[3]
    scale, zero, gain, inverse = of_groups[4], of_groups[5], of_groups[6], of_groups[7]
    low, high, xq, qq = of_groups[8], of_groups[9], of_groups[10], of_groups[11]
    top = np.float32((1 << bits) - 1)
    for start in range(0, groups, lanes):
        count = min(lanes, groups - start)
        if count < lanes:
            x[:] = _ZERO
        for g in range(count):
            for i in range(size):
                x[i, g] = every[start + g, i]
        _extremes(x, least, greatest, extreme, factor)
        gain[:], scale[:], zero[:] = -_ONE, _ZERO, _ZERO
        for candidate in range(len(steps)):
            _candidate(steps[candidate], shifts[candidate], symmetric, aligned, top, of_groups)
            _fit(x, inverse, low, high, q, xq, qq)
            for g in range(lanes):
                found = xq[g] / qq[g]
                better = found * xq[g] > gain[g]
                gain[g] = found * xq[g] if better else gain[g]
                scale[g] = found if better else scale[g]
                zero[g] = -low[g] if better else zero[g]
        # The codes nearest for the best scale, and the scale best for those codes.
        for g in range(lanes):
            inverse[g] = _ONE / (_INFINITY if scale[g] == 0 else scale[g])
            low[g] = -zero[g]
            high[g] = top - zero[g]
        _fit(x, inverse, low, high, q, xq, qq)
        for i in range(size):
            for g in range(lanes):
                codes[i, g] = np.uint8(q[i, g] + zero[g])
        _pack(codes, bits, values[start : start + count])
        for g in range(count):
            scales[start + g] = xq[g] / qq[g] / factor[g]
            zero_points[start + g] = np.uint8(zero[g])


@jit
def _sum_piece(x, start, count):
    """Σ x in numpy's order for at most ``_PAIRWISE`` elements: eight accumulators."""
    total = _ZERO
    whole = count - count % 8
    if count >= 8:
        a, b, c, d = x[start], x[start + 1], x[start + 2], x[start + 3]
        e, f, g, h = x[start + 4], x[start + 5], x[start + 6], x[start + 7]
        for i in range(start + 8, start + whole, 8):
            a, b, c, d = a + x[i], b + x[i + 1], c + x[i + 2], d + x[i + 3]
            e, f, g, h = e + x[i + 4], f + x[i + 5], g + x[i + 6], h + x[i + 7]
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(start + whole, start + count):
        total += x[i]
    return total


@jit
def _sum(x, pieces, stack):
    """Σ x in numpy's order: ``pieces`` are those of :func:`pairwise`, ``stack`` is room for one sum a piece."""
    depth = 0
    for piece in range(len(pieces)):
        stack[depth] = _sum_piece(x, pieces[piece, 0], pieces[piece, 1])
        for _ in range(pieces[piece, 2]):
            depth -= 1
            stack[depth] += stack[depth + 1]
        depth += 1
    return stack[0]


@jit
def compare(x, pieces, values, scales, zero_points, bits, power, noise, largest):
    """Fill ``power`` Σ x², ``noise`` Σ (x − x̂)² and ``largest`` |x − x̂| of each row, (rows,).

    ``x`` is (rows, columns), ``pieces`` :func:`pairwise` of the columns, ``values`` (rows, blocks, bytes in a block),
    ``scales`` and ``zero_points``, not packed, (rows, blocks).
    """
    rows, columns = x.shape
    blocks, size = values.shape[1], values.shape[2] * 8 // bits
    codes, stored = np.empty(size, np.uint8), np.empty(blocks * size, np.float32)
    squares, stack = np.empty(columns, np.float32), np.empty(len(pieces), np.float32)
    most = np.empty(_LANES, np.float32)
    for row in range(rows):
        for block in range(blocks):
            zero, scale = np.float32(zero_points[row, block]), scales[row, block]
            _unpack(values[row, block], bits, codes)
            for i in range(size):
                stored[block * size + i] = (np.float32(codes[i]) - zero) * scale
        for i in range(columns):
            squares[i] = x[row, i] * x[row, i]
        power[row] = _sum(squares, pieces, stack)
        most[:] = _ZERO
        for i in range(columns):
            error = x[row, i] - stored[i]
            stored[i] = abs(error)
            squares[i] = error * error
        noise[row] = _sum(squares, pieces, stack)
        stored[columns:] = _ZERO  # what pads a row is not compared
        for start in range(0, blocks * size, _LANES):
            for i in range(_LANES):
                most[i] = stored[start + i] if stored[start + i] > most[i] else most[i]
        largest[row] = most.max()
