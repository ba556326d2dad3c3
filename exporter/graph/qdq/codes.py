"""Integers for weights, gains, biases and constants: the arithmetic of QDQ, on arrays.

``w = code · scale`` for weights, with one positive scale for each channel (the HTP computes silently wrong values with
negative ones, and with int4 zero points other than 0 beside 16-bit activations); ``w = (code − zero point) · scale``
for what is in the form of an activation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.arrays.ranges import to_scale

Floats = NDArray[np.float32]
Codes = NDArray[np.int32]

_SHRINK = np.linspace(1, 0.4, 25)  # of the largest magnitude, among which int4 scales are searched
_LARGEST_BIAS = 2**30  # half of what int32 holds: room for the sums that are added
_OFF_GRID = 1e-2  # steps


@dataclass(frozen=True)
class Rounded:
    """A weight that has been rounded already: ``w = code · scale``.

    ``scale`` is (channels,), along the axis of output channels; ``bits`` is 4 or 8.
    """

    scale: Floats
    bits: int


def along(scale: Floats, axis: int, rank: int) -> Floats:
    """``scale`` (channels,) so that it broadcasts against a weight of ``rank`` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


def round_weight(weight: Floats, axis: int, bits: int, least: Floats | None = None) -> tuple[Codes, Floats]:
    """Codes (the weight's shape) and scales (channels,) of plain rounding, symmetric around 0.

    8 bits reach to the largest magnitude. With 4 bits the least squared error among clipped ranges decides. No scale is
    below ``least``, (channels,).
    """
    top = 2 ** (bits - 1) - 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float32)  # (channels,)
    largest[largest == 0] = 1
    best = (largest / np.float32(top)).astype(np.float32)
    if bits == 4:
        lowest = np.full(largest.shape, np.inf)
        for share in _SHRINK:
            scale = (largest * np.float32(share / top)).astype(np.float32)
            step = along(scale, axis, weight.ndim)
            error = np.square(_nearest(weight, step, top) * step - weight).sum(axis=others, dtype=np.float64)
            best = np.where(error < lowest, scale, best)
            lowest = np.minimum(error, lowest)
    if least is not None:
        best = np.maximum(best, least)
    return _nearest(weight, along(best, axis, weight.ndim), top).astype(np.int32), best


def _nearest(weight: Floats, step: Floats, top: int) -> Floats:
    return np.asarray(np.clip(np.rint(weight / step), -top - 1, top), np.float32)


def recover(name: str, weight: Floats, axis: int, rounded: Rounded) -> tuple[Codes, Floats]:
    """The codes of a weight that is rounded already; a negative scale is turned where no code is the least one.

    Raises:
        InputError: the scale is none for each channel, the weight is not on its grid, or a code does not fit.

    """
    if rounded.scale.shape != (weight.shape[axis],):
        raise InputError(
            f"{name}: the scale has shape {rounded.scale.shape}, the weight {weight.shape}; QDQ weights have one scale "
            f"for each of {weight.shape[axis]} channels: use a recipe without blocks"
        )
    scale = rounded.scale.astype(np.float32)
    if not (np.isfinite(scale) & (scale != 0)).all():
        raise InputError(f"{name}: a scale is 0 or not finite")
    exact = weight.astype(np.float64) / along(np.abs(scale), axis, weight.ndim)
    codes = np.rint(exact)
    if (off := float(np.abs(exact - codes).max())) > _OFF_GRID:
        raise InputError(f"{name} is {off:.3f} steps off the grid of its scale: it is not rounded, or zero is no code")
    top = 2 ** (rounded.bits - 1) - 1
    if codes.max() > top or codes.min() < -top - 1:
        hint = "; take positive scales" if (scale < 0).any() else ""
        raise InputError(
            f"{name} has codes {codes.min():.0f} to {codes.max():.0f}, int{rounded.bits} ends at {top}{hint}"
        )
    return codes.astype(np.int32), np.abs(scale)


def round_constant(value: Floats, low: float, high: float, bits: int) -> tuple[Codes, np.float32, int]:
    """Codes, scale and zero point of unsigned integers that reach from ``low`` to ``high`` (and hold 0)."""
    scale, zero = to_scale(min(low, 0.0), max(high, 0.0), bits)
    return np.clip(np.rint(value.astype(np.float64) / scale) + zero, 0, 2**bits - 1).astype(np.int32), scale, zero


def bias_floor(bias: Floats, input_scale: np.float32) -> Floats:
    """The least weight scale of each channel with which its bias fits int32, (channels,)."""
    return (np.abs(bias) / np.float32(_LARGEST_BIAS) / input_scale).astype(np.float32)


def round_bias(name: str, bias: Floats, scale: Floats) -> Codes:
    """Codes of a bias, whose scale is input scale · weight scale, (channels,) or one for all."""
    codes = np.rint(bias.astype(np.float64) / scale)
    if (largest := float(np.abs(codes).max())) >= 2**31:
        raise InputError(f"the bias {name} is {largest:.3g} steps of input · weight, more than int32 holds")
    return codes.astype(np.int32)


def round_symmetric(value: Floats, bits: int) -> tuple[Codes, np.float32]:
    """Codes and one scale, symmetric around 0."""
    top = 2 ** (bits - 1) - 1
    scale = np.float32(np.abs(value).max() / top)
    scale = scale if scale > 0 else np.float32(1)
    return np.clip(np.rint(value / scale), -top, top).astype(np.int32), scale


def pack_int4(codes: Codes) -> bytes:
    """ONNX's int4 bytes: two codes each, the first in the low nibble; an odd last one is padded with 0."""
    flat = (codes.reshape(-1) & 15).astype(np.uint8)
    flat = np.pad(flat, (0, flat.size % 2))
    return bytes((flat[0::2] | flat[1::2] << 4).tobytes())
