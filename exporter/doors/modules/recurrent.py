"""LSTM and GRU as operators of their own while a module is traced, and what its checks ask of values.

torch takes them apart: into one step after the other, as many as the example has, or into a loop. ONNX has both as
operators, and so have targets, so each is traced as an operator of ours that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def recurrent_operators() -> Iterator[dict[Callable[..., object], Callable[..., object]]]:
    """While the block traces, ``torch.nn.LSTM`` and ``GRU`` stay whole; gives how each is written as ONNX.

    Beside them, it gives what the exporter has no way to write.
    """
    from onnxscript.function_libs.torch_lib.ops import core
    from torch.overrides import TorchFunctionMode

    kinds = _operators()

    class Kept(TorchFunctionMode):
        def __torch_function__(self, called: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return kinds.get(called, called)(*args, **(kwargs or {}))

    with Kept():
        yield {**dict(zip(kinds.values(), (core.aten_lstm, core.aten_gru), strict=True)), **_checks()}


def _checks() -> dict[Callable[..., object], Callable[..., object]]:
    """What ``torch._check_tensor_all`` asks of values, as ONNX: a check is no part of a graph, but is written first."""
    import torch
    from onnx_ir import DataType
    from onnxscript import opset18

    op: Any = opset18  # whose types know tensors alone

    def all_true(x: Any) -> Any:
        return op.Cast(op.ReduceMin(op.Cast(x, to=DataType.INT32.value), keepdims=0), to=DataType.BOOL.value)

    return {torch.ops.aten._is_all_true.default: all_true}


@cache
def _operators() -> dict[Any, Any]:
    """torch's functions → operators of ours that stand for them, which are registered once."""
    import torch

    more = (
        "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, "
        "bool batch_first"
    )
    library: Any = torch.library.Library("edgepress", "DEF")  # type: ignore[no-untyped-call]  # torch's own
    _KEPT.append(library)  # what it registers goes when it does
    library.define(f"lstm(Tensor input, Tensor[] hx, {more}) -> (Tensor, Tensor, Tensor)")
    library.define(f"gru(Tensor input, Tensor hx, {more}) -> (Tensor, Tensor)")

    def output(x: torch.Tensor, width: int, bidirectional: bool) -> torch.Tensor:
        return x.new_empty((*x.shape[:2], width * (1 + bidirectional)))  # (batch, length, width), or the length first

    def lstm(
        x: torch.Tensor,
        hx: Sequence[torch.Tensor],
        _params: Sequence[torch.Tensor],
        _has_biases: bool,
        _num_layers: int,
        _dropout: float,
        _train: bool,
        bidirectional: bool,
        _batch_first: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return output(x, hx[0].shape[2], bidirectional), torch.empty_like(hx[0]), torch.empty_like(hx[1])

    def gru(
        x: torch.Tensor,
        hx: torch.Tensor,
        _params: Sequence[torch.Tensor],
        _has_biases: bool,
        _num_layers: int,
        _dropout: float,
        _train: bool,
        bidirectional: bool,
        _batch_first: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return output(x, hx.shape[2], bidirectional), torch.empty_like(hx)

    library.impl("lstm", lstm, "Meta")
    library.impl("gru", gru, "Meta")
    return {torch.lstm: torch.ops.edgepress.lstm.default, torch.gru: torch.ops.edgepress.gru.default}


_KEPT: list[Any] = []
