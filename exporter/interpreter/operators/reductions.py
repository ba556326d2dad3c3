"""Operators that make one number of many: sums, extremes, their places, running sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import Call, Operator, Result, integers, number

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(function: _Reduction) -> Operator:
    """Axes are an attribute before opset 18 (ReduceSum: 13), then an input; none are all, or with a setting nothing."""

    def operator(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = integers(call.get("axes") if axes is None else axes)
        if not chosen:
            if call.get("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.dim()))
        keep = bool(call.get("keepdims", 1))
        return function(x, chosen, keep) if x.dim() else function(x[None], [0], False)

    return operator


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _extreme(index: Callable[..., Tensor]) -> Operator:
    """ArgMax and ArgMin; the last of equals with ``select_last_index``."""

    def operator(call: Call, x: Tensor) -> Tensor:
        axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
        if call.get("select_last_index", 0):
            last: int = x.shape[axis] - 1
            return last - index(x.flip(axis), dim=axis, keepdim=keep)
        return index(x, dim=axis, keepdim=keep)

    return operator


def _softmax(function: Callable[..., Tensor]) -> Operator:
    """Before opset 13 all axes from ``axis`` on are one."""

    def operator(call: Call, x: Tensor) -> Tensor:
        if call.version >= 13:
            return function(x, dim=call.get("axis", -1))
        axis = call.get("axis", 1) % max(x.dim(), 1)
        return function(x.flatten(axis), dim=-1).reshape(x.shape)

    return operator


def _hardmax(call: Call, x: Tensor) -> Tensor:
    if call.version < 13:
        call.refuse(f"opset {call.version}, and it is read from 13 on")
    axis = call.get("axis", -1)
    return torch.zeros_like(x).scatter_(axis, x.argmax(axis, keepdim=True), 1)


def _running_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    dim, reverse = int(axis), bool(call.get("reverse", 0))
    x = x.flip(dim) if reverse else x
    total = x.cumsum(dim, dtype=x.dtype)
    total = total - x if call.get("exclusive", 0) else total
    return total.flip(dim) if reverse else total


def _top(call: Call, x: Tensor, count: Tensor | None = None) -> Result:
    """TopK; the number is an attribute before opset 10."""
    k = call.get("k") if count is None else int(count)
    is_largest = bool(call.get("largest", 1))
    found = torch.sort(x, dim=call.get("axis", -1), descending=is_largest, stable=True)
    return tuple(part.narrow(call.get("axis", -1), 0, k) for part in found)


def _non_zero(_call: Call, x: Tensor) -> Tensor:
    return x.nonzero().T.contiguous()


def _lp_norm(call: Call, x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, call.get("p", 2), call.get("axis", -1), keepdim=True)
    return torch.where(size == 0, torch.zeros_like(x), x / size)


def _one_hot(call: Call, ids: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count = int(number(depth, 0))
    hot = functional.one_hot(ids.long() % count, count).bool()
    hot &= ((ids >= -count) & (ids < count))[..., None]
    made = torch.where(hot, values[1], values[0])
    axis = call.get("axis", -1)
    return made.movedim(-1, axis)


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.abs().sum(axes, keep, dtype=x.dtype)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


OPERATORS: dict[str, Operator] = {
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "CumSum": _running_sum,
    "Hardmax": _hardmax,
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": _lp_norm,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "ReduceL1": _reduce(_l1),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(_sum),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype)),
    "Softmax": _softmax(torch.softmax),
    "TopK": _top,
}
