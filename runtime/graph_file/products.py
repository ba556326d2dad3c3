"""The matrix products of an ONNX graph: which nodes they are, the constants they read, and a large one in pieces.

A node whose weight takes more than :data:`SPLIT_ABOVE` bytes (in practice the head) becomes products of its rows::

    x ─► MatMulNBits (N) ─► y    becomes    x ─┬► MatMulNBits (N₁) ─┬► Concat ─► y
                                               └► MatMulNBits (N₂) ─┘

because the memory that a weight is packed into is the peak of a start. Columns of y do not depend on each other.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.protobuf import Message

SPLIT_ABOVE = 32 << 20  # glibc maps and clears anew each allocation above 32 MiB; smaller ones it reuses
PIECE = 4 << 20  # bytes of weight in a piece
_ROW_MULTIPLE = 64  # rows of a piece: whole tiles of every kernel

Region = tuple[int, int]  # offset and bytes


@dataclass(frozen=True)
class Packs:
    """An operator that packs constant inputs: which ones, and which others go into the packed bytes.

    ``routes`` are inputs that are computed as x is: numbers by which experts are chosen, (tokens, experts). ``folds``
    says that it packs only where its scales are constants.
    """

    weights: tuple[int, ...]
    scales: tuple[int, ...] = ()
    zero_points: tuple[int, ...] = ()
    routes: tuple[int, ...] = ()
    folds: bool = False


PACKING = {
    "MatMulNBits": Packs((1,), scales=(2,), zero_points=(3,)),
    "MatMul": Packs((1,)),
    "FusedMatMul": Packs((1,)),
    "QMoE": Packs((2, 5), scales=(3, 6), zero_points=(11, 12), routes=(1, 14), folds=True),
}


@dataclass
class Tensor:
    """A constant of the graph. ``external`` is its place in a file of the bundle, None when it is in the graph."""

    name: str
    message: Message
    shape: list[int]
    data_type: int
    external: tuple[str, int, int] | None

    @property
    def raw(self) -> bytes:
        """The data that is in the graph as bytes; none of what is external, or typed (a few numbers)."""
        return b"".join(pb.all_bytes(self.message, 9))

    @property
    def size(self) -> int:
        """Bytes of data, external or raw."""
        return self.external[2] if self.external else len(self.raw)


@dataclass
class Node:
    """A node of the graph."""

    message: Message
    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, int]  # the integer ones
    has_graph: bool = False  # an If or Loop, whose graphs may read any constant


@dataclass
class Product:
    """One matrix product, or all those of one layer's experts, to check and write: a node, or a piece of one.

    ``constants`` are those that it reads.
    """

    node: Node
    packs: Packs
    depth: int  # columns of x
    constants: dict[int, Tensor]  # by input index

    @property
    def weights(self) -> dict[int, Tensor]:
        """The constants that are packed."""
        return {index: self.constants[index] for index in self.packs.weights}

    @property
    def size(self) -> int:
        """Bytes of what is packed."""
        return sum(tensor.size for tensor in self.weights.values())

    def stub_of(self, weight: Tensor) -> Tensor:
        """One row of one block of one expert's weight."""
        nbytes = self.node.attributes.get("block_size", 32) * self.node.attributes["expert_weight_bits"] // 8
        return Tensor(weight.name, [], [1, 1, nbytes], weight.data_type, ("", 0, nbytes))

    @property
    def routes(self) -> list[int]:
        """The inputs that choose experts."""
        return [index for index in self.packs.routes if index < len(self.node.inputs) and self.node.inputs[index]]

    @property
    def experts(self) -> int:
        """How many experts there are to choose from, or how many rows a weight has."""
        return self.constants[self.packs.weights[0]].shape[0]

    def name_of(self, index: int) -> str:
        """The name in the new graph of the constant at input ``index``."""
        return f"{self.node.name}/{self.node.outputs[0]}/{index}"

    @property
    def kind(self) -> tuple[object, ...]:
        """Products of one kind are packed and computed by the same code."""
        return (self.node.op, sorted((key, value) for key, value in self.node.attributes.items() if key != "N"),
                sorted(self.constants), self.x_type, self.depth)  # fmt: skip

    @property
    def x_type(self) -> int:
        """The data type of x and y."""
        return self.constants[(self.packs.scales or self.packs.weights)[0]].data_type

    @property
    def inputs(self) -> list[str]:
        """The node's inputs in the new graph."""
        return [self.name_of(i) if i in self.constants else name for i, name in enumerate(self.node.inputs)]


