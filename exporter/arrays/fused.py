"""The scale search and the comparison of what was stored, each in one pass over weights.

The same arithmetic as :mod:`~edgepress.exporter.methods.round.rtn`, :mod:`.packing` and
:mod:`~edgepress.exporter.bundle.stream` in numpy, operation by operation and in the same order, so the bits are theirs:
groups stand side by side in the lanes of a vector and sums run along a group's elements. numpy's arrays go through
memory some 45 times on the way, here a strip of groups stays in the first cache. :mod:`.kernels` decides whether this
is loaded at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_

from edgepress.exporter.arrays.instructions import Array, Number, Writer, kernel
from edgepress.exporter.arrays.scheme import Candidates

LANES = 16  # groups beside each other in a search
SUMS = 8  # accumulators of numpy's sums
_TINY = 1e-30  # as in rtn: below any Σ q² but 0
_LEAST, _MOST = 2.0**-40, 2.0**40  # rtn's _PLAIN
_INFINITY = float("inf")


def search(candidates: Candidates) -> Callable[..., None]:
    """Compile what quantizes ``every`` (groups, size), all of whose elements weigh the same.

    It fills ``words`` (groups, size · bits / 32), the codes as packing.pack lays them out, ``scales`` and
    ``zero_points`` (groups,). ``x`` (size, LANES), zeros at first, and ``packed`` (size · bits / 32, LANES) are room to
    work in. ``plain`` (1,) becomes 0 when a group is so large or small that it must be rescaled first: what was filled
    is then not to be used.
    """

    def write(
        to: Writer, *, groups: Number, size: Number, every: Array, x: Array, packed: Array, words: Array, scales: Array,
        zero_points: Array, plain: Array,
    ) -> None:  # fmt: skip
        is_plain = to.variable(to.index(1))
        strip = _Strip(to, candidates, size, x.vectors(LANES))
        with to.each(groups, step=LANES) as start:
            count = (groups - start).or_if_more(LANES)
            with to.each(count) as lane, to.each(size) as i:
                x[i * LANES + lane] = every[(start + lane) * size + i]
            least, greatest = strip.limits()
            extreme = abs(_extreme(least, greatest))
            all_plain = extreme.compare("==", 0.0) | extreme.compare(">=", _LEAST) & extreme.compare("<=", _MOST)
            is_plain.now &= all_plain.everywhere().to_integer(64)
            scale, low = strip.best(least, greatest)
            scale = strip.pack(scale, low, packed.vectors(LANES))
            width = size * candidates.bits // 32
            with to.each(count) as lane, to.each(width) as i:
                words[(start + lane) * width + i] = packed[i * LANES + lane]
            x.vectors(LANES)[to.index(0)] = scale
            packed.vectors(LANES)[to.index(0)] = (-low).to_integer(32)
            with to.each(count) as lane:
                scales[start + lane] = x[lane]
                zero_points[start + lane] = packed[lane].to_integer(8)
        plain[to.index(0)] = is_plain.now.to_integer(8)

    given = {"groups": None, "size": None, "every": "f4", "x": "f4", "packed": "u4"}
    return kernel(write, given | {"words": "u4", "scales": "f4", "zero_points": "u1", "plain": "u1"})


def _extreme(least: Number, greatest: Number) -> Number:
    """A group's element of largest magnitude, from its least and greatest, as rtn has it."""
    return greatest.compare(">", -least).choose(greatest, least)


