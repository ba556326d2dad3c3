"""Normalizations, and onnxruntime's with what is added before them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import Call, Operator, Result


def _batch_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """As in inference: with the statistics of training."""
    if call.get("training_mode", 0):
        call.refuse("training_mode is set")
    return functional.batch_norm(x, mean, variance, gain, bias, False, 0.0, call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Result:
    """Over all axes from ``axis`` on; also the mean and 1 / deviation where these are asked for."""
    axes = list(range(call.get("axis", -1) % x.dim(), x.dim()))
    epsilon = call.get("epsilon", 1e-5)
    if call.outputs == 1 and gain.shape == x.shape[axes[0] :]:
        return functional.layer_norm(x, gain.shape, gain, bias, epsilon)
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    made = (x - mean) * inverse * gain
    return (made if bias is None else made + bias), mean, inverse


def _rms_norm(call: Call, x: Tensor, gain: Tensor) -> Result:
    """RMSNormalization and SimplifiedLayerNormalization; also 1 / root mean square where it is asked for."""
    axes = list(range(call.get("axis", -1) % x.dim(), x.dim()))
    inverse = torch.rsqrt(x.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    return x * inverse * gain, inverse


def _skip_layer_norm(
    call: Call, x: Tensor, skip: Tensor, gain: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
) -> Result:
    """The norm of X + skip (+ bias); the fourth output is that sum."""
    total = x + skip if bias is None else x + skip + bias
    made = functional.layer_norm(total, total.shape[-1:], gain, beta, call.get("epsilon", 1e-12))
    return made, None, None, total


def _skip_rms_norm(call: Call, x: Tensor, skip: Tensor, gain: Tensor, bias: Tensor | None = None) -> Result:
    total = x + skip if bias is None else x + skip + bias
    inverse = torch.rsqrt(total.square().mean(-1, keepdim=True) + call.get("epsilon", 1e-12))
    return total * inverse * gain, None, None, total


def _instance_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, None, None, gain, bias, True, 0.0, call.get("epsilon", 1e-5))


def _group_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Gain and bias are a number a group before opset 21, then one a channel."""
    groups, channels = call.get("num_groups"), x.shape[1]
    if gain.numel() == groups != channels:
        gain, bias = (y.repeat_interleave(channels // groups) for y in (gain, bias))
    return functional.group_norm(x, groups, gain, bias, call.get("epsilon", 1e-5))


def _channel_norm(call: Call, x: Tensor) -> Tensor:
    """MeanVarianceNormalization: of what ``axes`` span."""
    axes = list(call.get("axes", [0, 2, 3]))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


def _local_response(call: Call, x: Tensor) -> Tensor:
    """LRN: the window reaches ⌊(size − 1) / 2⌋ channels back and ⌈(size − 1) / 2⌉ on."""
    size = call.get("size")
    squares = functional.pad(x.square(), [0] * 2 * (x.dim() - 2) + [(size - 1) // 2, size // 2])
    sums = squares.unfold(1, size, 1).sum(-1)
    bias, alpha, beta = call.get("bias", 1.0), call.get("alpha", 1e-4), call.get("beta", 0.75)
    total: Tensor = bias + alpha / size * sums
    return x / total.pow(beta)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "MeanVarianceNormalization": _channel_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "com.microsoft:SkipLayerNormalization": _skip_layer_norm,
    "com.microsoft:SkipSimplifiedLayerNormalization": _skip_rms_norm,
}
