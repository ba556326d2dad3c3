"""How much memory a bundle will take when it runs: an estimate from its graph, before a weight is read.

What is resident once a bundle has answered from its prepared form (runtime/prepared.py), beside the process itself:

- weights as the kernels of a kind of processor hold them (targets/devices/packing.py), and the constants that nodes
  read whole. Of tables a token's row is read, which is not counted
- states, at a number of tokens
- what onnxruntime keeps of nodes, by a figure that was measured

A prompt takes more while it is computed, which is given back after it: the rows of its tokens, with the pages that the
system reads around each, and what the widest node of a chunk reads and writes. Weights of experts (QMoE) and of
integer operators are counted as they are stored.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

import onnx
from onnx import TensorProto

from edgepress.bundle.states import state_bytes
from edgepress.exporter.bundle.cpu_graph import make_mtp_graph, planned_graphs
from edgepress.exporter.decide.instructions import PROMPT, widest_node
from edgepress.exporter.decide.job import Prepared
from edgepress.onnx_graph.walk import attribute, operand
from edgepress.targets import Target
from edgepress.targets.devices.packing import Kind, Weight, held_bytes, packed_float_bytes

PROMPT_TOKENS = 512
"""Tokens of the prompt that an estimate is for, where as many fit."""

TABLES = {"Gather": (0,), "GatherBlockQuantized": (0, 2, 3)}
"""Operators that read a row of a constant for each token, and which inputs that are."""

_AROUND = 64 << 10  # bytes that Linux reads around a page of a mapped file
_PAGE = 4096  # where each packed weight of a prepared form begins
_NODE_BYTES = 15_000  # that onnxruntime 1.31 keeps of a node: 30 and 24 layers less 3 (docs/benchmarks.md)
_BITS = {1: 32, 2: 8, 3: 8, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 16: 16, 21: 4, 22: 4}  # TensorProto.DataType


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a bundle takes, beside the process; ``kernels`` is the kind of processor that it was made for.

    ``prompt`` are those that a prompt of so many tokens takes besides while it is computed.
    """

    kernels: Kind
    tokens: int
    weights: int
    states: int
    nodes: int
    prompt_tokens: int
    prompt: int

    @property
    def total(self) -> int:
        """What stays."""
        return self.weights + self.states + self.nodes

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; sizes in bytes."""
        return {**asdict(self), "total": self.total}


def kernels_of(targets: Iterable[Target]) -> Kind:
    """The kind of processor that targets are; of ARM's the one that holds most, as nothing tells which it will be."""
    names = [target.name for target in targets]
    if any(name.startswith("x86") for name in names):
        return "x86-64"
    return "arm64" if any(target.is_cpu and target.float16 for target in targets) else "as stored"


def estimate_memory(model: onnx.ModelProto, states: int, kernels: Kind, tokens: int) -> MemoryEstimate:
    """What a graph takes with a text of ``tokens`` tokens, whose ``states`` are so many bytes then."""
    constants = {tensor.name for tensor in model.graph.initializer}
    folded = sum(node.op_type == "Cast" and node.input[0] in constants for node in model.graph.node)
    nodes = (len(model.graph.node) - folded) * _NODE_BYTES
    prompt = min(tokens, PROMPT_TOKENS)
    beside = prompt_bytes(model, kernels, prompt)
    return MemoryEstimate(kernels, tokens, weight_bytes(model, kernels), states, nodes, prompt, beside)


def estimates_of(prepared: Prepared, kernels: Kind | None = None) -> list[MemoryEstimate]:
    """Of the graph that runs where it can, with as many tokens as a text has by default, then as it may have at most.

    ``kernels`` are by default those of the targets.
    """
    kernels, plan = kernels or kernels_of(prepared.targets), planned_graphs(prepared)[0].plan
    model = next(iter(prepared.make_graphs().values()))
    lengths = dict.fromkeys((prepared.plan.default_context, prepared.plan.context_length))
    return [estimate_memory(model, plan.cache_bytes_at(tokens), kernels, tokens) for tokens in lengths]


