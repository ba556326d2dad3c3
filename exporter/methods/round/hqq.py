"""Half-quadratic quantization: scale and zero point that make Σ w |x − x̂|^p small, p < 1.

Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): a power below 1 forgives the few
elements that are far off, so that outliers do not decide the range. With an auxiliary e that takes over what is far
off (their equation 3), two steps in turn lower Σ w |e|^p + β/2 Σ w (e − (x − x̂))²:

1. e = shrink(x − x̂, β) = sign(·) max(0, |·| − |·|^(p−1) / β), the generalized soft threshold;
2. zero point and scale are the least-squares ones for x − e and the codes as they are, in closed form.

What differs from the paper:

- Its zero points are floats, MatMulNBits' are integers. Rounded at each iteration, the mean of step 2 would seldom
  leave rtn's zero point. So a first run moves a float, as the paper does; then both integers beside it are tried, each
  with a second run that moves the scale only.
- Its scale stays (max − min) / (2^bits − 1). Here it is solved for too, so that symmetric schemes profit as well.
- β is counted in steps of the scale, not in units of the weights: an error below ``_KEPT`` of a step is never taken
  over, whatever the weights' magnitude.
- p is 3/4 (the paper's code has 0.7): |x|^p then takes square roots only, which are rounded alike on every CPU.

The start is rtn's result, and of it and all iterates with an integer zero point the one with the least Σ w |x − x̂|^p
is kept: that sum is never above rtn's.

What it brings: ``hqq, …`` beside ``rtn, …`` in the results of ``benchmarks/accuracy.py``. rtn searches its scales too,
and which of the two is ahead differs from model to model.
"""

from dataclasses import dataclass

import numpy as np

from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import Method, Quantized
from edgepress.exporter.methods.round.rtn import Floats, Work, by_groups, search

POWER = 0.75
_KEPT = 0.5  # of a step: the error at which shrink begins to be more than 0
_BETAS = tuple(_KEPT ** (POWER - 2) * 1.01**i for i in range(10))  # of each run; shrink(u, β) > 0 from _KEPT on
_TILE = 1 << 16  # elements; more temporary arrays than rtn has, so that fewer fit into the cache
_TINY = np.float32(1e-30)  # below any Σ w q² but 0
_SMALL = np.float32(1e-6)  # steps; far below _KEPT, so that what is shrunk to 0 is not divided by 0


def quantize(rows: Floats, scheme: Scheme, importance: Floats | None) -> Quantized:
    """See :class:`~edgepress.exporter.methods.kinds.Method`."""
    return by_groups(rows, scheme, importance, _quantize_tile, _TILE)


def _quantize_tile(work: Work, extreme: Floats, w: Floats | None, scheme: Scheme) -> tuple[Floats, Floats | None]:
    """As :func:`.rtn.search`: codes in ``work.q``, scales and zero points (groups,)."""
    scale, start = search(work, extreme, w, scheme)
    zero = np.full_like(scale, scheme.zero_point) if start is None else start
    tile = _Tile(work, w, np.float32((1 << scheme.bits) - 1))
    best = _Best(tile.fit(scale, zero)[0], scale, zero)
    integers: tuple[Floats, ...] = (zero,)
    if start is not None:
        for beta in _BETAS:
            _, error = tile.fit(scale, zero)
            scale, zero = tile.solve(error, scale, zero, beta, moves=True)
        integers = (np.clip(np.floor(zero), 0, tile.top), np.clip(np.ceil(zero), 0, tile.top))
    for integer in integers:
        best = tile.solve_scale(best, scale, integer)
    tile.fit(best.scale, best.zero)
    np.add(work.q, best.zero, out=work.q)
    return best.scale, None if start is None else best.zero


@dataclass(frozen=True)
class _Best:
    """The least objective of each group so far, and what gave it: (groups,) each."""

    objective: Floats
    scale: Floats
    zero: Floats

    def or_better(self, objective: Floats, scale: Floats, zero: Floats) -> "_Best":
        """Take what is better, group by group."""
        better = objective < self.objective
        pairs = ((objective, self.objective), (scale, self.scale), (zero, self.zero))
        return _Best(*(np.where(better, new, old) for new, old in pairs))


@dataclass(frozen=True)
class _Tile:
    """Groups in the columns of ``work.x``; ``work.q`` holds codes − zero point. Scales and zero points: (groups,)."""

    work: Work
    w: Floats | None  # (group size, groups)
    top: np.float32  # the largest code

    def fit(self, scale: Floats, zero: Floats) -> tuple[Floats, Floats]:
        """Choose the nearest codes; return Σ w |x − x̂|^p, (groups,), and x − x̂, (group size, groups)."""
        x, q = self.work.x, self.work.q
        np.multiply(x, _inverse(scale), out=q)
        np.add(q, zero, out=q)
        np.rint(q, out=q)
        np.clip(q, np.float32(0), self.top, out=q)
        np.subtract(q, zero, out=q)
        np.multiply(q, scale, out=self.work.t)
        error = x - self.work.t
        return self.sum(_power(np.abs(error))), error

    def solve(self, error: Floats, scale: Floats, zero: Floats, beta: float, *, moves: bool) -> tuple[Floats, Floats]:
        """Steps 1 and 2 for the codes as they are, the zero point only if it ``moves``; return scale and zero point."""
        x, q, inverse = self.work.x, self.work.q, _inverse(scale)
        taken = _shrink(np.abs(error) * np.abs(inverse), beta) * np.abs(scale)
        target = x - np.copysign(taken, error)
        if moves:
            # An element that is 0, as padding is, can be exact whatever the zero point: it has no say in the mean.
            voters = np.not_equal(x, 0).astype(np.float32)
            among = np.maximum(self.sum(voters), _TINY)
            step = np.divide(self.sum((q - target * inverse) * voters), among, dtype=np.float32)
            np.subtract(q, step, out=q)
            zero = np.add(zero, step, dtype=np.float32)
        square = self.sum(np.square(q))
        return np.where(square > _TINY, self.sum(target * q) / np.maximum(square, _TINY), scale), zero

    def solve_scale(self, best: _Best, scale: Floats, zero: Floats) -> _Best:
        """The best of ``best`` and of the iterates from ``scale`` on that leave the zero point alone."""
        for beta in _BETAS:
            objective, error = self.fit(scale, zero)
            best = best.or_better(objective, scale, zero)
            scale, _ = self.solve(error, scale, zero, beta, moves=False)
        return best.or_better(self.fit(scale, zero)[0], scale, zero)

    def sum(self, values: Floats) -> Floats:
        """Σ w values of each group, in order: (groups,)."""
        if self.w is not None:
            values = values * self.w
        total: Floats = np.add.reduce(values, axis=0)
        return total


def _shrink(size: Floats, beta: float) -> Floats:
    """max(0, u − u^(p−1) / β) of u ≥ 0."""
    u = np.maximum(size, _SMALL)
    return np.maximum(u - _power(u) / (u * np.float32(beta)), np.float32(0))


def _power(size: Floats) -> Floats:
    """u^(3/4) of u ≥ 0."""
    root = np.sqrt(size)
    return root * np.sqrt(root)


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 for the scale 0 of a group of zeros."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


METHOD = Method("hqq", quantize)
