"""A float graph in integers throughout (QDQ), its weights in the data file as the plan says.

What a plan lists of such a graph: weights with codes (``signed``), constants that are rounded as values are
(``value``), and what stays float. Biases and gains get integers that follow from those, and lie in the graph's file.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.graph.foreign.roles import Foreign
from edgepress.exporter.graph.qdq import WIDTHS, Widths
from edgepress.exporter.graph.qdq.codes import along
from edgepress.exporter.graph.qdq.floats import name_of
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.qdq.roles import Role, channel_axis, role
from edgepress.exporter.graph.weights import refer
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.plan import Plan, PlannedTensor
from edgepress.exporter.recipe.recipe import KEPT_BITS, Activations, Recipe
from edgepress.exporter.source.part import Part


def widths_of(activations: Activations, bits: int) -> Widths:
    """The widths of a recipe's activations and of most of its weights; what is narrower or wider is named apart."""
    name = ("a16" if activations.type == "uint16" else "a8") + "w8"
    return WIDTHS["a16w4" if name == "a16w8" and bits == 4 else name]


def describe_static(model: FloatModel, foreign: Foreign, recipe: Recipe) -> Foreign:
    """What each weight becomes in integers; those that become the integers of a sum or a norm are not listed.

    ``recipe`` is what was decided: it names the nodes that compute in float, and the weights that stay as they are.
    """
    floats = recipe.activations.kept_layers
    whole = {one.name for one in foreign.listed if recipe.storage(one.name, one.kind)[0].bits == KEPT_BITS}
    found = (_static(model, weight, foreign.dims[weight.name], floats, whole) for weight in foreign.listed)
    return replace(foreign, listed=tuple(weight for weight in found if weight is not None))


def _static(
    model: FloatModel, weight: Weight, dims: tuple[int, ...], floats: Collection[str], whole: Collection[str]
) -> Weight | None:
    uses = [(node, index) for node in model.nodes for index, name in enumerate(node.input) if name == weight.name]
    roles = {_role(node, index, len(dims), floats) for node, index in uses}
    if weight.name in model.read_inside or roles == {"float"}:
        rows, *rest = dims
        shape = (rows, math.prod(rest)) if rest else (rows,)
        return Weight(weight.name, "constant", shape, (Part(weight.name, 0, rows),))
    if roles == {"weight"} and len(axes := {channel_axis(node) for node, _ in uses}) == 1:
        axis = 0 if weight.name in whole else axes.pop()  # what stays float lies as the graph reads it
        shape = (dims[axis], math.prod(dims) // dims[axis])
        return Weight(weight.name, weight.kind, shape, (Part(weight.name, 0, dims[axis]),), static="signed")
    if roles == {"activation"}:
        rows, *rest = dims
        shape = (rows, math.prod(rest)) if rest else (rows,)
        return Weight(weight.name, weight.kind, shape, (Part(weight.name, 0, rows),), static="value")
    return None


def _role(node: onnx.NodeProto, index: int, rank: int, floats: Collection[str]) -> Role:
    """What a constant of ``rank`` axes is to a node; to one in float no integers of an activation."""
    found = role(node, index, is_constant=True, rank=rank)
    return "float" if found == "activation" and name_of(node) in floats else found


def planned_bits(plan: Plan) -> dict[str, int]:
    """Bits of each weight with codes, 32 where it stays float; of weights that nodes multiply by."""
    return {
        tensor.weight.name: 32 if tensor.scheme is None else tensor.scheme.bits
        for tensor in plan.tensors
        if tensor.weight.static == "signed"
    }


@dataclass
class Integers:
    """What was made of the weights: arrays by weight and region, as the data file has them, and how near they are."""

    arrays: dict[tuple[str, str], NDArray[Any]] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.reports

    def array(self, name: str, part: str) -> NDArray[Any]:
        """One region of a weight."""
        return self.arrays[name, part]

    def weight(self, name: str) -> Quantized | NDArray[np.float32]:
        """These are stored as they are, region by region."""
        raise ValueError(f"{name} has regions alone")


def place(quantized: onnx.ModelProto, float_model: FloatModel, plan: Plan, data_file: str) -> Integers:
    """Have a QDQ graph read its planned weights from ``data_file``; return what is to be written there."""
    made = Integers()
    initializers = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for tensor in plan.tensors:
        name = tensor.weight.name
        for region, initializer in _parts(tensor, initializers).items():
            stored = initializers[initializer]
            content = np.frombuffer(stored.raw_data, np.uint8)
            if len(content) != tensor.regions[region].nbytes:
                raise ValueError(f"{initializer}: {len(content)} bytes, planned {tensor.regions[region].nbytes}")
            if region != "data":
                made.arrays[name, region] = content
            refer(stored, data_file, tensor.regions[region].offset, tensor.regions[region].nbytes)
        if tensor.form != "float":
            made.reports[name] = _report(tensor, initializers, made, np.asarray(float_model.value(name), np.float64))
    return made


def _parts(tensor: PlannedTensor, initializers: Mapping[str, onnx.TensorProto]) -> dict[str, str]:
    """The initializers of a QDQ graph that are the regions of a weight."""
    name = tensor.weight.name
    if tensor.form == "float":
        return {"data": name}
    if tensor.form != "signed":
        return {"values": f"{name}.integers"}
    key = next((f"{name}.weight{axis}" for axis in (0, 1) if f"{name}.weight{axis}.integers" in initializers), None)
    if key is None:
        raise InputError(f"{name} is in no node that is written in integers; keep it by bits = 32")
    return {"values": f"{key}.integers", "scales": f"{key}.scale"}


def _report(
    tensor: PlannedTensor, initializers: Mapping[str, onnx.TensorProto], made: Integers, value: NDArray[np.float64]
) -> dict[str, Any]:
    """10 log10 (Σ w² / Σ (w − ŵ)²) of what is stored, None where there is no difference, and the largest one."""
    name, content = tensor.weight.name, made.arrays[tensor.weight.name, "values"]
    names = _parts(tensor, initializers)
    key = names["values"].removesuffix(".integers")
    if tensor.form == "signed":
        scale = made.arrays[name, "scales"].view("<f4").astype(np.float64)
        codes = (
            content.view(np.int8).astype(np.float64) if tensor.scheme and tensor.scheme.bits == 8 else _int4(content)
        )
        codes = codes[: value.size].reshape(value.shape)
        stored = codes * along(scale.astype(np.float32), int(key[-1]), value.ndim)
    else:
        scale = onnx.numpy_helper.to_array(initializers[f"{key}.scale"]).astype(np.float64)
        zero = onnx.numpy_helper.to_array(initializers[f"{key}.zero_point"]).astype(np.float64)
        kind = "<u2" if tensor.form.startswith("uint16") else "u1"
        stored = (content.view(kind).astype(np.float64).reshape(value.shape) - zero) * scale
    noise, power = float(np.square(value - stored).sum()), float(np.square(value).sum())
    sqnr = 10 * math.log10(power / noise) if noise and power else None
    return {"sqnr_db": sqnr, "max_abs_error": float(np.abs(value - stored).max(initial=0.0))}


def _int4(content: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Signed codes of 4 bits, the first of a byte in its low half."""
    halves = np.stack([content & 15, content >> 4], axis=-1).reshape(-1).astype(np.int16)
    return np.where(halves > 7, halves - 16, halves).astype(np.float64)
