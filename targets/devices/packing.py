"""Bytes of a product's weight as onnxruntime's kernels hold it, by kind of processor, from its shape and scheme alone.

What is in a file is packed when a model is opened, or mapped as it was packed before; the file's own bytes are then
read no more. Kinds are those between which onnxruntime 1.31 packs differently (:data:`KINDS`). The formulas are sizes
of layouts, as MLAS's and KleidiAI's sources have them, and are held against what onnxruntime itself writes on this
machine and on emulated processors (tests/targets/test_packing.py). N rows of K weights lie in B = ⌈K ÷ block⌉ blocks::

    integers, x86-64 with AVX2      codes, a float32 scale and a float32 sum of each block, sums of 16 rows together
    integers, arm64, 8 bits         the same, and without matrix instructions (i8mm) the sums twice
    4 bits, arm64, KleidiAI         of 4 rows together: codes, a bfloat16 scale a block, a sum and a bias a row;
                                    with zero points a float32 scale and zero point a block, and a bias a row
    4 bits, everywhere else         codes alone, in another order
    2 bits                          as integers on x86-64, of 4 blocks together
    float32                         of 16 rows together
"""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["x86-64", "arm64-i8mm", "arm64", "arm64-plain", "as stored"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""x86-64 with AVX2; arm64 with matrix instructions on integers, with dot products only, with neither; and what is known
to pack nothing, or not known."""

_ALIGNED = {"x86-64": 126, "arm64-i8mm": 94, "arm64": 157}  # bytes by which parts of a packed weight may be moved
_NARROW_BLOCKS = (32, 64, 128)  # that have a kernel for weights of 2 bits
_TOGETHER = 16  # rows whose sums, or float32 weights, lie together
_INTEGERS = 4  # accuracy_level: activations in int8
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Weight:
    """The constant weight of a MatMulNBits: ``rows`` N of ``depth`` K, and what its kernel is chosen by.

    ``half`` says that activations and scales are float16.
    """

    rows: int
    depth: int
    bits: int
    block: int
    accuracy_level: int
    zero_points: bool = False
    half: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.depth // self.block)

    @property
    def code_bytes(self) -> int:
        """Codes, as a file has them."""
        return self.rows * self.blocks * self.block * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        """Scales and zero points, as the graph gives them to the product."""
        zero_points = self.rows * -(-self.blocks * self.bits // 8) if self.zero_points else 0
        return self.rows * self.blocks * (_FLOAT // 2 if self.half else _FLOAT) + zero_points


def packed_bytes(weight: Weight, kind: Kind) -> int:
    """Bytes that a weight is packed into; 0 where it is read as it is stored."""
    integers = _in_integers(weight, kind)
    if kind == "as stored" or (weight.bits == 2 and not integers):
        return 0
    if weight.bits == 8 and not integers:
        return weight.code_bytes if weight.half and kind != "x86-64" else 0
    if weight.bits == 4 and not (integers and _scales_within(weight, kind)):
        return weight.code_bytes
    if weight.bits == 4 and kind != "x86-64":
        row = weight.depth // 2 + (8 * weight.blocks + 4 if weight.zero_points else 2 * weight.blocks + 8)
        return _up(weight.rows, 4) * row
    blocks = _up(weight.blocks, 4) if weight.bits == 2 else weight.blocks
    codes = weight.rows * blocks * weight.block * weight.bits // 8
    sums = _FLOAT * blocks * _up(weight.rows, _TOGETHER)
    if weight.bits == 2:
        return codes + _FLOAT * blocks * weight.rows + sums + _ALIGNED["x86-64"]
    return codes + _FLOAT * blocks * weight.rows + (2 if kind == "arm64" else 1) * sums + _ALIGNED[kind]


def held_bytes(weight: Weight, kind: Kind) -> int:
    """Bytes that a product reads: what is packed, and scales and zero points where those are not in it."""
    packed = packed_bytes(weight, kind)
    within = packed and _in_integers(weight, kind) and (weight.bits != 4 or _scales_within(weight, kind))
    return (packed or weight.code_bytes) + (0 if within else weight.scale_bytes)


def packed_float_bytes(rows: int, depth: int) -> int:
    """Bytes of a float32 MatMul's weight of (depth, rows), the same on all processors."""
    return _FLOAT * depth * _up(rows, _TOGETHER)


def _in_integers(weight: Weight, kind: Kind) -> bool:
    """Whether a kernel multiplies integers."""
    if weight.accuracy_level != _INTEGERS or kind not in _ALIGNED:
        return False
    return weight.bits != 2 or weight.block in _NARROW_BLOCKS


def _scales_within(weight: Weight, kind: Kind) -> bool:
    """Whether a kernel for integers of 4 bits has scales among what it packs: on arm64 KleidiAI's has."""
    return kind == "x86-64" or not (weight.block % 32 or weight.depth % weight.block)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
