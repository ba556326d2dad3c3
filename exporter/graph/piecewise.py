"""Runs a graph a few nodes at a time, in memory that hardly grows with its weights.

Nodes that follow each other share a step as long as they read few weights. One that reads many is a step of its own, of
which only a piece is looked at at a time::

    y = x Wᵀ + b           some rows of W give some columns of y
    y = rows of a table    those that this call looks up are a table of their own

A step is a session, or one for each piece, which reads its regions of the data file and is closed when it has run; what
no later step reads is freed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.graph.weights import refer
from edgepress.onnx_graph.tensors import Region, TensorReader, read_region
from edgepress.onnx_graph.walk import attribute, read_by
from edgepress.sessions import open_on_cpu, session_options

Array = NDArray[Any]

PIECE = 1 << 21
"""Weights of a product that are computed with at a time; onnxruntime makes them float32 while it does."""

_ROWS = {"MatMulNBits": (1, 2, 3, 5), "FusedMatMul": (1,)}  # inputs whose rows give columns of the output
_TABLES = {"Gather": (0,), "GatherBlockQuantized": (0, 2, 3)}  # inputs that input 1 looks rows up in


@dataclass(frozen=True)
class _Step:
    """Nodes that run together, what of them is wanted or read by later ones, and what no later one reads."""

    nodes: tuple[onnx.NodeProto, ...]
    gives: tuple[str, ...]
    over: tuple[str, ...]


class Piecewise:
    """The nodes of ``model`` that the values ``wanted`` depend on; its data file is in the folder ``bundle``."""

    def __init__(
        self, bundle: Path, model: onnx.ModelProto, wanted: Iterable[str], *, threads: int, piece: int = PIECE
    ) -> None:
        self._model, self._reader, self._piece = model, TensorReader(bundle), piece
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._folded: dict[str, onnx.NodeProto] = {}  # nodes that read constants alone, by what they give
        self._wanted = frozenset(wanted)
        self._steps = self._in_steps(model.graph.node)
        self._options = session_options(threads)
        self._options.enable_cpu_mem_arena = False  # an arena keeps what its largest piece needed
        self._options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle))
        self._options.add_session_config_entry("session.disable_prepacking", "1")  # each weight is used once

    def __len__(self) -> int:
        """How many steps there are."""
        return len(self._steps)

    def run(self, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Of one call: what is wanted of ``inputs``, and then what is wanted of each step."""
        values = dict(inputs)
        yield {name: values[name] for name in self._wanted & values.keys()}
        for step in self._steps:
            values |= self._run(step, values)
            yield {name: values[name] for name in step.gives if name in self._wanted}
            for name in step.over:
                values.pop(name, None)

    def _in_steps(self, nodes: Sequence[onnx.NodeProto]) -> list[_Step]:
        groups: list[list[onnx.NodeProto]] = []
        size = 0  # of the constants of the last group
        for node in _needed(nodes, self._wanted):
            if self._wanted.isdisjoint(node.output) and all(
                name in self._constants or name in self._folded for name in read_by(node)
            ):
                self._folded |= dict.fromkeys(node.output, node)
                continue
            size += self._largest(node)
            if size > self._piece // 2 or not groups:
                groups.append([])
                size = self._largest(node)
            groups[-1].append(node)
        last = {name: at for at, group in enumerate(groups) for node in group for name in read_by(node)}
        steps = []
        for at, group in enumerate(groups):
            made = [name for node in group for name in node.output if name]
            gives = (name for name in made if name in self._wanted or last.get(name, at) > at)
            used = dict.fromkeys([*made, *(name for node in group for name in read_by(node))])
            steps.append(_Step(tuple(group), tuple(gives), tuple(name for name in used if last.get(name, at) == at)))
        return steps

    def _largest(self, node: onnx.NodeProto) -> int:
        """Elements of the largest constant that a node reads, or that what it reads is made from."""
        return max(map(self._size, read_by(node)), default=0)

    def _size(self, name: str) -> int:
        if name in self._constants:
            return math.prod(self._constants[name].dims)
        return self._largest(self._folded[name]) if name in self._folded else 0

    def _run(self, step: _Step, values: Mapping[str, Array]) -> dict[str, Array]:
        """What a step gives."""
        node = step.nodes[0]
        if self._largest(node) > self._piece // 2:
            for kinds, compute in ((_TABLES, self._look_up), (_ROWS, self._multiply)):
                cut = self._cut(node, kinds.get(node.op_type, ()))
                if cut:
                    return {node.output[0]: compute(node, cut, values)}
        return self._in_session(step.nodes, step.gives, self._constants, values)

    def _cut(self, node: onnx.NodeProto, inputs: Sequence[int]) -> list[TensorProto]:
        """Constants that those inputs are made from, when all of them are and have as many rows; else none."""
        found = [self._stored(node.input[at]) for at in inputs if at < len(node.input) and node.input[at]]
        constants = [tensor for tensor in found if tensor is not None]
        is_turned = node.op_type == "FusedMatMul" and not attribute(node, "transB", 0)
        is_alike = len(constants) == len(found) and len({tensor.dims[0] for tensor in constants}) == 1
        return constants if is_alike and not is_turned else []

    def _stored(self, name: str) -> TensorProto | None:
        """The constant that ``name`` is, or is a Cast of."""
        while name in self._folded and self._folded[name].op_type == "Cast":
            name = self._folded[name].input[0]
        return self._constants.get(name)

    def _look_up(self, node: onnx.NodeProto, tables: Sequence[TensorProto], values: Mapping[str, Array]) -> Array:
        """Rows of a table, of which a session gets those that are looked up."""
        ids = values[node.input[1]]
        rows, places = np.unique(ids, return_inverse=True)
        cut = {tensor.name: self._picked(tensor, rows.tolist()) for tensor in tables}
        feeds = {node.input[1]: places.reshape(ids.shape).astype(ids.dtype)}
        return self._in_session([node], node.output[:1], {**self._constants, **cut}, feeds)[node.output[0]]

    def _multiply(self, node: onnx.NodeProto, weights: Sequence[TensorProto], values: Mapping[str, Array]) -> Array:
        """A product, with some rows of the weight at a time."""
        rows, columns = weights[0].dims[0], values[node.input[0]].shape[-1]
        count, parts = max(1, self._piece // columns), []
        for start in range(0, rows, count):
            stop = min(start + count, rows)
            cut = {tensor.name: self._between(tensor, start, stop) for tensor in weights}
            part = onnx.NodeProto()
            part.CopyFrom(node)
            for entry in part.attribute:
                if entry.name == "N":
                    entry.i = stop - start
            found = self._in_session([part], part.output[:1], {**self._constants, **cut}, values)
            parts.append(found[part.output[0]])
        return np.concatenate(parts, axis=-1)

    def _picked(self, tensor: TensorProto, rows: Sequence[int]) -> TensorProto:
        """Rows of a constant, as one with its bytes inside."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.from_array(numpy_helper.to_array(tensor)[rows], tensor.name)
        region = self._reader.region(tensor)
        size = region.length // tensor.dims[0]
        parts = (read_region(Region(region.file, region.offset + row * size, size), tensor.name) for row in rows)
        content, dims = b"".join(part.tobytes() for part in parts), [len(rows), *tensor.dims[1:]]
        return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims, raw_data=content)

    def _between(self, tensor: TensorProto, start: int, stop: int) -> TensorProto:
        """Rows of a constant that follow each other, where they lie."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.from_array(numpy_helper.to_array(tensor)[start:stop], tensor.name)
        region = self._reader.region(tensor)
        size = region.length // tensor.dims[0]
        part = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[stop - start, *tensor.dims[1:]])
        refer(part, region.file.name, region.offset + start * size, (stop - start) * size)
        return part

    def _in_session(
        self,
        nodes: Sequence[onnx.NodeProto],
        outputs: Sequence[str],
        constants: Mapping[str, TensorProto],
        values: Mapping[str, Array],
    ) -> dict[str, Array]:
        """``outputs`` of nodes, by a session of their own."""
        nodes = [*self._folded_before(nodes), *nodes]
        read = {name for node in nodes for name in read_by(node)}.difference(*(node.output for node in nodes))
        feeds = {name: values[name] for name in sorted(read - constants.keys())}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
            for name, value in feeds.items()
        ]
        kept = [constants[name] for name in sorted(read & constants.keys())]
        graph = helper.make_graph(nodes, "step", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], kept)
        opsets, version = self._model.opset_import, self._model.ir_version
        model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        session = open_on_cpu(model.SerializeToString(), self._options)
        return dict(zip(outputs, session.run([*outputs], feeds), strict=True))

    def _folded_before(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes that make, from constants, what ``nodes`` read."""
        found: dict[str, onnx.NodeProto] = {}  # by the first output
        for name in (name for node in nodes for name in read_by(node) if name in self._folded):
            node = self._folded[name]
            found |= {before.output[0]: before for before in [*self._folded_before([node]), node]}
        return list(found.values())


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that ``outputs`` depend on, in their order."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(read_by(node))
    return kept[::-1]
