"""Fourier transforms and windows, as the front ends of speech models have them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgepress.exporter.interpreter.call import Call, Operator


def _complex(x: Tensor) -> Tensor:
    """(…, 1) real or (…, 2) real and imaginary parts → complex numbers (…)."""
    return torch.complex(x[..., 0], torch.zeros_like(x[..., 0]) if x.shape[-1] == 1 else x[..., 1])


def _dft(call: Call, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """The axis is an attribute before opset 20, 1 by default; then an input, −2 by default."""
    place = call.get("axis", 1) if call.version < 20 else (-2 if axis is None else int(axis))
    place = place % x.dim()
    size = None if length is None else int(length)
    values = _complex(x)
    if call.get("inverse", 0):
        if call.get("onesided", 0):
            call.refuse("it is inverse and onesided")
        made = torch.fft.ifft(values, size, place)
    else:
        made = torch.fft.fft(values, size, place)
    if call.get("onesided", 0):
        made = made.narrow(place, 0, made.shape[place] // 2 + 1)
    return torch.view_as_real(made)


def _stft(call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """(batch, samples, 1) → (batch, frames, bins, 2)."""
    if window is None and length is None:
        call.refuse("neither a window nor a frame length is given")
    if x.dim() == 3 and x.shape[-1] == 2:
        call.refuse("its signal is complex")
    size = int(length) if length is not None else len(window) if window is not None else 0
    frames = x.reshape(*x.shape[:2]).unfold(1, size, int(step))  # (batch, frames, size)
    frames = frames if window is None else frames * window
    made = torch.fft.rfft(frames) if call.get("onesided", 1) else torch.fft.fft(frames)
    return torch.view_as_real(made)


def _window(*cosines: float) -> Operator:
    """a₀ − a₁ cos(2πn/N) + a₂ cos(4πn/N); the period is N − 1 where it is not periodic."""

    def operator(call: Call, size: Tensor) -> Tensor:
        count = int(size)
        period = count if call.get("periodic", 1) else count - 1
        n = torch.arange(count, dtype=torch.float64) * 2 * math.pi / period
        made = sum(((-1) ** k * a * torch.cos(k * n) for k, a in enumerate(cosines)), torch.zeros(count).double())
        return made.float()

    return operator


OPERATORS: dict[str, Operator] = {
    "BlackmanWindow": _window(0.42, 0.5, 0.08),
    "DFT": _dft,
    "HammingWindow": _window(25 / 46, 21 / 46),
    "HannWindow": _window(0.5, 0.5),
    "STFT": _stft,
}
