"""Integers: quantized and dequantized values, through whose rounding gradients go straight (Bengio et al. 2013).

What QuantizeLinear gives holds integers in float32, so that gradients pass it. They are those of LSQ (Esser et al.
2020, equation 3) by themselves: a value inside its range passes its gradient on, and moves the scale by how far it was
rounded; one outside moves the scale by the code where it was cut off.
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from edgepress.exporter.interpreter.call import LIMITS, Call, Operator


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0]


def round_through(x: Tensor) -> Tensor:
    """``x`` rounded to even; its gradient is as if it were not."""
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


def _spread(call: Call, value: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point to broadcast against ``x``: one for all, one a place of an axis, or one a block."""
    if value.numel() == 1:
        return value.reshape(())
    axis = call.get("axis", 1) % x.dim()
    if size := call.get("block_size", 0):
        return value.repeat_interleave(size, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis] = -1
    return value.reshape(shape)


def _quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """clip(round(x / scale) + zero point)."""
    kind = call.type_of(2) or call.get("output_dtype", 0) or TensorProto.UINT8
    if kind not in LIMITS:
        call.refuse(f"it rounds to type {kind}")
    codes = round_through(x / _spread(call, scale, x))
    if zero is not None:
        codes = codes + _spread(call, zero, x)
    return codes.clamp(*LIMITS[kind])


def _dequantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x − zero point) · scale."""
    codes = x.to(scale.dtype)
    if zero is not None:
        codes = codes - _spread(call, zero, x)
    return codes * _spread(call, scale, x)


def _dynamic(_call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear: uint8 codes of the range that holds the values and 0, the scale and the zero point."""
    low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = round_through((0 - low / scale).clamp(0, 255))
    return (round_through(x / scale) + zero).clamp(0, 255), scale, zero


def _integer_product(
    _call: Call, a: Tensor, b: Tensor, zero_a: Tensor | None = None, zero_b: Tensor | None = None
) -> Tensor:
    """MatMulInteger: (A − zero) (B − zero), zero points of A's rows and B's columns."""
    a, b = a.float(), b.float()
    if zero_a is not None:
        a = a - (zero_a.float()[..., None] if zero_a.dim() == 1 and zero_a.numel() > 1 else zero_a.float())
    if zero_b is not None:
        b = b - zero_b.float()
    return a @ b


def _product_of_blocks(
    call: Call,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    order: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """MatMulNBits: x Wᵀ (+ bias), W (N, K) in blocks along K, (code − zero point) · scale.

    Codes (N, blocks, bytes) and zero points (N, bytes) are packed from the lowest bits of a byte on.
    """
    bits, size, rows, columns = (call.get(name) for name in ("bits", "block_size", "N", "K"))
    if order is not None:
        call.refuse("its columns are in an order of their own")
    blocks = -(-columns // size)
    unpacked = _unpacked(codes.reshape(rows, blocks, -1), bits)[..., :size].to(scales.dtype)
    if zeros is None:
        middle: Tensor | float = float(1 << (bits - 1))
    elif zeros.is_floating_point():
        middle = zeros.reshape(rows, blocks, 1)
    else:
        middle = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks, None].to(scales.dtype)
    weight = ((unpacked - middle) * scales.reshape(rows, blocks, 1)).reshape(rows, -1)[:, :columns]
    return torch.nn.functional.linear(x, weight, bias)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Bytes (…, n) as codes (…, n · 8 / bits)."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)


OPERATORS: dict[str, Operator] = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _integer_product,
    "QuantizeLinear": _quantize,
    "com.microsoft:DequantizeLinear": _dequantize,
    "com.microsoft:MatMulNBits": _product_of_blocks,
    "com.microsoft:QuantizeLinear": _quantize,
}
