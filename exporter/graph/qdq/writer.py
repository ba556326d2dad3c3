"""Writes the QDQ model: every value that a node makes passes through integers."""

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgepress.errors import InputError
from edgepress.exporter.arrays.ranges import to_scale
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.qdq import codes as arithmetic
from edgepress.exporter.graph.qdq.calibrate import Ranges
from edgepress.exporter.graph.qdq.codes import Rounded
from edgepress.exporter.graph.qdq.floats import bounds_alone, close_floats, name_of
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.qdq.roles import NORMS, channel_axis, role
from edgepress.exporter.graph.qdq.sums import exact_sums
from edgepress.exporter.graph.qdq.widths import Widths
from edgepress.exporter.graph.weights import refer
from edgepress.onnx_graph.walk import attribute, graphs, normal_domain, opsets_of

_TYPES: dict[str, tuple[int, type[np.generic]]] = {
    "uint8": (TensorProto.UINT8, np.uint8),
    "uint16": (TensorProto.UINT16, np.uint16),
    "int8": (TensorProto.INT8, np.int8),
    "int16": (TensorProto.INT16, np.int16),
    "int32": (TensorProto.INT32, np.int32),
}
_INLINE, _ALIGNMENT = 1024, 4096  # bytes up to which a constant stays in the model; onnxruntime maps whole pages
_FLOAT_BITS = 32  # of a weight that stays as it is
_FIRST_QDQ_OPSET, _WIDE_QDQ_OPSET = 13, 21  # scales along an axis; 16-bit and 4-bit types


def quantize(
    path: Path,
    ranges: Ranges,
    widths: Widths,
    rounded: Mapping[str, Rounded] | None = None,
    bits: Mapping[str, int] | None = None,
    *,
    floats: Collection[str] = (),
) -> onnx.ModelProto:
    """Return the float model in ``path`` as QDQ in ``widths``; ``ranges`` is what calibration found.

    Weights in ``rounded``, by name, keep exactly the codes they have; the others are rounded to nearest, those in
    ``bits`` to so many where these are others than ``widths`` says: 4, 8, or 32 for a weight that stays float. Every
    float input and output of the graph stays float. Relu and Clip disappear into the integers of the value they bound.
    Nodes whose names are in ``floats``, and those with a weight that stays float, compute in float (:mod:`.floats`).

    Raises:
        InputError: a value has no range, a rounded weight is not on its grid, or the model cannot be quantized (its
            operators are not plain, it is quantized already, its opset is too old).

    """
    model, kept = FloatModel(path), {name for name, count in (bits or {}).items() if count == _FLOAT_BITS}
    return _Writer(
        model, ranges, widths, dict(rounded or {}), dict(bits or {}), floats=close_floats(model, floats, kept)
    ).write()


@dataclass(frozen=True)
class _Integers:
    """A constant: ``(code − zero) · scale``, the scale a number or one for each index along ``axis``."""

    codes: NDArray[np.int32]
    scale: NDArray[np.float32] | np.float32
    kind: str
    zero: int = 0
    axis: int = 0


