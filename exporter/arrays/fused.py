"""The scale search and the comparison of what was stored, each in one pass over weights: compiled by numba.

The same arithmetic as :mod:`~edgepress.exporter.methods.round.rtn`, :mod:`.packing` and
:mod:`~edgepress.exporter.bundle.stream` in numpy, operation by operation and in the same order, so the bits are theirs:
groups stand side by side in the lanes of a vector and sums run along a group's elements; nothing is contracted to
multiply-adds. numpy's arrays go through memory some 45 times on the way, here a strip of groups stays in the first
cache. :mod:`.kernels` decides whether this is loaded at all.

What is compiled is written to compile fast, as the first export waits for it: loops instead of slices and reductions of
arrays, the rounding of a candidate once, and what is rare left to numpy.
"""

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
inlined = njit(inline="always", error_model="numpy")  # part of what calls it, not compiled for itself


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


@inlined
def _extreme(least, greatest):
    """A group's element of largest magnitude, from its least and greatest, as rtn has it."""
    return greatest if greatest > -least else least


@inlined
def _limits(x, least, greatest):
    """Put the least and greatest element of each group of ``x`` (size, groups) in their places.

    Returns whether sums and reciprocals of all of them stay finite, as rtn's _PLAIN says.
    """
    for i in range(x.shape[0]):
        for g in range(x.shape[1]):
            least[g] = x[i, g] if i == 0 or x[i, g] < least[g] else least[g]
            greatest[g] = x[i, g] if i == 0 or x[i, g] > greatest[g] else greatest[g]
    plain = True
    for g in range(x.shape[1]):
        extreme = abs(_extreme(least[g], greatest[g]))
        plain = plain and (extreme == 0 or _LEAST <= extreme <= _MOST)
    return plain


@inlined
def _candidate(step, shift, symmetric, aligned, top, least, greatest, inverse, low):
    """Put a candidate's 1 / scale and its least code − zero point in ``inverse`` and ``low``, (groups,) as the rest."""
    for g in range(len(low)):
        if symmetric:
            extreme = _extreme(least[g], greatest[g])
            extreme = _INFINITY if extreme == 0 else extreme
            inverse[g] = step / (-abs(extreme) if aligned else extreme)
            low[g] = -np.float32((top + _ONE) * _HALF)
        else:
            bottom = least[g] if least[g] < 0 else _ZERO
            span = (greatest[g] if greatest[g] > 0 else _ZERO) - bottom
            span = span if span > 0 else _INFINITY
            inverse[g] = step / span
            code = np.rint(-bottom / span * top + shift)
            code = code if code > 0 else _ZERO
            low[g] = -(code if code < top else top)


@inlined
def _nearest(scale, zero, inverse, low):
    """The same for a scale and zero point that are chosen."""
    for g in range(len(low)):
        inverse[g] = _ONE / (_INFINITY if scale[g] == 0 else scale[g])
        low[g] = -zero[g]


@inlined
def _store(q, zero, bits, values, start, count):
    """Put codes − zero point, ``q`` (size, groups), in ``values`` from ``start`` on, as packing.pack lays codes out."""
    in_byte = 8 // bits
    for g in range(count):
        for j in range(values.shape[1]):
            byte = 0
            for k in range(in_byte):
                byte |= int(q[in_byte * j + k, g] + zero[g]) << (bits * k)
            values[start + g, j] = byte