def estimate_of_mtp(prepared: Prepared) -> MemoryEstimate | None:
    """What predicts a token further takes besides, once it is speculated with: it has the head once more."""
    model, mtp, tokens = make_mtp_graph(prepared, prepared.cpu), prepared.decoder.mtp, prepared.plan.default_context
    if model is None or mtp is None:
        return None
    return estimate_memory(model, state_bytes(mtp.decoder.states(), tokens), kernels_of(prepared.targets), tokens)


def prompt_bytes(model: onnx.ModelProto, kernels: Kind, tokens: int) -> int:
    """Bytes that a prompt takes while it is computed: rows of tables, of tokens that differ, and activations."""
    constants, casts = _constants(model)
    tables = {casts.get(name, name) for node in model.graph.node for place in TABLES.get(node.op_type, ())
              if (name := operand(node, place))}  # fmt: skip
    if kernels == "as stored":
        tables -= _read_whole(model, casts)
    sizes = [_stored(constants[name]) for name in tables & constants.keys()]
    rows = sum(size * (1 - exp(-tokens * _AROUND / size)) for size in sizes if size)
    return round(rows) + 4 * min(tokens, PROMPT) * widest_node(model)


def weight_bytes(model: onnx.ModelProto, kernels: Kind) -> int:
    """Bytes of all constants that a call reads whole, as kernels hold them."""
    constants, casts = _constants(model)
    total, by_products = 0, set[str]()
    for node in model.graph.node:
        if (found := _product(node, constants, kernels)) is not None:
            total += -(-found // _PAGE) * _PAGE
            by_products |= {casts.get(name, name) for name in node.input[1:]}
    return total + sum(_stored(constants[name]) for name in constants.keys() & _read_whole(model, casts) - by_products)


def _constants(model: onnx.ModelProto) -> tuple[dict[str, TensorProto], dict[str, str]]:
    """Constants by name, and what each Cast reads by what it gives: that of a constant is folded."""
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    return {tensor.name: tensor for tensor in model.graph.initializer}, casts


def _read_whole(model: onnx.ModelProto, casts: Mapping[str, str]) -> set[str]:
    """What nodes read, but for tables."""
    nodes = (node for node in model.graph.node if node.op_type != "Cast")
    return {casts.get(name, name) for node in nodes for place, name in enumerate(node.input)
            if place not in TABLES.get(node.op_type, ())}  # fmt: skip


def _product(node: onnx.NodeProto, constants: dict[str, TensorProto], kernels: Kind) -> int | None:
    """Bytes that a matrix product with a constant weight holds; None of other nodes."""
    weight = constants.get(operand(node, 1))
    if weight is None or kernels == "as stored":
        return None
    if node.op_type == "MatMulNBits":
        scales = constants.get(operand(node, 2))
        return held_bytes(
            Weight(
                rows=attribute(node, "N"),
                depth=attribute(node, "K"),
                bits=attribute(node, "bits", 4),
                block=attribute(node, "block_size"),
                accuracy_level=attribute(node, "accuracy_level", 0),
                zero_points=bool(operand(node, 3)),
                half=scales is not None and scales.data_type == TensorProto.FLOAT16,
            ),
            kernels,
        )
    plain = node.op_type == "MatMul" or (node.op_type == "FusedMatMul" and not attribute(node, "transA", 0))
    if plain and len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT:
        depth, rows = reversed(weight.dims) if attribute(node, "transB", 0) else weight.dims
        return packed_float_bytes(rows, depth)
    return None


def _stored(tensor: TensorProto) -> int:
    """Bytes of a constant as a file has it."""
    count = 1
    for size in tensor.dims:
        count *= size
    return count * _BITS.get(tensor.data_type, 0) // 8