def read_node(data: bytes) -> Node:
    """A NodeProto."""
    message = pb.parse(data)
    attributes, has_graph = {}, False
    for value in pb.all_bytes(message, 5):
        attribute = pb.parse(value)
        has_graph |= any(item.number in {6, 11} for item in attribute)
        if found := pb.integers(attribute, 3):
            attributes[pb.one_text(attribute, 1)] = found[-1]
    inputs = [value.decode() for value in pb.all_bytes(message, 1)]
    outputs = [value.decode() for value in pb.all_bytes(message, 2)]
    return Node(message, pb.one_text(message, 4), pb.one_text(message, 3), inputs, outputs, attributes, has_graph)


def read_tensor(data: bytes) -> Tensor:
    """A TensorProto."""
    message = pb.parse(data)
    entries = {}
    for value in pb.all_bytes(message, 13):
        entry = pb.parse(value)
        entries[pb.one_text(entry, 1)] = pb.one_text(entry, 2)
    external = None
    if "location" in entries:
        external = (entries["location"], int(entries.get("offset", 0)), int(entries.get("length", 0)))
    (data_type,) = pb.integers(message, 2)
    return Tensor(pb.one_text(message, 8), message, pb.integers(message, 1), data_type, external)


def graph_outputs(graph: Message) -> set[str]:
    """Names of what a GraphProto returns."""
    return {pb.one_text(pb.parse(value), 1) for value in pb.all_bytes(graph, 12)}


def products_of(node: Node, tensors: dict[str, Tensor]) -> list[Product]:
    """The products that compute ``node``: none when it does not pack, several when its weight is large."""
    packs = PACKING.get(node.op)
    if packs is None or node.attributes.get("transA") or node.attributes.get("transBatchB"):
        return []
    constants = {index: tensors[name] for index, name in enumerate(node.inputs) if name in tensors}
    if any(index not in constants or constants[index].external is None for index in packs.weights):
        return []
    needed = [index for index, name in enumerate(node.inputs) if index and name and index not in packs.routes]
    if any(index not in constants for index in needed):
        return []  # scales that are computed: onnxruntime does not pack these either
    weight = constants[packs.weights[0]]
    if node.op == "QMoE":  # (experts, rows, bytes of a row)
        depth = weight.shape[2] * 8 // node.attributes["expert_weight_bits"]
    elif node.op == "MatMulNBits":
        depth = node.attributes["K"]
        rows = node.attributes["N"]
        if weight.size > SPLIT_ABOVE and all(_rows_first(constants[index], rows) for index in needed):
            return list(_split(node, packs, constants, depth, rows))
    elif len(weight.shape) == 2:
        depth = weight.shape[1 if node.attributes.get("transB") else 0]
    else:
        return []
    return [Product(node, packs, depth, constants)]


def _rows_first(tensor: Tensor, rows: int) -> bool:
    return tensor.size > 0 and math.prod(tensor.shape) > 0 and tensor.size % rows == 0


