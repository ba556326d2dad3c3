"""The graph of integers in torch: which of its constants are weights, biases and ranges that can learn."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import onnx
import torch
from torch import Tensor

from edgepress.exporter.graph.qdq import Ranges, Widths, calibrate, quantize
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.qdq.roles import channel_axis, fixed_range
from edgepress.exporter.interpreter.network import Feed, Network
from edgepress.exporter.recipe.recipe import Activations
from edgepress.exporter.streams.shipping import Bias, BlockWeight, ChannelWeight, Range, Shipped

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def ship_channels(path: Path, feeds: Iterable[Feed], activations: Activations, widths: Widths) -> Shipped:
    """What ships of the float model in ``path``, in integers, its ranges found by ``activations`` from ``feeds``."""
    return open_channels(path, quantize(path, calibrate(path, feeds, activations), widths), widths)


def open_channels(path: Path, integers: onnx.ModelProto, widths: Widths) -> Shipped:
    """The graph ``integers`` that was written of the float model in ``path``, its constants open."""
    model, network = FloatModel(path), Network(integers)
    constants = network.constants
    ranges = _ranges(model, network, widths.activation_bits)
    of_value = {f"{name}.scale": one for one in ranges for name in one.names}
    weights: dict[str, ChannelWeight | BlockWeight] = {}
    biases: dict[str, Bias] = {}
    for node in model.nodes:
        if node.op_type not in _WEIGHTED or len(node.input) < 2:
            continue
        name, axis = node.input[1], channel_axis(node)
        prefix = f"{name}.weight{axis}"
        if f"{prefix}.integers" not in constants:
            continue
        if name not in weights:
            full = torch.from_numpy(model.value(name).copy())
            scale, bits = constants[f"{prefix}.scale"], 4 if _is_narrow(network, prefix) else 8
            weights[name] = ChannelWeight(name, prefix, full, scale, axis=axis, bits=bits)
        prefix = f"{node.output[0]}.bias"
        if len(node.input) > 2 and f"{prefix}.integers" in constants and node.input[2] not in biases:
            bias = Bias(node.input[2], torch.from_numpy(model.value(node.input[2]).copy()), prefix)
            weight = weights[name]
            if isinstance(weight, ChannelWeight):
                bias.weight, bias.input = weight, _scale_of(f"{node.input[0]}.scale", of_value, constants)
                biases[bias.name] = bias
    return Shipped("channels", network, weights, biases, ranges)


def _scale_of(name: str, learned: dict[str, Range], constants: dict[str, Tensor]) -> _Scale:
    return _Scale(learned.get(name), constants[name])


class _Scale:
    """The scale of an activation, as it stands."""

    def __init__(self, learned: Range | None, fixed: Tensor) -> None:
        self._learned, self._fixed = learned, fixed

    def __call__(self) -> Tensor:
        return self._fixed if self._learned is None else self._learned.scale


def _is_narrow(network: Network, prefix: str) -> bool:
    return network.types[f"{prefix}.integers"] == onnx.TensorProto.INT4


def _ranges(model: FloatModel, network: Network, bits: int) -> list[Range]:
    """The scales of activations that can learn, each of all values that are tied to each other."""
    groups: dict[str, list[str]] = defaultdict(list)
    fixed: set[str] = set()
    for name in model.activations():
        tie = model.ties.of(name)
        groups[tie].append(name)
        if name in model.inputs or (name in model.makers and fixed_range(model.makers[name], bits)):
            fixed.add(tie)
    found = []
    for tie, names in groups.items():
        there = [name for name in names if f"{name}.scale" in network.constants]
        if tie not in fixed and there:
            scale = network.constants[f"{there[0]}.scale"]
            capped = any(name in model.makers and model.makers[name].op_type == "Clip" for name in names)
            found.append(Range(there, scale, most=1.0 if capped else math.inf))
    return found


def learned_ranges(shipped: Shipped, ranges: Ranges) -> Ranges:
    """``ranges`` with what was learned of them: both ends move, and the zero point stays."""
    found = dict(ranges)
    for one in shipped.ranges:
        for name in one.names:
            low, high = ranges[name]
            found[name] = low * one.learned, high * one.learned
    return found