class _Writer:
    """One model being written. ``self._integers`` maps a float value to the value that comes back from integers.

    ``floats`` are the nodes that compute in float.
    """

    def __init__(
        self,
        model: FloatModel,
        ranges: Ranges,
        widths: Widths,
        rounded: dict[str, Rounded],
        bits: dict[str, int],
        *,
        floats: frozenset[str],
    ) -> None:
        self._model, self._widths, self._rounded, self._floats = model, widths, rounded, floats
        self._raw = {*model.inputs, *(name for n in model.nodes if name_of(n) in floats for name in n.output)}
        self._bits = bits | {name: one.bits for name, one in rounded.items()}
        self._ranges = exact_sums(model, ranges) if widths.activation_bits == 8 else ranges
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._integers: dict[str, str] = {}
        self._folded: dict[str, str] = {}
        self._scales: dict[str, NDArray[np.float32]] = {}  # of weights and gains
        self._used: set[str] = set()  # of what is rounded already
        self._domain = self._find_domain()
        if unknown := set(rounded) - set(model.constants):
            raise InputError(f"{model.path} has no weight {sorted(unknown)[0]}, for which a scale was given")

    def _find_domain(self) -> str:
        """ONNX's own operators, or onnxruntime's where ONNX's are too old for these types."""
        opset = opsets_of(self._model.model).get("", 0)
        if opset < _FIRST_QDQ_OPSET:
            raise InputError(f"{self._model.path} has opset {opset}; QDQ needs {_FIRST_QDQ_OPSET} or later: convert it")
        wide = self._widths.name != "a8w8" or 4 in self._bits.values()
        return CONTRIB if wide and opset < _WIDE_QDQ_OPSET else ""

    def write(self) -> onnx.ModelProto:
        """Node by node, in order."""
        model = self._model
        removed = self._fold_bounds()
        for name in model.inputs:
            if model.is_float.get(name) and self._has_integer_reader(name):
                self._activation(name, name)
        for node in model.nodes:
            if name_of(node) in self._floats:
                self._float_node(node)
            elif id(node) not in removed:
                self._node(node)
        for name in sorted(model.read_inside):
            self._keep(name)
        if unused := set(self._rounded) - self._used:
            raise InputError(f"{sorted(unused)[0]} has a scale, but is the weight of no Conv, Gemm or MatMul")
        proto = onnx.ModelProto()
        proto.CopyFrom(model.model)
        for field in ("node", "initializer", "value_info"):
            proto.graph.ClearField(field)
        proto.graph.node.extend(self._nodes)
        for inner in list(graphs(proto.graph))[1:]:
            for index, tensor in enumerate(inner.initializer):
                inner.initializer[index].CopyFrom(model.tensors.inline(tensor))
        proto.graph.initializer.extend(self._constants.values())
        opsets = opsets_of(model.model) | {CONTRIB: 1}
        used = {normal_domain(node.domain) for node in self._nodes}
        proto.ClearField("opset_import")
        proto.opset_import.extend(helper.make_opsetid(domain, opsets[domain]) for domain in sorted(used))
        return proto

    def _fold_bounds(self) -> set[int]:
        """Relu and Clip that integers do by themselves: their input is read by nothing else, and the range is inside.

        X → Relu → Y  becomes  X named Y, whose integers end where Y's do.
        """
        removed: set[int] = set()
        makers = self._model.makers
        for node in self._model.nodes:
            bounds = self._bounds(node)
            if bounds is None or node.input[0] not in makers:
                continue
            name, maker = node.input[0], makers[node.input[0]]
            low, high = self._range(node.output[0])
            inside = bounds[0] <= low and high <= bounds[1] and name_of(node) not in self._floats
            if inside and bounds_alone(self._model, node) and id(maker) not in removed:
                self._folded[name] = node.output[0]
                removed.add(id(node))
        return removed

    def _bounds(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """Between what values a node's output lies, if it does nothing but clip."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        if node.op_type != "Clip":
            return None
        limits = [-np.inf, np.inf]
        for index, name in enumerate(node.input[1:]):
            if name and name not in self._model.constants:
                return None
            if name:
                limits[index] = float(self._model.value(name))
        return limits[0], limits[1]

    def _range(self, name: str) -> tuple[float, float]:
        if name not in self._ranges:
            raise InputError(f"{name} has no range; calibrate {self._model.path} itself, or a model of the same names")
        return self._ranges[name]

    def _node(self, node: onnx.NodeProto) -> None:
        """Inputs from integers → the node → its outputs through integers."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name = node.name or node.output[0]
        inputs = [self._input(node, index, name) for index, name in enumerate(node.input)]
        del new.input[:]
        new.input.extend(inputs)
        for index, name in enumerate(node.output):
            made = self._folded.get(name, name)
            new.output[index] = made
            if self._model.is_float.get(made) and made in self._model.outputs:
                new.output[index] = f"{made}.float"
        self._nodes.append(new)
        for index, name in enumerate(node.output):
            made = self._folded.get(name, name)
            if self._model.is_float.get(made):
                self._activation(made, new.output[index])

    def _float_node(self, node: onnx.NodeProto) -> None:
        """The node as it is; what nodes in integers read of it passes through integers for them."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name = name_of(node)
        for index, name in enumerate(node.input):
            if name in self._model.constants:
                self._keep(name)
            elif name not in self._raw:
                new.input[index] = self._integers.get(name, name)
        self._nodes.append(new)
        for name in node.output:
            if self._model.is_float.get(name) and self._has_integer_reader(name):
                self._activation(name, name)

    def _has_integer_reader(self, name: str) -> bool:
        """Whether a node in integers reads a value."""
        readers = self._model.readers.get(name, ())
        return any(name_of(node) not in self._floats for node in readers)

    def _input(self, node: onnx.NodeProto, index: int, name: str) -> str:
        """The value that a node reads instead of ``name``."""
        model = self._model
        constant = name in model.constants
        if not name or not model.is_float.get(name):
            return self._keep(name) if constant else name
        part = role(node, index, is_constant=constant, rank=len(model.constants[name].dims) if constant else 0)
        if not constant:
            return name if part == "float" else self._integers.get(name, name)
        if part == "weight":
            return self._weight(node, name)
        wide_norm = node.op_type in NORMS and self._widths.activation_bits == 16
        if part == "bias" and self._has_weight(node) and not wide_norm:
            return self._bias(node, name)
        if part == "gain":
            return self._gain(node, name)
        return self._keep(name) if part == "float" else self._constant(name)

    def _keep(self, name: str) -> str:
        """A constant as it is, with its bytes inside the model."""
        if name not in self._constants:
            self._constants[name] = self._model.tensors.inline(self._model.constants[name])
        return name

    def _activation(self, name: str, made: str) -> None:
        """``made`` → QuantizeLinear → DequantizeLinear; the graph's outputs keep their name."""
        bits = self._widths.activation_bits
        scale, zero = to_scale(*self._range(name), bits)
        self._numbers(name, np.asarray(scale), np.asarray(zero), self._widths.activations)
        integers, back = f"{name}.integers", name if made != name else f"{name}.back"
        scales = [f"{name}.scale", f"{name}.zero_point"]
        self._append("QuantizeLinear", [made, *scales], integers)
        self._append("DequantizeLinear", [integers, *scales], back)
        self._integers[name] = back

    def _append(self, op: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        node = helper.make_node(op, inputs, [output], name=f"{output}/{op}", domain=self._domain)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node)

    def _numbers(self, name: str, scale: NDArray[np.float32], zero: NDArray[np.generic], kind: str) -> None:
        """The scale and zero point of ``name`` as constants."""
        self._constants[f"{name}.scale"] = onnx.numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale")
        self._store(f"{name}.zero_point", zero, kind)

    def _store(self, name: str, codes: NDArray[np.generic], kind: str) -> None:
        """Integers of type ``kind`` as a constant."""
        if kind == "int4":
            packed = arithmetic.pack_int4(codes.astype(np.int32))
            tensor = helper.make_tensor(name, TensorProto.INT4, codes.shape, packed, raw=True)
        else:
            dtype, array = _TYPES[kind]
            tensor = helper.make_tensor(name, dtype, codes.shape, codes.astype(array).tobytes(), raw=True)
        self._constants[name] = tensor

    def _dequantized(self, name: str, integers: _Integers) -> str:
        """A constant as integers and the DequantizeLinear that reads them."""
        scale = np.asarray(integers.scale, np.float32)
        self._store(f"{name}.integers", integers.codes, integers.kind)
        self._numbers(name, scale, np.full(scale.shape, integers.zero), integers.kind)
        parts = [f"{name}.{part}" for part in ("integers", "scale", "zero_point")]
        self._append("DequantizeLinear", parts, f"{name}.back", integers.axis if scale.ndim else None)
        return f"{name}.back"

    def _constant(self, name: str) -> str:
        """A constant in the type of activations, with the range of what it is tied to."""
        if name not in self._integers:
            value = np.asarray(self._model.value(name), np.float32)
            low, high = self._ranges.get(name, _extremes(value))
            codes, scale, zero = arithmetic.round_constant(value, low, high, self._widths.activation_bits)
            integers = _Integers(codes, scale, self._widths.activations, zero)
            self._integers[name] = self._dequantized(name, integers)
        return self._integers[name]

    def _scale_of(self, name: str) -> np.float32:
        return to_scale(*self._range(name), self._widths.activation_bits)[0]

    def _has_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a bias can have the scale of input · weight: only if the weight is a constant."""
        plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
        constant = node.input[1] in self._model.constants
        return constant and node.input[0] not in self._model.constants and plain

    def _weight(self, node: onnx.NodeProto, name: str) -> str:
        """Codes along the axis of output channels, shared by nodes that need the same."""
        axis = channel_axis(node)
        key = f"{name}.weight{axis}"
        if key not in self._integers:
            value = np.asarray(self._model.value(name), np.float32)
            if name in self._rounded:
                bits = self._rounded[name].bits
                codes, scale = arithmetic.recover(name, value, axis, self._rounded[name])
                self._used.add(name)
            else:
                bits = self._bits.get(name, self._widths.weight_bits)
                codes, scale = arithmetic.round_weight(value, axis, bits, self._least_scale(node))
            self._integers[key] = self._dequantized(key, _Integers(codes, scale, f"int{bits}", axis=axis))
            self._scales[name] = scale
        return self._integers[key]

    def _least_scale(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        """What a weight's scales must be at least so that the bias fits its integers."""
        name = node.input[2] if len(node.input) > 2 else ""
        if name not in self._model.constants or not self._has_weight(node):
            return None
        bias = np.asarray(self._model.value(name), np.float32)
        return arithmetic.bias_floor(bias, self._scale_of(node.input[0]))

    def _bias(self, node: onnx.NodeProto, name: str) -> str:
        """int32 codes whose scale is that of the input times that of the weight or gain."""
        scale = np.asarray(self._scale_of(node.input[0]) * self._scales[node.input[1]], np.float32)
        value = np.asarray(self._model.value(name), np.float32)
        codes = arithmetic.round_bias(name, value, scale)
        return self._dequantized(f"{node.output[0]}.bias", _Integers(codes, scale, "int32"))

    def _gain(self, node: onnx.NodeProto, name: str) -> str:
        """A norm's gain, in a type that every version of the HTP takes.

        Beside 8-bit activations that is uint8 (int8 is refused). Beside 16-bit ones it is int16 around 0, with a bias
        in the type of activations; where a norm that can have a bias has none, v68 takes uint8 only.
        """
        is_wide = self._widths.activation_bits == 16 and (node.op_type not in NORMS or len(node.input) > 2)
        key = f"{name}.gain{16 if is_wide else 8}"
        if key not in self._integers:
            value = np.asarray(self._model.value(name), np.float32)
            if is_wide:
                integers = _Integers(*arithmetic.round_symmetric(value, 16), "int16")
            else:
                codes, scale, zero = arithmetic.round_constant(value, *_extremes(value), 8)
                integers = _Integers(codes, scale, "uint8", zero)
            self._scales[name] = np.asarray(integers.scale)
            self._integers[key] = self._dequantized(key, integers)
        return self._integers[key]


def _extremes(value: NDArray[np.float32]) -> tuple[float, float]:
    return float(value.min(initial=0)), float(value.max(initial=0))


def write_models(models: Mapping[Path, onnx.ModelProto], data: Path) -> None:
    """Write models to their paths and their larger constants to the file ``data`` beside them, equal ones once.

    The bytes depend on nothing but the models, which are left with references instead of those constants.
    """
    places: dict[bytes, tuple[int, int]] = {}
    with data.open("wb") as file:
        for tensor in (tensor for model in models.values() for tensor in model.graph.initializer):
            if len(tensor.raw_data) <= _INLINE:
                continue
            digest = hashlib.sha256(tensor.raw_data).digest()
            if digest not in places:
                file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
                places[digest] = (file.tell(), len(tensor.raw_data))
                file.write(tensor.raw_data)
            refer(tensor, data.name, *places[digest])
    for path, model in models.items():
        path.write_bytes(model.SerializeToString(deterministic=True))
