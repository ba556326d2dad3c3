"""A float graph and a plan → the same graph with its weights in the data file, as the plan stores them.

::

    x ─ MatMul, Gemm (W)  ─►  x ─ MatMulNBits or DynamicQuantizeMatMul (codes, bias)   linears.py has the forms
    ids ─ Gather (W)      ─►  ids ─ GatherBlockQuantized (codes)
    x ─ LSTM (W, R)       ─►  x ─ DynamicQuantizeLSTM (codes)                      recurrent.py
    any other (W)         ─►  codes ─ Cast ─ Sub ─ Mul ─ Reshape ─ W, which onnxruntime computes when it opens the graph

What is kept in float32 is the initializer that it was, its bytes a region of the data file.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.graph.builder import CONTRIB, FLOAT, FLOAT16, Attribute
from edgepress.exporter.graph.editing import Editor, copied, remove_unused, rewrite, set_nodes
from edgepress.exporter.graph.foreign import kernels, recurrent, tokens
from edgepress.exporter.graph.foreign.roles import Foreign
from edgepress.exporter.graph.linears import UINT8, Projection, block_scales, write_linear
from edgepress.exporter.graph.weights import Weights, refer
from edgepress.exporter.plan.plan import Plan, PlannedTensor, Region
from edgepress.onnx_graph.walk import all_nodes, attribute, graphs, operand, opset

_AXES_ARE_INPUTS = 18  # of reductions, from this opset on
_BYTE = 8  # bits
_IN_CODES = {"blocks", "half blocks", "dynamic", "dynamic pairs"}  # forms that kernels compute with
_HALVES = {8: (), 4: (16,), 2: (16, 4)}  # by bits of a code: what divides a byte, then its halves


def build_planned(
    model: onnx.ModelProto,
    weights: Weights,
    foreign: Foreign,
    plan: Plan,
    *,
    data_file: str,
    version: str,
    faster: Collection[str] = (),
) -> onnx.ModelProto:
    """The graph of ``model``, its weights in the regions of ``data_file`` that ``plan`` gives them.

    ``faster`` names the forms of a graph that it is to have (:data:`edgepress.targets.FASTER`).
    """
    made = _without_planned(model, weights, plan)
    writer = _Writer(made, foreign, plan, data_file)
    rewrite(made, Weights(), {("", op): rule for op, rule in writer.rules.items()})
    writer.write_floats()
    remove_unused(made)
    if "norms apart" in faster:
        kernels.keep_norms_apart(made)
    if "one rounding" in faster:
        kernels.round_once(made)
    domains = {entry.domain for entry in made.opset_import}
    if CONTRIB not in domains and any(node.domain == CONTRIB for graph in graphs(made.graph) for node in graph.node):
        made.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    made.producer_name, made.producer_version = "edgepress", version
    return made


def _without_planned(model: onnx.ModelProto, weights: Weights, plan: Plan) -> onnx.ModelProto:
    """A copy whose planned weights are names and shapes, everything else with its bytes inside."""
    planned = {tensor.weight.name for tensor in plan.tensors}
    made = onnx.ModelProto()
    made.ir_version = model.ir_version
    made.opset_import.extend(model.opset_import)
    made.graph.name = model.graph.name or "model"
    for field in ("node", "input", "output", "value_info"):
        getattr(made.graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        named = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        made.graph.initializer.append(named if tensor.name in planned else weights.inline(tensor))
    for graph in list(graphs(made.graph))[1:]:
        for index, tensor in enumerate(graph.initializer):
            graph.initializer[index].CopyFrom(weights.inline(tensor))
    return made


class _Nodes:
    """The nodes that replace one of a graph; their constants become the main graph's.

    ``gives`` are the values that they stand for; others that they make get names which the model does not have.
    """

    def __init__(self, editor: Editor, writer: "_Writer", gives: Collection[str]) -> None:
        self._editor, self._writer, self._gives = editor, writer, gives

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        more_outputs: Sequence[str] = (),
        **attributes: Attribute,
    ) -> str:
        """Add a node; the axes of a reduction are an attribute before opset 18."""
        output = output if output in self._gives else self._writer.unused(output)
        if op.startswith("Reduce") and self._writer.opset < _AXES_ARE_INPUTS:
            axes = self._writer.numbers(inputs[1])
            return self._editor.emit(op, inputs[:1], [output, *more_outputs], domain=domain, axes=axes, **attributes)
        return self._editor.emit(op, inputs, [output, *more_outputs], domain=domain, **attributes)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a small constant."""
        return self._writer.constant(name, value)

    def external(self, name: str, dtype: int, shape: Sequence[int], region: Region) -> str:
        """Add a constant that is a region of the data file."""
        return self._writer.external(name, dtype, shape, region)