@jit
def search(every, steps, shifts, symmetric, aligned, bits, values, scales, zero_points):
    """Quantize groups, ``every`` (groups, size) of float32, all of whose elements weigh the same.

    ``steps`` are rtn's candidates, ``shifts`` what goes with each of the asymmetric ones; ``aligned`` asks for scales
    above 0. Fills ``values`` (groups, size · bits / 8), ``scales`` and ``zero_points`` (groups,). Returns False, with
    nothing done that counts, when a group is so large or small that it must be rescaled first.
    """
    groups, size = every.shape
    lanes = max(_LANES, _STRIP // size)
    x, q = np.empty((size, lanes), np.float32), np.empty((size, lanes), np.float32)
    least, greatest = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    inverse, low = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    xq, qq = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    gain, scale, zero = np.empty(lanes, np.float32), np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    top = np.float32((1 << bits) - 1)
    for start in range(0, groups, lanes):
        count = min(lanes, groups - start)
        for g in range(lanes):
            gain[g], scale[g], zero[g] = -_ONE, _ZERO, _ZERO
            for i in range(size):
                x[i, g] = every[start + g, i] if g < count else _ZERO
        if not _limits(x, least, greatest):
            return False
        for turn in range(len(steps) + 1):
            is_last = turn == len(steps)  # the codes nearest for the best scale, and the scale best for those codes
            if is_last:
                _nearest(scale, zero, inverse, low)
            else:
                _candidate(steps[turn], shifts[turn], symmetric, aligned, top, least, greatest, inverse, low)
            for g in range(lanes):
                xq[g], qq[g] = -_ZERO, _ZERO  # adding to −0 changes nothing, not even the sign of a 0
            for i in range(size):
                for g in range(lanes):
                    code = np.rint(x[i, g] * inverse[g])
                    code = low[g] if code < low[g] else code
                    code = top + low[g] if code > top + low[g] else code
                    q[i, g] = code
                    xq[g] += x[i, g] * code
                    qq[g] += code * code
            for g in range(lanes):
                found = xq[g] / (qq[g] if qq[g] > _TINY else _TINY)
                better = is_last or found * xq[g] > gain[g]
                gain[g] = found * xq[g] if better else gain[g]
                scale[g] = found if better else scale[g]
                zero[g] = -low[g] if better else zero[g]
        _store(q, zero, bits, values, start, count)
        for g in range(count):
            scales[start + g], zero_points[start + g] = scale[g], int(zero[g])
    return True


@inlined
def _sum(x, pieces, stack):
    """Σ x in numpy's order: ``pieces`` are those of :func:`pairwise`, ``stack`` is room for one sum a piece."""
    depth = 0
    for piece in range(len(pieces)):
        at, stop = pieces[piece, 0], pieces[piece, 0] + pieces[piece, 1]
        total = _ZERO
        if stop - at >= 8:
            a, b, c, d = x[at], x[at + 1], x[at + 2], x[at + 3]
            e, f, g, h = x[at + 4], x[at + 5], x[at + 6], x[at + 7]
            at += 8
            while at + 8 <= stop:
                a, b, c, d = a + x[at], b + x[at + 1], c + x[at + 2], d + x[at + 3]
                e, f, g, h = e + x[at + 4], f + x[at + 5], g + x[at + 6], h + x[at + 7]
                at += 8
            total = ((a + b) + (c + d)) + ((e + f) + (g + h))
        for i in range(at, stop):
            total += x[i]
        stack[depth] = total
        for _ in range(pieces[piece, 2]):
            depth -= 1
            stack[depth] += stack[depth + 1]
        depth += 1
    return stack[0]


@inlined
def _dequantize(values, scales, zero_points, bits, stored):
    """Put what the kernels see of a row's blocks, ``values`` (blocks, bytes), in ``stored`` (blocks · size,)."""
    in_byte, mask = 8 // bits, (1 << bits) - 1
    for block in range(values.shape[0]):
        zero, scale = np.float32(zero_points[block]), scales[block]
        for j in range(values.shape[1]):
            at = (block * values.shape[1] + j) * in_byte
            if bits == 4:  # in a line of its own: it is the usual case, and compiled to vectors
                stored[at] = (np.float32(values[block, j] & 15) - zero) * scale
                stored[at + 1] = (np.float32(values[block, j] >> 4) - zero) * scale
            else:
                for k in range(in_byte):
                    stored[at + k] = (np.float32((values[block, j] >> (bits * k)) & mask) - zero) * scale


@jit
def compare(x, pieces, values, scales, zero_points, bits, power, noise, largest):
    """Fill ``power`` Σ x², ``noise`` Σ (x − x̂)² and ``largest`` |x − x̂| of each row, (rows,).

    ``x`` is (rows, columns), ``pieces`` :func:`pairwise` of the columns, ``values`` (rows, blocks, bytes in a block),
    ``scales`` and ``zero_points``, not packed, (rows, blocks).
    """
    rows, columns = x.shape
    padded = values.shape[1] * values.shape[2] * 8 // bits
    stored, squares = np.empty(padded, np.float32), np.empty(columns, np.float32)
    stack, most = np.empty(len(pieces), np.float32), np.empty(_LANES, np.float32)
    for row in range(rows):
        _dequantize(values[row], scales[row], zero_points[row], bits, stored)
        for turn in range(2):
            for i in range(columns):
                value = x[row, i] - stored[i] if turn else x[row, i]
                squares[i] = value * value
            total = _sum(squares, pieces, stack)
            if turn:
                noise[row] = total
            else:
                power[row] = total
        for i in range(columns):
            stored[i] = abs(x[row, i] - stored[i])
        for i in range(columns, padded):  # what pads a row is not compared
            stored[i] = _ZERO
        for i in range(_LANES):
            most[i] = _ZERO
        for start in range(0, padded, _LANES):
            for i in range(_LANES):
                most[i] = stored[start + i] if stored[start + i] > most[i] else most[i]
        largest[row] = _ZERO
        for i in range(_LANES):
            largest[row] = most[i] if most[i] > largest[row] else largest[row]
