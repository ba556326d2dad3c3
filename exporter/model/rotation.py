"""Rotations of the residual stream, made of Hadamard matrices: from their description to their numbers.

A Hadamard matrix has entries ±1 and H Hᵀ = n I, so that H / √n spreads each channel evenly over all others. A rotation
of n = left · right channels is A ⊗ B, each factor a Hadamard matrix with random signs (as QuaRot's, Ashkboos et al.
2024, which draws them for the whole): x seen as a matrix X (left, right) becomes Aᵀ X B, for n (left + right)
multiplications and not n².
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.model.description import Rotation

Floats = NDArray[np.float64]

_TWO = np.array([[1.0, 1.0], [1.0, -1.0]])


def split(channels: int) -> tuple[int, int]:
    """Orders of A and B for so many channels: Hadamard matrices if there are, and the fewest multiplications."""
    powers = [1 << k for k in range(channels.bit_length()) if channels % (1 << k) == 0]
    pairs = [(channels // power, power) for power in powers]
    return min(pairs, key=lambda pair: (hadamard(pair[0]) is None, sum(pair)))


@cache
def factors(rotation: Rotation) -> tuple[Floats, Floats]:
    """A (left, left) and B (right, right)."""
    random = np.random.default_rng(rotation.seed)
    left = orthogonal(rotation.left, random, keeps_mean=rotation.keeps_mean)
    return left, orthogonal(rotation.right, random, keeps_mean=rotation.keeps_mean)


def orthogonal(order: int, random: np.random.Generator, *, keeps_mean: bool = False) -> Floats:
    """Q (order, order) with Q Qᵀ = I: a Hadamard matrix with random signs, or a random one where none is known.

    With ``keeps_mean`` Q maps the vector of ones to itself, by one reflection more.
    """
    rows, columns = random.choice([-1.0, 1.0], (2, order))
    found = hadamard(order)
    q: Floats = np.linalg.qr(random.standard_normal((order, order)))[0] if found is None else found / math.sqrt(order)
    q = rows[:, None] * q * columns
    if keeps_mean:  # Householder: I − 2 v vᵀ / vᵀv maps q·1 to 1
        v = q.sum(axis=1) - 1
        if (length := float(v @ v)) > 0:
            q = q - np.outer(v, (2 / length) * (v @ q))
    return q


@cache
def hadamard(order: int) -> Floats | None:
    """Return a matrix of ±1 with H Hᵀ = order · I, by Sylvester's and Paley's constructions; None where they give none.

    Doubling (Sylvester 1867): [[H, H], [H, −H]]. Paley (1933), with the Jacobsthal matrix Q of a prime q, which has 1,
    −1 or 0 as j − i is a square, is none, or is 0: I. order q + 1, q ≡ 3 mod 4; II. order 2 (q + 1), q ≡ 1 mod 4.
    """
    if order == 1:
        return np.ones((1, 1))
    half = hadamard(order // 2) if order == 2 or order % 4 == 0 else None
    if half is not None:
        return np.kron(_TWO, half)
    if order % 4 == 0 and _is_prime(order - 1):
        return _bordered(order - 1, corner=-1.0) + np.eye(order)
    if order % 4 == 0 and _is_prime(order // 2 - 1):  # ≡ 1 mod 4: else the order's half would be of kind I
        blocks = np.kron(_bordered(order // 2 - 1, corner=1.0), _TWO)
        return blocks + np.kron(np.eye(order // 2), np.array([[1.0, -1.0], [-1.0, -1.0]]))
    return None


def _bordered(q: int, *, corner: float) -> Floats:
    """[[0, 1ᵀ], [±1, Q]], a conference matrix of order q + 1: its rows are orthogonal, with q entries ±1 each."""
    character = np.full(q, -1.0)
    character[[i * i % q for i in range(1, q)]] = 1
    character[0] = 0
    i, j = np.ogrid[:q, :q]
    found = np.zeros((q + 1, q + 1))
    found[0, 1:], found[1:, 0] = 1, corner
    found[1:, 1:] = character[(j - i) % q]
    return found


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, math.isqrt(number) + 1))
