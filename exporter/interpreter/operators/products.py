"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import Call, Operator


def _matmul(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha · A' B' + beta · C."""
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    alpha, beta = float(call.get("alpha", 1.0)), float(call.get("beta", 1.0))
    product = a @ b
    product = product if alpha == 1 else product * alpha
    return product if c is None else product + (c if beta == 1 else c * beta)


def _fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """A' B' · alpha; with ``transBatch…`` the first axis stands before the last."""
    for name, flag in (("transBatchA", 0), ("transBatchB", 0)):
        call.only(**{name: flag})
    a = a.mT if call.get("transA", 0) else a
    b = b.mT if call.get("transB", 0) else b
    return torch.matmul(a, b) * float(call.get("alpha", 1.0))


_ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "": lambda x, _: x,
    "Relu": lambda x, _: torch.relu(x),
    "Sigmoid": lambda x, _: torch.sigmoid(x),
    "Tanh": lambda x, _: torch.tanh(x),
    "LeakyRelu": functional.leaky_relu,
}


def _fused_gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Gemm, then an activation."""
    made = _gemm(call, a, b, c)
    name = call.get("activation", "")
    if name not in _ACTIVATIONS:
        call.refuse(f"its activation is {name}")
    return _ACTIVATIONS[name](made, call.get("activation_alpha", 0.01))


def _einsum(call: Call, *inputs: Tensor) -> Tensor:
    return torch.einsum(call.get("equation"), *inputs)


OPERATORS: dict[str, Operator] = {
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "com.microsoft:FusedGemm": _fused_gemm,
    "com.microsoft:FusedMatMul": _fused_matmul,
}