class _Writer:
    """One model that is being written; ``rules`` replace the nodes that compute with codes."""

    def __init__(self, made: onnx.ModelProto, foreign: Foreign, plan: Plan, data_file: str) -> None:
        self._made, self._foreign, self._plan, self._data_file = made, foreign, plan, data_file
        self._tensors = {tensor.weight.name: tensor for tensor in plan.tensors}
        self._initializers = {tensor.name: copied(tensor) for tensor in made.graph.initializer}
        self._final = self._initializers.keys() - self._tensors.keys()  # initializers whose bytes are known
        self._taken = {name for graph in graphs(made.graph) for node in graph.node for name in node.output}
        self._taken |= self._initializers.keys() | {value.name for graph in graphs(made.graph) for value in graph.input}
        self._names: dict[str, str] = {}  # of what is added, by what it would be called
        self._added: set[str] = set()  # sums that the product before them gives
        self.opset = opset(made)
        self._turned = {
            node.output[0]: node.input[0]
            for graph in graphs(made.graph)
            for node in graph.node
            if node.op_type == "Transpose" and node.input[0] in self._tensors
        }
        self.rules: dict[str, Callable[[Editor, onnx.NodeProto], bool]] = {
            "Add": lambda _, node: node.output[0] in self._added,
            "MatMul": self._product,
            "Gemm": self._product,
            "Gather": self._rows,
            "LSTM": self._steps,
        }

    def unused(self, name: str) -> str:
        """A name for what is added: ``name`` unless the model has something of that name."""
        if name not in self._names:
            found, number = name, 0
            while found in self._taken:
                number += 1
                found = f"{name}.{number}"
            self._taken.add(found)
            self._names[name] = found
        return self._names[name]

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a small constant to the main graph, unless it is there."""
        name = self.unused(name)
        if name not in self._final:
            self._add(numpy_helper.from_array(np.asarray(value), name))
        return name

    def external(self, name: str, dtype: int, shape: Sequence[int], region: Region) -> str:
        """Add a region of the data file to the main graph, unless it is there."""
        name = name if name in self._tensors else self.unused(name)
        if name not in self._final:
            named = self._initializers.get(name)
            tensor = self._add(TensorProto(name=name, data_type=dtype, dims=shape)) if named is None else named
            refer(tensor, self._data_file, region.offset, region.nbytes)
            self._final.add(name)
        return name

    def numbers(self, name: str) -> list[int]:
        """What a constant that was added holds."""
        return [int(number) for number in numpy_helper.to_array(self._initializers[name]).reshape(-1)]

    def _add(self, tensor: TensorProto) -> TensorProto:
        self._initializers[tensor.name] = tensor
        self._final.add(tensor.name)
        return tensor

    def _coded(self, name: str) -> PlannedTensor | None:
        """The weight that a value is, or is the transposition of, where a kernel computes with codes of it."""
        tensor = self._tensors.get(self._turned.get(name, name))
        return None if tensor is None or tensor.form not in _IN_CODES else tensor

    def _product(self, editor: Editor, node: onnx.NodeProto) -> bool:
        """``α x Wᵀ + β c``, c the row that Gemm adds or an Add after MatMul; x is transposed first where Gemm does."""
        tensor = self._coded(node.input[1])
        if tensor is None:
            return False
        x, y, added = node.input[0], node.output[0], operand(node, 2)
        shape = editor.shape(x)
        if shape is not None and len(shape) == 1:
            return self._vector(editor, node)
        if node.op_type == "MatMul" and (sum_of := self._row_added(editor, y, tensor.weight.shape[0])):
            y, added = sum_of
            self._added.add(y)
        g = _Nodes(editor, self, [y])
        if attribute(node, "transA", 0):
            x = g.node("Transpose", [x], f"{y}.turned", perm=[1, 0])
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        plain = alpha == beta == 1 and self._is_row(added, tensor.weight.shape[0])
        projection = Projection(
            tensor.weight,
            tensor,
            added if plain else "",
            self._plan.accuracy_level,
            normed=tokens.are_alike(node.input[0], editor.makers),
            axis=-1,
            lowest=tokens.lowest(node.input[0], editor.makers),
        )
        if plain or not added:
            product = write_linear(g, projection, x, y if alpha == 1 else f"{y}.unscaled")
            if alpha != 1:
                g.node("Mul", [product, g.constant(f"{y}.alpha", np.array(alpha, np.float32))], y)
            return True
        product = write_linear(g, projection, x, f"{y}.unscaled")
        if alpha != 1:
            product = g.node("Mul", [product, g.constant(f"{y}.alpha", np.array(alpha, np.float32))], f"{y}.scaled")
        if beta != 1:
            added = g.node("Mul", [added, g.constant(f"{y}.beta", np.array(beta, np.float32))], f"{y}.added")
        g.node("Add", [product, added], y)
        return True

    def _vector(self, editor: Editor, node: onnx.NodeProto) -> bool:
        """A product of a vector, as one of a matrix with one row."""
        g, y, one = _Nodes(editor, self, node.output), node.output[0], copied(node)
        row = g.node("Reshape", [node.input[0], g.constant("one_row", np.array([1, -1], np.int64))], f"{y}.row")
        one.input[0], one.output[0] = row, self.unused(f"{y}.rows")
        self._product(editor, one)
        g.node("Reshape", [one.output[0], g.constant("one_column", np.array([-1], np.int64))], y)
        return True

    def _row_added(self, editor: Editor, product: str, rows: int) -> tuple[str, str] | None:
        """The sum of a product and a constant row, and that row, where nothing else reads the product."""
        readers = editor.readers.get(product, ())
        if len(readers) != 1 or readers[0].op_type != "Add" or product in {v.name for v in editor.graph.output}:
            return None
        row = next((name for name in readers[0].input if name != product), "")
        return (readers[0].output[0], row) if self._is_row(row, rows) else None

    def _is_row(self, name: str, rows: int) -> bool:
        """Whether a value is a constant with a number for each row of a weight; what is left out is none."""
        return name in self._initializers and list(self._initializers[name].dims) == [rows]

    def _rows(self, editor: Editor, node: onnx.NodeProto) -> bool:
        """A table that is looked up in codes; columns that pad a row are cut off again::

        ids ─ GatherBlockQuantized(codes, scales) ─ (Slice)
        """
        tensor = self._coded(node.input[0])
        if tensor is None or tensor.scheme is None:
            return False
        g, y, scheme = _Nodes(editor, self, node.output), node.output[0], tensor.scheme
        rows, columns = tensor.weight.shape
        padded = scheme.blocks(columns) * scheme.block_size
        name, width = tensor.weight.name, padded * scheme.bits // _BYTE
        table = self.external(f"{name}.rows", UINT8, (rows, width), tensor.regions["values"])
        found = g.node(
            "GatherBlockQuantized",
            [table, node.input[1], *block_scales(g, tensor)],
            y if padded == columns else f"{y}.padded",
            domain=CONTRIB,
            bits=scheme.bits,
            block_size=scheme.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if padded != columns:
            names = [g.constant(f"last_{number}", np.array([number], np.int64)) for number in (0, columns, -1)]
            g.node("Slice", [found, *names], y)
        return True

    def _steps(self, editor: Editor, node: onnx.NodeProto) -> bool:
        """An LSTM of which both weights have codes for its form in integers."""
        w, r = (self._tensors.get(node.input[index]) for index in (1, 2))
        if w is None or r is None or not (w.is_integer and r.is_integer):
            return False
        directions, *_ = self._foreign.dims[w.weight.name]
        recurrent.write_lstm(_Nodes(editor, self, node.output), node, w, r, directions)
        return True

    def write_floats(self) -> None:
        """Put what is kept, or made of codes when the graph is opened, in the places of the weights."""
        editor = Editor(self._made, self._made.graph, Weights())
        g = _Nodes(editor, self, self._tensors)
        for tensor in self._plan.tensors:
            name = tensor.weight.name
            if tensor.form == "float":
                self.external(name, FLOAT, self._foreign.dims[name], tensor.regions["data"])
            elif tensor.form == "half":
                half = self.external(f"{name}.half", FLOAT16, self._foreign.dims[name], tensor.regions["data"])
                g.node("Cast", [half], name, to=FLOAT)
            elif tensor.form == "folded":
                self._unpack(g, tensor)
            elif tensor.weight.stepped and self._is_read(name):
                recurrent.write_floats(g, tensor, self._foreign.dims[name])
        del self._made.graph.initializer[:]
        self._made.graph.initializer.extend(one for name, one in self._initializers.items() if name in self._final)
        set_nodes(self._made.graph, [*editor.nodes, *self._made.graph.node])

    def _is_read(self, name: str) -> bool:
        return any(name in node.input for node in all_nodes(self._made.graph.node))

    def _unpack(self, g: _Nodes, tensor: PlannedTensor) -> None:
        """Floats of the codes of a weight, in its own shape; operators that every opset and runtime has::

        bytes ─ Cast ─ (halves of bytes) ─ Sub(zero points) ─ Mul(scales) ─ (Slice) ─ Reshape ─ W
        """
        name, scheme, (rows, columns) = tensor.weight.name, tensor.scheme, tensor.weight.shape
        if scheme is None:
            raise ValueError(f"{name} has no codes")
        blocks, shape = scheme.blocks(columns), scheme.values_shape(rows, columns)
        stored = self.external(f"{name}.values", UINT8, shape, tensor.regions["values"])
        codes = _codes(g, stored, scheme.bits, (rows, blocks, scheme.block_size), name)
        steps = g.node("Sub", [codes, self._zeros(g, tensor, scheme, rows, blocks)], f"{name}.steps")
        scales = self.external(f"{name}.scales", FLOAT, (rows, blocks), tensor.regions["scales"])
        whole = g.node("Mul", [steps, _shaped(g, scales, (rows, blocks, 1), f"{name}.by_block")], f"{name}.padded")
        padded = blocks * scheme.block_size
        if padded != columns:
            whole = _cut(g, _shaped(g, whole, (rows, padded), f"{name}.rows"), columns, f"{name}.cut")
        _shaped(g, whole, self._foreign.dims[name], name)

    def _zeros(self, g: _Nodes, tensor: PlannedTensor, scheme: Scheme, rows: int, blocks: int) -> str:
        """Zero points, one for all or (rows, blocks, 1)."""
        name = tensor.weight.name
        if scheme.symmetric:
            return g.constant(f"zero_point_{scheme.zero_point}", np.array(scheme.zero_point, np.float32))
        shape = scheme.zero_points_shape(rows, tensor.weight.shape[1])
        stored = self.external(f"{name}.zero_points", UINT8, shape, tensor.regions["zero_points"])
        in_row = shape[1] * _BYTE // scheme.bits
        zeros = _codes(g, stored, scheme.bits, (rows, in_row), f"{name}.zeros")
        if in_row != blocks:
            zeros = _cut(g, zeros, blocks, f"{name}.zeros.cut")
        return _shaped(g, zeros, (rows, blocks, 1), f"{name}.zeros.by_block")


def _shaped(g: _Nodes, x: str, shape: Sequence[int], output: str) -> str:
    return g.node("Reshape", [x, g.constant(f"{output}.shape", np.array(shape, np.int64))], output)


def _cut(g: _Nodes, x: str, columns: int, output: str) -> str:
    """The first columns of a matrix."""
    ends = [g.constant(f"column_{number}", np.array([number], np.int64)) for number in (0, columns, 1)]
    return g.node("Slice", [x, *ends], output)


def _codes(g: _Nodes, stored: str, bits: int, shape: Sequence[int], name: str) -> str:
    """Bytes → the codes in them, as floats of ``shape``.

    ::

        byte ─┬ Mul(1/16) ─ Floor ─┬────────────┐
              │                    └ Mul(16) ─┐ │
              └────────────────────────── Sub ┴ Concat ─
    """
    found = g.node("Cast", [stored], f"{name}.numbers", to=FLOAT)
    each = g.constant("each_in_a_row", np.array([-1, 1], np.int64))
    for half in _HALVES[bits]:
        column = g.node("Reshape", [found, each], f"{name}.column_{half}")
        share = g.constant(f"share_{half}", np.array(1 / half, np.float32))
        high = g.node("Floor", [g.node("Mul", [column, share], f"{name}.shifted_{half}")], f"{name}.high_{half}")
        times = g.node("Mul", [high, g.constant(f"times_{half}", np.array(half, np.float32))], f"{name}.rest_{half}")
        low = g.node("Sub", [column, times], f"{name}.low_{half}")
        found = g.node("Concat", [low, high], f"{name}.codes_{half}", axis=1)
    return _shaped(g, found, shape, f"{name}.codes")
