"""One node of a model, alone: what is asked when a provider leaves it, and the small changes that are tried on it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.values import Scope
from edgepress.onnx_graph.view import Node, Value
from edgepress.onnx_graph.walk import attribute, graphs, subgraphs
from edgepress.targets.legality.report import Cause
from edgepress.targets.qnn_htp import NORMS, PRODUCTS

PROBE = "probe"
"""The name of the node in question, in a model of ``Alone``."""

_COPIED = 1 << 16  # elements of a constant that are copied; a larger one is replaced by zeros
_LARGEST = 1 << 28  # elements of a constant that is still asked about
_FIXED = 8  # what a dimension that is not fixed becomes
_FLOATS = (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_WEIGHTED = {*PRODUCTS, *NORMS}  # the others take one type on all sides
_EIGHT_BITS = {"uint8": (TensorProto.UINT8, np.uint8), "int8": (TensorProto.INT8, np.int8)}


class Around:
    """What a node is cut out of: the constants, makers and readers of a model's values, in subgraphs too."""

    def __init__(self, model: onnx.ModelProto, tensors: TensorReader) -> None:
        self.model, self.tensors = model, tensors
        self.constants: dict[str, TensorProto] = {}
        self.makers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for scope in (Scope(model, graph) for graph in graphs(model.graph)):
            self.constants |= scope.constants
            self.makers |= scope.makers
            for name, nodes in scope.readers.items():
                self.readers.setdefault(name, []).extend(nodes)


def alone(node: Node, where: Around) -> onnx.ModelProto | None:
    """Return a model of ``node`` alone, with the QuantizeLinear and DequantizeLinear next to it.

    Values have names of their own order, and large constants are zeros. None when that cannot be made: the rank of an
    input is not known, a constant is too large, or it has subgraphs.
    """
    return _Cut(node, where).model()


def kind_of(model: onnx.ModelProto) -> bytes:
    """Return bytes that are equal for models from ``alone`` that a provider is likely to treat alike.

    Those of nodes between quantizers are the whole model: there a zero point decides. Of others, sizes are left out but
    for whether they are fixed and whether they are 1, and so are the values of constants.
    """
    kind = onnx.ModelProto()
    kind.CopyFrom(model)
    if not any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in model.graph.node):
        for info in kind.graph.input:
            for dimension in info.type.tensor_type.shape.dim:
                size = dimension.dim_value if dimension.HasField("dim_value") else 0
                dimension.dim_value = min(size, 2)
        for tensor in kind.graph.initializer:
            dims = [min(size, 2) for size in tensor.dims]
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims))
    return bytes(kind.SerializeToString(deterministic=True))


