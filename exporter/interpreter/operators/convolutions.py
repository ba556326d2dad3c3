"""Convolutions and pooling over one, two or three axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import Call, Operator, Result

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGE = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "": lambda x: x,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "LeakyRelu": functional.leaky_relu,
    "Clip": torch.clamp,
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
}


def _by_rank(call: Call, functions: Sequence[Callable[..., Tensor]], axes: int) -> Callable[..., Tensor]:
    if not 1 <= axes <= len(functions):
        call.refuse(f"it has {axes} axes of space, and 1 to {len(functions)} are known")
    return functions[axes - 1]


def _window(call: Call, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Strides and dilations."""
    ones = [1] * len(kernel)
    return list(call.get("strides", ones)), list(call.get("dilations", ones))


def _pads(call: Call, size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """What is padded before and after each axis of ``size``."""
    strides, dilations = _window(call, kernel)
    how, axes = call.get("auto_pad", "NOTSET"), len(kernel)
    if how == "VALID":
        return [0] * axes, [0] * axes
    if how in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for length, width, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
            total = max((-(-length // stride) - 1) * stride + (width - 1) * dilation + 1 - length, 0)
            less, more = total // 2, total - total // 2
            before.append(less if how == "SAME_UPPER" else more)
            after.append(more if how == "SAME_UPPER" else less)
        return before, after
    amounts = list(call.get("pads", [0] * 2 * axes))
    return amounts[:axes], amounts[axes:]


def _flat(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Amounts as torch's pad takes them, the last axis first."""
    return [amount for pair in reversed(list(zip(before, after, strict=True))) for amount in pair]


def patches(call: Call, x: Tensor, weight: Tensor) -> Tensor | None:
    """What a convolution multiplies each row of its weight (outputs, columns) by: (places, columns).

    None where a group of outputs sees some of the channels alone, or there are three axes of space.
    """
    kernel = list(weight.shape[2:])
    if call.get("group", 1) != 1 or not 1 <= len(kernel) <= 2:
        return None
    strides, dilations = _window(call, kernel)
    padded = functional.pad(x, _flat(*_pads(call, x.shape[2:], kernel)))
    if len(kernel) == 1:
        padded, kernel, strides, dilations = padded[..., None], [*kernel, 1], [*strides, 1], [*dilations, 1]
    columns = functional.unfold(padded, tuple(kernel), dilation=tuple(dilations), stride=tuple(strides))
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])  # of (n, columns, places)


def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X (n, channels, …), W (outputs, channels / group, kernel …)."""
    kernel = weight.shape[2:]
    function = _by_rank(call, _CONV, len(kernel))
    strides, dilations = _window(call, kernel)
    before, after = _pads(call, x.shape[2:], kernel)
    if before != after:
        x, before = functional.pad(x, _flat(before, after)), [0] * len(kernel)
    return function(x, weight, bias, strides, before, dilations, call.get("group", 1))


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W (channels, outputs / group, kernel …); pads cut off what the whole convolution gives."""
    kernel, axes = weight.shape[2:], weight.dim() - 2
    function = _by_rank(call, _TRANSPOSED, axes)
    strides, dilations = _window(call, kernel)
    extra = list(call.get("output_padding", [0] * axes))
    size = [
        stride * (length - 1) + more + (width - 1) * dilation + 1
        for length, width, stride, dilation, more in zip(x.shape[2:], kernel, strides, dilations, extra, strict=True)
    ]
    wanted, how = call.get("output_shape"), call.get("auto_pad", "NOTSET")
    if wanted is None and how in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [length * stride for length, stride in zip(x.shape[2:], strides, strict=True)]
    if wanted is not None:
        totals = [whole - part for whole, part in zip(size, wanted[-axes:], strict=True)]
        less = [total // 2 for total in totals]
        more = [total - half for total, half in zip(totals, less, strict=True)]
        before, after = (less, more) if how == "SAME_UPPER" else (more, less)
    else:
        amounts = [0] * 2 * axes if how == "VALID" else list(call.get("pads", [0] * 2 * axes))
        before, after = amounts[:axes], amounts[axes:]
    whole = function(x, weight, None, strides, 0, 0, call.get("group", 1), dilations)
    # torch wants output_padding below stride or dilation; zeros after the whole convolution are the same
    whole = functional.pad(
        whole, _flat([-amount for amount in before], [m - a for m, a in zip(extra, after, strict=True)])
    )
    return whole if bias is None else whole + bias.reshape(-1, *[1] * axes)


def _fused_conv(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """Conv (+ Z), then an activation."""
    made = conv(call, x, weight, bias)
    made = made if added is None else made + added
    name = call.get("activation", "")
    if name not in _ACTIVATIONS:
        call.refuse(f"its activation is {name}")
    return _ACTIVATIONS[name](made, *call.get("activation_params", []))


def _pooled(call: Call, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, and pads so that every window that counts is whole."""
    kernel = list(call.get("kernel_shape"))
    strides, dilations = _window(call, kernel)
    before, after = _pads(call, x.shape[2:], kernel)
    if call.get("ceil_mode", 0):
        for axis, length in enumerate(x.shape[2:]):
            span, padded = (kernel[axis] - 1) * dilations[axis] + 1, length + before[axis] + after[axis]
            count = math.ceil((padded - span) / strides[axis]) + 1
            if (count - 1) * strides[axis] >= length + before[axis]:  # no window begins in the padding after
                count -= 1
            after[axis] += max((count - 1) * strides[axis] + span - padded, 0)
    return kernel, strides, dilations, before, after


def _max_pool(call: Call, x: Tensor) -> Tensor:
    if call.outputs > 1:
        call.refuse("its indices are asked for")
    kernel, strides, dilations, before, after = _pooled(call, x)
    if any(before) or any(after):
        x = functional.pad(x, _flat(before, after), value=-math.inf)
    return _by_rank(call, _MAX, len(kernel))(x, kernel, strides, 0, dilations)


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel, strides, dilations, before, after = _pooled(call, x)
    if any(dilation != 1 for dilation in dilations):
        call.refuse("it has dilations")
    function, axes = _by_rank(call, _AVERAGE, len(kernel)), len(kernel)
    if not any(before) and not any(after):
        return function(x, kernel, strides)
    inside = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if call.get("count_include_pad", 0):  # what is padded counts, what ceil_mode adds does not
        _, given = _pads(call, x.shape[2:], kernel)
        inside = functional.pad(inside, _flat(before, given), value=1.0)
        rest = [total - part for total, part in zip(after, given, strict=True)]
        inside = functional.pad(inside, _flat([0] * axes, rest))
    else:
        inside = functional.pad(inside, _flat(before, after))
    sums = function(functional.pad(x, _flat(before, after)), kernel, strides)
    return sums / function(inside, kernel, strides)


def _lp_pool(call: Call, x: Tensor) -> Tensor:
    kernel, strides, dilations, before, after = _pooled(call, x)
    if any(dilation != 1 for dilation in dilations):
        call.refuse("it has dilations")
    p = call.get("p", 2)
    powers = functional.pad(x.abs() ** p, _flat(before, after))
    means = _by_rank(call, _AVERAGE, len(kernel))(powers, kernel, strides)
    return (means * math.prod(kernel)) ** (1 / float(p))


def _over_space(function: Callable[..., Tensor]) -> Operator:
    return lambda _call, x: function(x, list(range(2, x.dim())), True)


def _col2im(call: Call, x: Tensor, size: Tensor, block: Tensor) -> Result:
    shape, kernel = size.tolist(), block.tolist()
    if len(kernel) != 2:
        call.refuse(f"it has {len(kernel)} axes of space, and 2 are known")
    strides, dilations = _window(call, kernel)
    amounts = list(call.get("pads", [0] * 4))
    if amounts[:2] != amounts[2:]:
        call.refuse("its pads are not the same on both sides")
    (h, w), (tall, wide) = shape, kernel
    return functional.fold(x, (h, w), (tall, wide), tuple(dilations), tuple(amounts[:2]), tuple(strides))


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "Col2Im": _col2im,
    "Conv": conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _over_space(torch.mean),
    "GlobalMaxPool": _over_space(torch.amax),
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "com.microsoft:FusedConv": _fused_conv,
}
