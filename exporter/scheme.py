"""How one tensor is stored: bits, block size and zero point, and the byte counts that follow from them."""

from dataclasses import dataclass

BITS = (4, 8)  # what the round-to-nearest method and the graph emit; MatMulNBits itself also has 2
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Scheme:
    """Block-wise integer storage along the columns, the layout of onnxruntime's MatMulNBits.

    Each row is cut into blocks of ``block_size`` columns (the last one padded); a block has one float32 scale and
    unsigned codes; ``w ≈ (code − zero_point) · scale`` with the fixed zero point 2^(bits−1) (symmetric).
    """

    method: str
    bits: int
    block_size: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, not {self.bits}")
        if self.block_size not in BLOCK_SIZES:
            raise ValueError(f"block_size must be one of {BLOCK_SIZES}, not {self.block_size}")

    @property
    def zero_point(self) -> int:
        """The code that means 0."""
        return 1 << (self.bits - 1)

    def blocks(self, columns: int) -> int:
        """Blocks in a row."""
        return -(-columns // self.block_size)

    def values_shape(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Shape of the packed codes, uint8: (rows, blocks, bytes in a block)."""
        return rows, self.blocks(columns), self.block_size * self.bits // 8

    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the scales, float32: (rows, blocks)."""
        return rows, self.blocks(columns)