@dataclass(frozen=True)
class _Strip:
    """Groups beside each other, whose elements are ``x``, (size,) vectors of LANES; all numbers are such vectors."""

    to: Writer
    candidates: Candidates
    size: Number
    x: Array

    def limits(self) -> tuple[Number, Number]:
        """The least and greatest element of each group."""
        first = self.x[self.to.index(0)]
        least, greatest = self.to.variable(first), self.to.variable(first)
        with self.to.each(self.size) as i:
            least.now = least.now.or_if_more(self.x[i])
            greatest.now = greatest.now.or_if_less(self.x[i])
        return least.now, greatest.now

    def best(self, least: Number, greatest: Number) -> tuple[Number, Number]:
        """The scale that is best of those of all candidates, and its least code − zero point."""
        scale, low, gain = least.like(0.0), least.like(-0.0), least.like(-1.0)
        for inverse, lowest in self._inverses(least, greatest):
            sums = _Sums(self.to, inverse, lowest, lowest + self.candidates.top)
            with self.to.each(self.size) as i:
                sums.add(self.x[i])
            found = sums.scale()
            better = (found * sums.xq.now).compare(">", gain)
            scale, low = better.choose(found, scale), better.choose(lowest, low)
            gain = better.choose(found * sums.xq.now, gain)
        return scale, low

    def pack(self, scale: Number, low: Number, packed: Array) -> Number:
        """Pack the codes nearest for ``scale``; returns the scale that is best for those codes."""
        bits, in_word = self.candidates.bits, 32 // self.candidates.bits
        inverse = 1.0 / scale.compare("==", 0.0).choose(_INFINITY, scale)
        sums = _Sums(self.to, inverse, low, low + self.candidates.top)
        with self.to.each(self.size // in_word) as word:
            codes = [(sums.add(self.x[word * in_word + k]) - low).to_integer(32) << bits * k for k in range(in_word)]
            packed[word] = reduce(or_, codes)
        return sums.scale()

    def _inverses(self, least: Number, greatest: Number) -> list[tuple[Number, Number]]:
        """Each candidate's 1 / scale and least code − zero point."""
        steps, shifts, top = self.candidates.steps, self.candidates.shifts, self.candidates.top
        if not shifts:
            extreme = _extreme(least, greatest)
            extreme = extreme.compare("==", 0.0).choose(_INFINITY, extreme)
            extreme = -abs(extreme) if self.candidates.aligned else extreme
            return [(step / extreme, extreme.like(-(top + 1) / 2)) for step in steps]
        bottom = least.or_if_more(0.0)
        span = greatest.or_if_less(0.0) - bottom
        span = span.compare("==", 0.0).choose(_INFINITY, span)
        zeros = ((-bottom / span * top + shift).rint().or_if_less(0.0).or_if_more(top) for shift in shifts)
        return [(step / span, -zero) for step, zero in zip(steps, zeros, strict=True)]


class _Sums:
    """Σ x q and Σ q² of codes − zero point, which reach from ``low`` to ``high``."""

    def __init__(self, to: Writer, inverse: Number, low: Number, high: Number) -> None:
        self._inverse, self._low, self._high = inverse, low, high
        # adding to −0 changes nothing, not even the sign of a 0
        self.xq, self._qq = to.variable(inverse.like(-0.0)), to.variable(inverse.like(-0.0))

    def add(self, x: Number) -> Number:
        """Add an element of each group; returns its code − zero point."""
        code = (x * self._inverse).rint().or_if_less(self._low).or_if_more(self._high)
        self.xq.now += x * code
        self._qq.now += code * code
        return code

    def scale(self) -> Number:
        """The scale that is best for these codes."""
        return self.xq.now / self._qq.now.or_if_less(_TINY)


def compare(bits: int, block_size: int) -> Callable[..., None]:
    """Compile what fills Σ x² (``power``) and Σ (x − x̂)² (``noise``) of pieces of rows, (pieces, rows).

    And ``largest``, SUMS of |x − x̂| a row of which the greatest is that of the row. ``x`` is (rows, columns), columns a
    multiple of SUMS, ``codes`` (rows, blocks · block_size / SUMS): SUMS of them in one integer; ``scales`` and
    ``zero_points``, not packed, (rows, blocks); ``cuts`` (pieces + 1,) where pieces begin and the last one ends.
    """

    def write(
        to: Writer, *, rows: Number, columns: Number, blocks: Number, pieces: Number, cuts: Array, x: Array,
        codes: Array, scales: Array, zero_points: Array, power: Array, noise: Array, largest: Array,
    ) -> None:  # fmt: skip
        vectors = x.vectors(SUMS)
        nothing = vectors[to.index(0)].like(0.0)
        in_row, in_block = columns // SUMS, block_size // SUMS
        with to.each(rows) as row:
            most = to.variable(nothing)
            with to.each(pieces) as piece:
                squares, errors = to.variable(nothing), to.variable(nothing)
                with to.each(cuts[piece + 1] // SUMS, start=cuts[piece] // SUMS) as i:
                    value, block = vectors[row * in_row + i], row * blocks + i // in_block
                    word = codes[row * blocks * in_block + i]
                    error = value - _stored(word, scales[block], zero_points[block], bits)
                    squares.now += value * value
                    errors.now += error * error
                    most.now = most.now.or_if_less(abs(error))
                power[piece * rows + row] = _total(squares.now)
                noise[piece * rows + row] = _total(errors.now)
            largest.vectors(SUMS)[row] = most.now

    given = {"rows": None, "columns": None, "blocks": None, "pieces": None, "cuts": "i8", "x": "f4"}
    stored = {"codes": f"u{bits}", "scales": "f4", "zero_points": "u1"}
    return kernel(write, given | stored | {"power": "f4", "noise": "f4", "largest": "f4"})


def _stored(codes: Number, scale: Number, zero_point: Number, bits: int) -> Number:
    """What the kernels see of SUMS codes in one integer."""
    wide = codes.to_integer(max(32, bits * SUMS)).in_lanes(SUMS)
    each = (wide >> wide.steps(bits)) & ((1 << bits) - 1)
    zero = zero_point.to_integer(32).to_float()
    return (each.to_integer(32).to_float() - zero.in_lanes(SUMS)) * scale.in_lanes(SUMS)


def _total(sums: Number) -> Number:
    """numpy's sum of its accumulators."""
    a, b, c, d, e, f, g, h = (sums.lane(i) for i in range(SUMS))
    return ((a + b) + (c + d)) + ((e + f) + (g + h))