def _split(node: Node, packs: Packs, constants: dict[int, Tensor], depth: int, rows: int) -> Iterator[Product]:
    row_bytes = constants[packs.weights[0]].size // rows
    step = max(1, PIECE // row_bytes // _ROW_MULTIPLE) * _ROW_MULTIPLE
    for part, start in enumerate(range(0, rows, step)):
        count = min(step, rows - start)
        pieces = {index: _rows_of(tensor, part, start, count, rows) for index, tensor in constants.items()}
        names = [pieces[index].name if index in pieces else name for index, name in enumerate(node.inputs)]
        message = with_names(node.message, names, [f"{node.outputs[0]}/{part}"], f"{node.name}/{part}")
        message = [_with_integer(item, "N", count) for item in message]
        yield Product(read_node(pb.serialize(message)), packs, depth, pieces)


def _rows_of(tensor: Tensor, part: int, start: int, count: int, rows: int) -> Tensor:
    """Rows ``start`` to ``start + count`` of a constant. Bytes are taken by row, whatever the shape says."""
    row_bytes, row_items = tensor.size // rows, math.prod(tensor.shape) // rows
    shape = [count, *tensor.shape[1:]] if tensor.shape[0] == rows else [count * row_items]
    first, size = start * row_bytes, count * row_bytes
    piece = Tensor(f"{tensor.name}/{part}", [], shape, tensor.data_type, None)
    if tensor.external is not None:
        location, offset, _ = tensor.external
        piece.external = (location, offset + first, size)
    else:
        piece.message = [*header(piece, piece.name), pb.Field(9, pb.BYTES, tensor.raw[first : first + size])]
    return piece


def _with_integer(item: pb.Field, name: str, value: int) -> pb.Field:
    """A node's field, with the integer attribute ``name`` replaced should this be it."""
    if item.number != 5 or not isinstance(item.value, bytes):
        return item
    attribute = pb.parse(item.value)
    if pb.one_text(attribute, 1) != name:
        return item
    return pb.nested(5, [*pb.without(attribute, 3), pb.integer(3, value)])


def with_names(node: Message, inputs: list[str], outputs: list[str], name: str) -> Message:
    """A NodeProto with other inputs and outputs."""
    named = [*(pb.text(1, value) for value in inputs), *(pb.text(2, value) for value in outputs), pb.text(3, name)]
    return named + pb.without(node, 1, 2, 3)


def lines_of(node: Node, products: list[Product]) -> list[Node]:
    """What stands in the new graph for ``node``: itself, itself with its constants' copies, or pieces and a Concat."""
    if not products:
        return [node]
    lines = []
    for product in products:
        piece = product.node
        lines.append(read_node(pb.serialize(with_names(piece.message, product.inputs, piece.outputs, piece.name))))
    if len(products) > 1:
        axis = [pb.text(1, "axis"), pb.integer(3, -1), pb.integer(20, 2)]
        concat = [pb.text(4, "Concat"), pb.nested(5, axis)]
        parts = [line.outputs[0] for line in lines]
        lines.append(read_node(pb.serialize(with_names(concat, parts, node.outputs, f"{node.name}/join"))))
    return lines


# ---- constants and inputs of a new graph -----------------------------------------------------------------------------


def value_info(number: int, name: str, data_type: int, shape: Sequence[int | str] | None = None) -> pb.Field:
    """A graph's input (11) or output (12)."""
    dims = [pb.text(2, size) if isinstance(size, str) else pb.integer(1, size) for size in shape or ()]
    sizes = [] if shape is None else [pb.nested(2, [pb.nested(1, [dim]) for dim in dims])]
    return pb.nested(number, [pb.text(1, name), pb.nested(2, [pb.nested(1, [pb.integer(1, data_type), *sizes])])])


def header(tensor: Tensor, name: str) -> Message:
    """A TensorProto without its data."""
    return [*(pb.integer(1, size) for size in tensor.shape), pb.integer(2, tensor.data_type), pb.text(8, name)]


def external(tensor: Tensor, name: str, location: str, offset: int) -> Message:
    """A TensorProto whose data is in a file."""
    entries = {"location": location, "offset": str(offset), "length": str(tensor.size)}
    places = [pb.nested(13, [pb.text(1, key), pb.text(2, value)]) for key, value in entries.items()]
    return [*header(tensor, name), *places, pb.integer(14, 1)]


def with_packed(tensor: Message, key: str, packed: list[Region]) -> Message:
    """A TensorProto that says where its packed bytes are, once packing it has given ``key``."""
    value = "|".join([key, *(f"{offset};{size};0" for offset, size in packed)])
    return [*tensor, pb.nested(13, [pb.text(1, "prepacked_0"), pb.text(2, value)])]