class _Cut:
    def __init__(self, node: Node, where: Around) -> None:
        self._node, self._where = node, where
        self._values = {value.name: value for value in [*node.inputs, *node.outputs] if value is not None}
        self._names: dict[str, str] = {}
        self._graph = onnx.GraphProto(name=PROBE)
        self._possible = not any(subgraphs(node.proto))

    def model(self) -> onnx.ModelProto | None:
        proto = onnx.NodeProto()
        proto.CopyFrom(self._node.proto)
        proto.name = PROBE
        inputs = [self._input(name) if name else "" for name in self._node.proto.input]
        outputs = [self._name(name) if name else "" for name in self._node.proto.output]
        del proto.input[:], proto.output[:]
        proto.input.extend(inputs)
        proto.output.extend(outputs)
        self._graph.node.append(proto)
        for name in filter(None, self._node.proto.output):
            self._output(name)
        if not self._possible:
            return None
        model = onnx.ModelProto(ir_version=self._where.model.ir_version, graph=self._graph)
        model.opset_import.extend(self._where.model.opset_import)
        return model

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, f"v{len(self._names)}")

    def _input(self, name: str) -> str:
        if name in self._names:
            return self._names[name]
        maker = self._where.makers.get(name)
        if name in self._where.constants:
            self._constant(name)
        elif maker is not None and maker.op_type == "DequantizeLinear" and not maker.domain:
            self._quantizer(maker)
        else:
            value = self._values.get(name)
            self._graph_input(name, value.type if value else "", value)
        return self._names[name]

    def _quantizer(self, maker: onnx.NodeProto) -> None:
        """DequantizeLinear and, where what it reads is not constant, the QuantizeLinear before it."""
        codes = maker.input[0]
        before = self._where.makers.get(codes)
        if codes not in self._names and codes not in self._where.constants:
            value = self._values.get(maker.output[0])
            if before is not None and before.op_type == "QuantizeLinear":
                self._graph_input(before.input[0], value.type if value else "", value)
                self._copy(before)
            else:
                stored = value.stored if value else ""
                self._graph_input(codes, stored, value)
        self._copy(maker)

    def _copy(self, maker: onnx.NodeProto) -> None:
        inputs = [self._input(name) if name else "" for name in maker.input]
        copy = helper.make_node(maker.op_type, inputs, [self._name(maker.output[0])])
        copy.attribute.extend(maker.attribute)
        copy.name = copy.output[0]
        self._graph.node.append(copy)

    def _output(self, name: str) -> None:
        """The output, quantized and dequantized where every reader quantizes it."""
        readers = self._where.readers.get(name, [])
        end = name
        if readers and all(reader.op_type == "QuantizeLinear" for reader in readers):
            self._copy(readers[0])
            end = readers[0].output[0]
            after = [reader for reader in self._where.readers.get(end, []) if reader.op_type == "DequantizeLinear"]
            if after:
                self._copy(after[0])
                end = after[0].output[0]
        info = onnx.ValueInfoProto(name=self._name(end))
        kind = _number(self._values[name].type) if name in self._values else 0
        if kind and end == name:
            info.type.tensor_type.elem_type = kind
        elif end != name and "Dequantize" in self._graph.node[-1].op_type:
            info.type.tensor_type.elem_type = kind or TensorProto.FLOAT
        self._graph.output.append(info)

    def _constant(self, name: str) -> None:
        tensor = self._where.constants[name]
        copy = TensorProto()
        count = int(np.prod(tensor.dims)) if tensor.dims else 1
        if count > _LARGEST:
            self._possible = False
        elif count <= _COPIED:
            copy.CopyFrom(self._where.tensors.inline(tensor))
        else:
            copy.data_type = tensor.data_type
            copy.dims.extend(tensor.dims)
            bits = 4 if "INT4" in TensorProto.DataType.Name(tensor.data_type) else 0
            size = (count + 1) // 2 if bits else count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            copy.raw_data = bytes(size)
        copy.name = self._name(name)
        self._graph.initializer.append(copy)

    def _graph_input(self, name: str, kind: str, value: Value | None) -> None:
        if name in self._names:
            return
        number = _number(kind)
        if not number or value is None or value.shape is None:
            self._possible = False
        shape = value.shape if value else None
        info = helper.make_tensor_value_info(self._name(name), number or TensorProto.FLOAT, shape)
        self._graph.input.append(info)


def _number(kind: str) -> int:
    """The number of a tensor's element type by onnxruntime's name for it; 0 when it is none."""
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    return int(TensorProto.DataType.Value(name)) if name in TensorProto.DataType.keys() else 0  # noqa: SIM118


@dataclass(frozen=True)
class Change:
    """A small change of a model of one node: ``text`` says what to do.

    ``apply`` works in place and returns whether there was anything to change.
    """

    cause: Cause
    text: str
    apply: Callable[[onnx.ModelProto], bool]


def fix_shapes(model: onnx.ModelProto) -> bool:
    """Fix every dimension that is not."""
    changed = False
    for info in model.graph.input:
        for dimension in info.type.tensor_type.shape.dim:
            if not dimension.HasField("dim_value"):
                dimension.dim_value = _FIXED
                changed = True
    return changed


def changes(model: onnx.ModelProto) -> list[Change]:
    """Return what to try on a model of one node, the smallest change first."""
    node = _probe(model)
    return [
        Change("dtype", "compute in float32", _in_float32),
        Change("dtype", "use int32 instead of int64", _instead_of_int64(TensorProto.INT32)),
        Change("dtype", "use float32 instead of int64", _instead_of_int64(TensorProto.FLOAT)),
        *_constant_inputs(model, node),
        *_quantization(model),
        Change("quantization", "quantize it: 16-bit activations, 8-bit weights", _quantize),
        *(Change("attribute", f"leave out the attribute {a.name!r}", _without(a.name)) for a in node.attribute),
        Change("rank", "merge leading dimensions, to rank 4", _lower_rank),
        Change("quantization", "leave it in floating point", _in_floating_point),
    ]


def _probe(model: onnx.ModelProto) -> onnx.NodeProto:
    node: onnx.NodeProto = next(node for node in model.graph.node if node.name == PROBE)
    return node


def _in_float32(model: onnx.ModelProto) -> bool:
    changed = False
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            changed = True
    for info in [*model.graph.input, *model.graph.output]:
        if info.type.tensor_type.elem_type in _FLOATS:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
            changed = True
    return changed


