"""Operators that move elements about and look at shapes."""

from __future__ import annotations

import math

import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import Call, Operator, Result, integers

_TO_THE_END = ((1 << 31) - 1, (1 << 63) - 1)  # ends that onnxruntime reads as "all that is there"


def _shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[slice(call.get("start", 0), call.get("end"))], dtype=torch.int64)


def _size(_call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


def _reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    """A 0 keeps the size that stands there, unless ``allowzero``."""
    sizes = integers(call.get("shape") if shape is None else shape) or []
    if not call.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return (
        x.reshape(math.prod(x.shape[:axis]), -1)
        if x.numel()
        else x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    )


def _squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = integers(call.get("axes") if axes is None else axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = integers(call.get("axes") if axes is None else axes) or []
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.get("perm", list(range(x.dim()))[::-1]))


def _concat(call: Call, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, call.get("axis", 1))


def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> Result:
    """Without sizes the parts are equal, the last one smaller if need be."""
    axis, parts = call.get("axis", 0), integers(call.get("split") if sizes is None else sizes)
    if parts is None:
        each = -(-x.shape[axis] // call.get("num_outputs", call.outputs))
        return torch.split(x, each, axis)
    return torch.split(x, parts, axis)


def _expand(_call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """As numpy broadcasts: a size of 1 in the shape keeps the size that is there."""
    wanted = integers(shape) or []
    rank = max(len(wanted), x.dim())
    sizes = zip([1] * (rank - x.dim()) + list(x.shape), [1] * (rank - len(wanted)) + wanted, strict=True)
    return x.expand([there if size == 1 else size for there, size in sizes])


def _tile(_call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats) or [1] * x.dim())


def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value = call.get("value")
    array = torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value).copy())
    return array.reshape(()).expand(integers(shape) or []).clone()


def _range(_call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return start.reshape(()) + torch.arange(count).to(start.dtype) * delta.reshape(())


def _slice(call: Call, x: Tensor, *inputs: Tensor | None) -> Tensor:
    """Starts, ends, axes and steps are attributes before opset 10. Ends beyond an axis stop there."""
    if inputs:
        starts, ends, axes, steps = [integers(value) for value in (*inputs, None, None, None)[:4]]
    else:
        starts, ends, axes, steps = [call.get(name) for name in ("starts", "ends", "axes", "steps")]
    starts, ends = starts or [], ends or []
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[index] if axes else index, steps[index] if steps else 1
        size = x.shape[axis]
        if step > 0:
            first, last = (min(max(place + size if place < 0 else place, 0), size) for place in (start, end))
            if step == 1:
                x = x.narrow(axis, first, max(last - first, 0))
                continue
            places = torch.arange(first, max(last, first), step)
        else:
            first = min(max(start + size if start < 0 else start, 0), size - 1)
            stop = -1 if end in _TO_THE_END else end + size if end < 0 else end
            last = min(max(stop, -1), size - 1)
            places = torch.arange(first, min(last, first), step)
        x = x.index_select(axis, places.to(x.device))
    return x


def _pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Amounts are [all befores, all afters]; a negative one cuts off. Attributes before opset 11."""
    amounts = integers(call.get("pads") if pads is None else pads) or []
    places = integers(axes)
    places = list(range(x.dim())) if places is None else places
    before, after = amounts[: len(places)], amounts[len(places) :]
    widths = [(0, 0)] * x.dim()
    for place, low, high in zip(places, before, after, strict=True):
        widths[place % x.dim()] = (low, high)
    mode = call.get("mode", "constant")
    if mode == "constant":
        fill = call.get("value", 0.0) if value is None else value.item()
        flat = [amount for pair in reversed(widths) for amount in pair]
        return functional.pad(x, flat, value=fill) if x.dim() else x
    for axis, (low, high) in enumerate(widths):  # torch pads only the last axes so, of a value with one or two more
        if (low, high) != (0, 0):
            x = x.index_select(axis, _padded(x.shape[axis], low, high, mode).to(x.device))
    return x


def _padded(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which place of an axis each place of the padded axis shows."""
    places = torch.arange(-before, size + after)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if size > 1 else places * 0


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    size, (n, c, h, w) = call.get("blocksize"), x.shape
    if call.get("mode", "DCR") == "CRD":
        return x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, h * size, w * size)
    return x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * size, w * size)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    size, (n, c, h, w) = call.get("blocksize"), x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * size**2, h // size, w // size)


def _triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if call.get("upper", 1) else torch.tril(x, diagonal)


def _eye_like(call: Call, x: Tensor) -> Tensor:
    dtype = {TensorProto.INT64: torch.int64, TensorProto.FLOAT: torch.float32}.get(call.get("dtype", 0), x.dtype)
    rows, columns = x.shape
    places = torch.arange(columns)[None] - torch.arange(rows)[:, None]
    diagonal: int = call.get("k", 0)
    return (places == diagonal).to(dtype)


def _reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    batch, time = call.get("batch_axis", 1), call.get("time_axis", 0)
    if {batch, time} != {0, 1}:
        call.refuse("its axes are not 0 and 1")
    places = torch.arange(x.shape[time])[:, None].expand(-1, x.shape[batch])  # (time, batch)
    ends = lengths.reshape(1, -1)
    turned = torch.where(places < ends, ends - 1 - places, places)
    turned = turned if time == 0 else turned.T
    return x.gather(time, turned.reshape(*turned.shape, *[1] * (x.dim() - 2)).expand(x.shape))


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
