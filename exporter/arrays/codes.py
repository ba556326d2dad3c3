"""A quantized weight while it is being made: codes, scales and zero points as torch tensors, unpacked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.arrays.packing import Quantized, pack, pack_zero_points, unpack, unpack_zero_points
from edgepress.exporter.arrays.parallel import each, pieces
from edgepress.exporter.arrays.scheme import Scheme

_ROWS = 256  # compared at a time


@dataclass(frozen=True)
class Codes:
    """``w ≈ (codes − zero_points) · scales``, block by block along the columns.

    ``codes`` uint8 (rows, columns); ``scales`` float32 and ``zero_points`` uint8, both (rows, blocks); the zero points
    of a symmetric scheme are all ``scheme.zero_point``.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor
    scheme: Scheme

    def dequantize(self) -> Tensor:
        """The weight as the kernels see it, float32 (rows, columns)."""
        (rows, columns), (_, blocks), size = self.codes.shape, self.scales.shape, self.scheme.block_size
        codes = functional.pad(self.codes, (0, blocks * size - columns)).view(rows, blocks, size)
        weights = (codes - self.zero_points.float()[:, :, None]) * self.scales[:, :, None]  # (rows, blocks, block size)
        return weights.view(rows, blocks * size)[:, :columns]

    def to(self, device: torch.device) -> Codes:
        """The same codes on ``device``."""
        return Codes(self.codes.to(device), self.scales.to(device), self.zero_points.to(device), self.scheme)

    def pack(self) -> Quantized:
        """The weight as it is stored."""
        rows, columns = self.codes.shape
        scheme, blocks = self.scheme, self.scales.shape[1]
        size = blocks * scheme.block_size
        codes = self.codes.cpu().numpy()
        zero_points = self.zero_points.cpu().numpy()
        if size != columns:  # a padded column has the code that means 0
            fill = np.repeat(zero_points[:, -1:], size - columns, axis=1)
            codes = np.concatenate([codes, fill], axis=1)
        values = pack(codes.reshape(rows, blocks, scheme.block_size), scheme.bits)
        packed = None if scheme.symmetric else pack_zero_points(zero_points, scheme.bits)
        return Quantized(values, self.scales.detach().cpu().numpy(), packed)

    @classmethod
    def unpack(cls, stored: Quantized, scheme: Scheme, columns: int) -> Codes:
        """The inverse of :meth:`pack`."""
        rows, blocks = stored.scales.shape
        codes = unpack(stored.values, scheme.bits).reshape(rows, blocks * scheme.block_size)[:, :columns]
        if stored.zero_points is None:
            zero_points = np.full((rows, blocks), scheme.zero_point, np.uint8)
        else:
            zero_points = unpack_zero_points(stored.zero_points, scheme.bits, blocks)
        return cls(
            torch.from_numpy(np.array(codes)),
            torch.from_numpy(np.array(stored.scales)),
            torch.from_numpy(np.array(zero_points)),
            scheme,
        )


def spread(per_block: Tensor, scheme: Scheme, columns: int) -> Tensor:
    """One value a block, (rows, blocks), as one a column, (rows, columns)."""
    return per_block.repeat_interleave(scheme.block_size, dim=1)[:, :columns]


def report(full: Tensor, codes: Codes) -> dict[str, float | None]:
    """How near ``codes`` are to ``full``: SQNR in dB (None when exact) and the largest error."""
    error = full - codes.dequantize()

    def power_of(x: Tensor) -> float:
        return math.fsum(each(lambda rows: float(x[rows].double().square().sum()), pieces(len(x), _ROWS), x.device))

    power, noise = power_of(full), power_of(error)
    return {
        "sqnr_db": 10 * math.log10(power / noise) if noise > 0 and power > 0 else None,
        "max_abs_error": float(error.abs().max()),
    }
