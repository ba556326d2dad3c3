"""How one tensor is stored: bits, block size and zero point, and the byte counts that follow from them."""

from dataclasses import dataclass

BITS = (2, 4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)
FEWEST_TOKENS = 64  # that rounding one expert by what goes into it needs: of fewer, moments say little of other text


@dataclass(frozen=True)
class Scheme:
    """Block-wise integer storage along the columns, the layout of onnxruntime's MatMulNBits.

    Each row is cut into blocks of ``block_size`` columns (the last one padded); a block has one float32 scale, unsigned
    codes and, unless ``symmetric``, a zero point among the codes; ``w ≈ (code − zero_point) · scale``. Symmetric blocks
    have the zero point 2^(bits−1), which is not stored. With ``per_channel`` the blocks of a row share one scale (and
    zero point): it is stored once for each block, because the kernels read it so. ``zeros`` says in words which weights
    are 0 on purpose, such as ``2:4 zeros``: codes that mean 0 then stay, whatever learns after.
    """

    method: str
    bits: int
    block_size: int
    symmetric: bool = True
    per_channel: bool = False
    zeros: str = ""

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, not {self.bits}")
        if self.block_size not in BLOCK_SIZES:
            raise ValueError(f"block_size must be one of {BLOCK_SIZES}, not {self.block_size}")

    @property
    def zero_point(self) -> int:
        """The code that means 0 in a symmetric block."""
        return 1 << (self.bits - 1)

    def __str__(self) -> str:
        """In words, as plans print it: ``rtn 4 bits, asymmetric, block 32``."""
        block = (
            f"per channel, stored in blocks of {self.block_size}" if self.per_channel else f"block {self.block_size}"
        )
        zeros = f", {self.zeros}" if self.zeros else ""
        return f"{self.method} {self.bits} bits, {'' if self.symmetric else 'asymmetric, '}{block}{zeros}"

    def blocks(self, columns: int) -> int:
        """Blocks in a row."""
        return -(-columns // self.block_size)

    def values_shape(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Shape of the packed codes, uint8: (rows, blocks, bytes in a block)."""
        return rows, self.blocks(columns), self.block_size * self.bits // 8

    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the scales, float32: (rows, blocks)."""
        return rows, self.blocks(columns)

    def zero_points_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the packed zero points, uint8: (rows, bytes in a row); a row's last byte is padded."""
        return rows, -(-self.blocks(columns) * self.bits // 8)


@dataclass(frozen=True)
class Candidates:
    """What a scale search tries in each group of weights.

    ``steps`` is what the group's extent becomes, in steps between codes: its element of largest magnitude where codes
    are symmetric, else the distance from its least to its greatest element; then ``shifts`` has what is added to the
    zero point before that is rounded. ``aligned`` asks for scales above 0.
    """

    bits: int
    steps: tuple[float, ...]
    shifts: tuple[float, ...] = ()
    aligned: bool = False

    @property
    def top(self) -> float:
        """The greatest code."""
        return float((1 << self.bits) - 1)