def _instead_of_int64(number: int) -> Callable[[onnx.ModelProto], bool]:
    """Computed inputs and outputs in int64 become ``number``; constants keep their type, shapes and axes are int64."""

    def apply(model: onnx.ModelProto) -> bool:
        infos = [*model.graph.input, *model.graph.output]
        wide = [info for info in infos if info.type.tensor_type.elem_type == TensorProto.INT64]
        for info in wide:
            info.type.tensor_type.elem_type = number
        return bool(wide)

    return apply


def _constant_inputs(model: onnx.ModelProto, node: onnx.NodeProto) -> Iterator[Change]:
    """Each computed input but the first."""
    inputs = [info.name for info in model.graph.input]
    for index, name in enumerate(node.input):
        if index and name in inputs:

            def apply(model: onnx.ModelProto, name: str = name) -> bool:
                info = next(info for info in model.graph.input if info.name == name)
                shape = [dimension.dim_value for dimension in info.type.tensor_type.shape.dim]
                if int(np.prod(shape)) > _COPIED:
                    return False
                dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
                values = np.ones(shape, dtype)
                if _probe(model).op_type == "Reshape":
                    values[:1] = -1  # a shape that fits
                model.graph.initializer.append(numpy_helper.from_array(values, name))
                model.graph.input.remove(info)
                return True

            yield Change("constant", f"make its input {index} a constant", apply)


def _without(name: str) -> Callable[[onnx.ModelProto], bool]:
    def apply(model: onnx.ModelProto) -> bool:
        node = _probe(model)
        kept = [entry for entry in node.attribute if entry.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        return True

    return apply


def _quantization(model: onnx.ModelProto) -> Iterator[Change]:
    """Other forms of the weights, then of the activations, for a node between DequantizeLinear and QuantizeLinear."""
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return
    yield Change("quantization", "store its weights with zero point 0", _centred)
    yield Change("quantization", "one scale a weight instead of one a channel", _per_tensor)
    yield Change("quantization", "one scale a weight instead of one a block", _without_blocks)
    for name in _EIGHT_BITS:
        yield Change("quantization", f"store its weights in {name}", _weights_in(name))
    for name in ("uint16", "uint8"):
        yield Change("quantization", f"quantize its activations to {name}", _activations_in(name))


def _weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, dict[str, TensorProto]]]:
    """Each DequantizeLinear of a constant, with the constants by name."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            yield node, constants


def _fill(tensor: TensorProto, kind: int, value: int, dims: Sequence[int] | None = None) -> None:
    dims = list(tensor.dims) if dims is None else list(dims)
    count = int(np.prod(dims)) if dims else 1
    if "INT4" in TensorProto.DataType.Name(kind):
        data = bytes([value & 15 | (value & 15) << 4]) * ((count + 1) // 2)
    else:
        data = np.full(count, value, helper.tensor_dtype_to_np_dtype(kind)).tobytes()
    tensor.CopyFrom(TensorProto(name=tensor.name, data_type=kind, dims=dims, raw_data=data))


def _middle(kind: int) -> int:
    return {int(TensorProto.UINT4): 8, int(TensorProto.UINT8): 128, int(TensorProto.UINT16): 32768}.get(kind, 0)


def _centred(model: onnx.ModelProto) -> bool:
    """Zero point 0, with signed codes: what the provider takes as symmetric."""
    changed = False
    for node, constants in _weights(model):
        codes = constants[node.input[0]]
        unsigned_to_signed = {int(TensorProto.UINT4): TensorProto.INT4, int(TensorProto.UINT8): TensorProto.INT8}
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or not np.any(numpy_helper.to_array(zero).astype(np.int64)):
            continue
        kind = unsigned_to_signed.get(codes.data_type, codes.data_type)
        _fill(codes, kind, 0)
        _fill(zero, kind, 0)
        changed = True
    return changed


def _per_tensor(model: onnx.ModelProto) -> bool:
    return _one_scale(model, blocks=False)


def _without_blocks(model: onnx.ModelProto) -> bool:
    return _one_scale(model, blocks=True)


def _one_scale(model: onnx.ModelProto, *, blocks: bool) -> bool:
    changed = False
    for node, constants in _weights(model):
        has_blocks = bool(attribute(node, "block_size", 0))
        scale = constants[node.input[1]]
        if has_blocks != blocks or not scale.dims:
            continue
        first = float(numpy_helper.to_array(scale).astype(np.float32).ravel()[0])
        scale.CopyFrom(helper.make_tensor(scale.name, scale.data_type, [], [first]))
        if len(node.input) > 2:
            kind = constants[node.input[2]].data_type
            zero = int(numpy_helper.to_array(constants[node.input[2]]).astype(np.int64).ravel()[0])
            _fill(constants[node.input[2]], kind, zero, [])
        del node.attribute[:]
        changed = True
    return changed


def _weights_in(name: str) -> Callable[[onnx.ModelProto], bool]:
    number = _EIGHT_BITS[name][0]

    def apply(model: onnx.ModelProto) -> bool:
        changed = False
        for node, constants in _weights(model):
            codes = constants[node.input[0]]
            if codes.data_type in {number, TensorProto.INT32} or len(node.input) < 3:
                continue
            _fill(codes, number, 1)
            _fill(constants[node.input[2]], number, _middle(number))
            changed = True
        return changed

    return apply


def _activations_in(name: str) -> Callable[[onnx.ModelProto], bool]:
    number = {"uint16": TensorProto.UINT16, "uint8": TensorProto.UINT8}[name]

    def apply(model: onnx.ModelProto) -> bool:
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        zeros = {
            node.input[2]
            for node in model.graph.node
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
            and node.input[0] not in constants
            and len(node.input) > 2
        }
        other = [constants[zero] for zero in zeros if zero in constants and constants[zero].data_type != number]
        for zero in other:
            _fill(zero, number, _middle(number))
        for info in model.graph.input:
            if other and helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).kind in "iu":
                info.type.tensor_type.elem_type = number
        return bool(other)

    return apply


def _lower_rank(model: onnx.ModelProto) -> bool:
    """For operators that work along the last dimensions or element by element: their inputs' leading ones merged."""
    node = _probe(model)
    if any(entry.name in {"perm", "axes"} or (entry.name == "axis" and entry.i >= 0) for entry in node.attribute):
        return False
    shapes = [info.type.tensor_type.shape for info in model.graph.input]
    if not any(len(shape.dim) > 4 for shape in shapes):
        return False
    for shape in shapes:
        sizes = [dimension.dim_value for dimension in shape.dim]
        if len(sizes) > 4:
            del shape.dim[:]
            for size in [int(np.prod(sizes[:-3])), *sizes[-3:]]:
                shape.dim.add().dim_value = size
    return True


