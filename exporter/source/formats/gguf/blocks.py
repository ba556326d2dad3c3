"""How GGUF's types store numbers: blocks of bytes, each with its own scales (ggml's ``block_q4_0`` and the others).

``w = scale · (code − middle)`` where a type is on a grid, else ``w = scale · code + offset``. Scales of the K types are
products of a float16 for 256 numbers and a whole number for 16 or 32 of them. They are computed in float32, in the
order in which the ``gguf`` package computes them: tests hold every type against that, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Unpacked:
    """Blocks (n, nbytes) as codes; ``offsets`` are None for a type on a grid."""

    codes: Bytes  # (n, numbers in a block)
    scales: Floats  # (n, groups in a block)
    offsets: Floats | None = None  # (n, groups in a block)


@dataclass(frozen=True)
class Blocks:
    """A type: ``size`` numbers in ``nbytes`` bytes, ``bits`` a code, ``group`` numbers for a scale.

    ``uneven`` says why codes are on no grid, the end of a sentence; "" where they are on one.
    """

    name: str
    size: int
    nbytes: int
    bits: int
    group: int
    unpack: Callable[[Bytes], Unpacked]
    uneven: str = ""


def _half(raw: Bytes) -> Floats:
    """Two bytes a block as float32, (n, 1)."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Low nibbles of all bytes, then the high ones: (n, 2 · bytes)."""
    return np.concatenate([raw & np.uint8(15), raw >> np.uint8(4)], axis=1)


def _shifted(raw: Bytes, run: int, shifts: tuple[int, ...], mask: int) -> Bytes:
    """Runs of bytes, each shifted by every one of ``shifts`` in turn: (n, len(shifts) · bytes)."""
    runs = raw.reshape(len(raw), -1, 1, run) >> np.array(shifts, np.uint8)[:, None]
    return (runs & np.uint8(mask)).reshape(len(raw), -1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """Four bytes a block as 32 bits, shifted to where the fifth bit of a code is: (n, 32)."""
    return np.unpackbits(raw, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(raw: Bytes) -> Unpacked:
    return Unpacked(_nibbles(raw[:, 2:]), _half(raw[:, :2]))


def _q4_1(raw: Bytes) -> Unpacked:
    return Unpacked(_nibbles(raw[:, 4:]), _half(raw[:, :2]), _half(raw[:, 2:4]))


def _q5_0(raw: Bytes) -> Unpacked:
    return Unpacked(_nibbles(raw[:, 6:]) | _fifth_bits(raw[:, 2:6]), _half(raw[:, :2]))


def _q5_1(raw: Bytes) -> Unpacked:
    return Unpacked(_nibbles(raw[:, 8:]) | _fifth_bits(raw[:, 4:8]), _half(raw[:, :2]), _half(raw[:, 2:4]))


def _q8_0(raw: Bytes) -> Unpacked:
    return Unpacked(raw[:, 2:] ^ np.uint8(128), _half(raw[:, :2]))


def _iq4_nl(raw: Bytes) -> Unpacked:
    table = (np.array(_IQ4_NL) + 128).astype(np.uint8)
    return Unpacked(table[_nibbles(raw[:, 2:])], _half(raw[:, :2]))


def _q2_k(raw: Bytes) -> Unpacked:
    scales, d, least = raw[:, :16], _half(raw[:, 80:82]), _half(raw[:, 82:84])
    codes = _shifted(raw[:, 16:80], 32, (0, 2, 4, 6), 3)
    return Unpacked(codes, d * (scales & np.uint8(15)), -(least * (scales >> np.uint8(4))))


def _q3_k(raw: Bytes) -> Unpacked:
    high = _shifted(raw[:, :32], 32, tuple(range(8)), 1)
    codes = _shifted(raw[:, 32:96], 32, (0, 2, 4, 6), 3) | (high << np.uint8(2))
    scales = _shifted(raw[:, 96:104], 8, (0, 4), 15) | (_shifted(raw[:, 104:108], 4, (0, 2, 4, 6), 3) << np.uint8(4))
    return Unpacked(codes, _half(raw[:, 108:110]) * (scales.astype(np.int8) - np.int8(32)))


def _six_bits(raw: Bytes) -> tuple[Bytes, Bytes]:
    """Twelve bytes as eight scales and eight minimums of six bits each."""
    d, m, both = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    low, high = np.uint8(15), np.uint8(0x30)
    scales = np.concatenate([d & np.uint8(63), (both & low) | ((d >> np.uint8(2)) & high)], axis=1)
    least = np.concatenate([m & np.uint8(63), (both >> np.uint8(4)) | ((m >> np.uint8(2)) & high)], axis=1)
    return scales, least


def _q4_k(raw: Bytes) -> Unpacked:
    scales, least = _six_bits(raw[:, 4:16])
    codes = _shifted(raw[:, 16:], 32, (0, 4), 15)
    return Unpacked(codes, _half(raw[:, :2]) * scales, -(_half(raw[:, 2:4]) * least))


def _q5_k(raw: Bytes) -> Unpacked:
    scales, least = _six_bits(raw[:, 4:16])
    high = _shifted(raw[:, 16:48], 32, tuple(range(8)), 1)
    codes = _shifted(raw[:, 48:], 32, (0, 4), 15) | (high << np.uint8(4))
    return Unpacked(codes, _half(raw[:, :2]) * scales, -(_half(raw[:, 2:4]) * least))


def _q6_k(raw: Bytes) -> Unpacked:
    low = _shifted(raw[:, :128], 64, (0, 4), 15)
    high = _shifted(raw[:, 128:192], 32, (0, 2, 4, 6), 3)
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8)
    return Unpacked(low | (high << np.uint8(4)), _half(raw[:, 208:]) * scales)


_MINIMUM = "its minimums are no whole steps"
BLOCKS = {  # by ggml's number of the type
    2: Blocks("Q4_0", 32, 18, 4, 32, _q4_0),
    3: Blocks("Q4_1", 32, 20, 4, 32, _q4_1, _MINIMUM),
    6: Blocks("Q5_0", 32, 22, 5, 32, _q5_0),
    7: Blocks("Q5_1", 32, 24, 5, 32, _q5_1, _MINIMUM),
    8: Blocks("Q8_0", 32, 34, 8, 32, _q8_0),
    10: Blocks("Q2_K", 256, 84, 2, 16, _q2_k, _MINIMUM),
    11: Blocks("Q3_K", 256, 110, 3, 16, _q3_k),
    12: Blocks("Q4_K", 256, 144, 4, 32, _q4_k, _MINIMUM),
    13: Blocks("Q5_K", 256, 176, 5, 32, _q5_k, _MINIMUM),
    14: Blocks("Q6_K", 256, 210, 6, 16, _q6_k),
    20: Blocks("IQ4_NL", 32, 18, 8, 32, _iq4_nl),  # its 16 numbers are whole ones of 8 bits
}
FLOATS = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}  # safetensors' names
OTHERS = {  # of types that are not read, for messages
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4",
}  # fmt: skip