def _quantize(model: onnx.ModelProto) -> bool:
    """Every float input and output between QuantizeLinear and DequantizeLinear."""
    if any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in model.graph.node):
        return False
    node = _probe(model)
    graph = model.graph
    floats = {info.name for info in graph.input if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    if not floats and not constants:
        return False
    kind = TensorProto.UINT8 if node.op_type in _WEIGHTED else TensorProto.UINT16
    graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 4096]))
    graph.initializer.append(helper.make_tensor("zero", TensorProto.UINT16, [], [32768]))
    graph.initializer.append(helper.make_tensor("weight.zero", kind, [], [_middle(kind)]))
    before, after = [], []
    for index, name in enumerate(node.input):
        if name in constants:
            _fill(constants[name], kind, 1)
            before.append(helper.make_node("DequantizeLinear", [name, "scale", "weight.zero"], [f"{name}.in"]))
            node.input[index] = f"{name}.in"
        elif name in floats:
            before.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}.q"]))
            before.append(helper.make_node("DequantizeLinear", [f"{name}.q", "scale", "zero"], [f"{name}.in"]))
            node.input[index] = f"{name}.in"
    for info in graph.output:
        name = info.name
        after.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}.q"]))
        after.append(helper.make_node("DequantizeLinear", [f"{name}.q", "scale", "zero"], [f"{name}.out"]))
        info.name = f"{name}.out"
    nodes = [*before, *graph.node, *after]
    for index, made in enumerate(nodes):
        made.name = made.name or f"qdq{index}"
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _in_floating_point(model: onnx.ModelProto) -> bool:
    """Without QuantizeLinear and DequantizeLinear: constants and inputs are float32."""
    graph = model.graph
    if not any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in graph.node):
        return False
    constants = {tensor.name: tensor for tensor in graph.initializer}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
            if node.input[0] in constants:
                _fill(constants[node.input[0]], TensorProto.FLOAT, 0)
    probe = _probe(model)
    for index, name in enumerate(probe.input):
        probe.input[index] = same.get(name, name)
    for info in [*graph.input, *graph.output]:
        if info.name in same or info.name in same.values():
            info.name = same.get(info.name, info.name)
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    kept = [node for node in graph.node if node.name == PROBE]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    return True
