"""What a call of a bundle's graph moves and computes, read from the graph: the counts of `plan --device`.

Bytes are all constants that a call reads whole (of a table it takes rows) and the states of the tokens before.
Operations are two for each weight of a product and four for each number and key of attention. All other nodes are
counted, and the numbers that go into them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from edgepress.bundle.states import state_bytes
from edgepress.errors import InputError
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.products import Node, Tensor, read_node, read_tensor
from edgepress.runtime.sessions.session import PREFILL_CHUNK
from edgepress.targets.devices import Call

PRODUCT, ATTENTION = "MatMulNBits", "GroupQueryAttention"
_TABLES = {"Gather", "GatherBlockQuantized"}  # of which a token reads a row
_FLOAT32_BYTES = 4
_LOGITS_START = "logits_start"  # what comes after it is computed for a prompt's last token alone


@dataclass(frozen=True)
class Scheme:
    """How a bundle stores the weights of its products, and in what it multiplies: attributes of MatMulNBits.

    ``scale_bytes`` are those of a block's scale as it is stored, before a Cast makes it float32.
    """

    bits: int
    block_size: int
    accuracy_level: int
    zero_points: bool
    scale_bytes: int


@dataclass(frozen=True)
class Attention:
    """A bundle's attention: how many nodes, and the heads of the first of them."""

    layers: int
    heads: int
    key_value_heads: int
    head_size: int


@dataclass(frozen=True)
class Work:
    """A graph's work for a token.

    - ``weight_bytes``: constants that each call reads whole
    - ``weights``, ``last_weights``: of products for every token of a prompt, and for its last one alone
    - ``width``: numbers of all heads of all attention together
    - ``nodes``: all other nodes; ``numbers``, ``last_numbers``: that go into them for every token, and for the last one
    - ``scheme``: of the most weights; ``sizes``: (depth, columns) of its products for every token, in their order
    - ``attention``: None where there is none, or its keys are not float32
    """

    weight_bytes: int
    weights: int
    last_weights: int
    width: int
    nodes: int
    numbers: int
    last_numbers: int
    scheme: Scheme
    sizes: tuple[tuple[int, int], ...]
    attention: Attention | None

    def decode(self, config: BundleConfig, before: float) -> Call:
        """A token after ``before`` others."""
        return Call(
            weight_bytes=self.weight_bytes,
            state_bytes=state_bytes(config.states, round(before)),
            products=2 * (self.weights + self.last_weights),
            attention=4 * self.width * before,
            nodes=self.nodes,
            numbers=self.numbers + self.last_numbers,
            rows=1,
        )

    def prefill(self, config: BundleConfig, length: int) -> Call:
        """A prompt of ``length`` tokens: weights are read, and nodes started, once for each chunk of it."""
        chunks = ceil(length / PREFILL_CHUNK)
        return Call(
            weight_bytes=self.weight_bytes * chunks,
            state_bytes=state_bytes(config.states, length),
            products=2 * (self.weights * length + self.last_weights),
            attention=4 * self.width * length * (length - 1) / 2,
            nodes=self.nodes * chunks,
            numbers=self.numbers * length + self.last_numbers,
            rows=min(length, PREFILL_CHUNK),
        )


def read_work(config: BundleConfig) -> Work:
    """Count the work of a bundle's graph.

    Raises:
        InputError: the graph has no product of a kind whose speed can be measured alone.

    """
    [graph] = [pb.parse(value) for value in pb.all_bytes(pb.parse(config.model.read_bytes()), 7)]
    nodes = [read_node(value) for value in pb.all_bytes(graph, 1)]
    constants = [read_tensor(value) for value in pb.all_bytes(graph, 5)]
    states = {name: state for state in config.states for name in (state.input, state.output)}
    sizes = {name: state.shape[-1] for name, state in states.items()}
    counts = _Counts({tensor.name: tensor for tensor in constants}, sizes)
    for node in nodes:
        counts.add(node)
    if not counts.by_scheme:
        raise InputError(
            f"{config.model} has no {PRODUCT}, by which a roofline is measured; take a bundle of recipe int4 or int8"
        )
    scheme = max(counts.by_scheme, key=lambda key: counts.by_scheme[key])
    (numbers, last_numbers), (weights, last_weights) = (
        (counted[False], counted[True]) for counted in (counts.numbers, counts.weights)
    )
    attending = [node for node in nodes if node.op == ATTENTION]
    attention = None
    if attending and all(states[node.inputs[3]].type == "float32" for node in attending):
        first = attending[0]
        heads, key_value_heads = first.attributes["num_heads"], first.attributes["kv_num_heads"]
        attention = Attention(len(attending), heads, key_value_heads, counts.attended(first) // heads)
    return Work(
        weight_bytes=_weight_bytes(nodes, constants),
        weights=weights,
        last_weights=last_weights,
        width=sum(map(counts.attended, attending)),
        nodes=counts.others,
        numbers=numbers,
        last_numbers=last_numbers,
        scheme=scheme,
        sizes=tuple(counts.sizes[scheme]),
        attention=attention,
    )


class _Counts:
    """What nodes amount to, in their order: by whether they compute a prompt's last token alone."""

    def __init__(self, constants: Mapping[str, Tensor], head_sizes: Mapping[str, int | str]) -> None:
        self.by_scheme: dict[Scheme, int] = defaultdict(int)
        self.sizes: dict[Scheme, list[tuple[int, int]]] = defaultdict(list)
        self.weights, self.numbers = {False: 0, True: 0}, {False: 0, True: 0}
        self.others = 0
        self._constants, self._head_sizes = constants, head_sizes
        self._casts: dict[str, str] = {}
        self._last = {_LOGITS_START}  # values of the last token alone
        self._widths: dict[str, int] = {}  # numbers that a value has for each token

    def add(self, node: Node) -> None:
        """Count one node, and note what its results are."""
        alone = not self._last.isdisjoint(node.inputs)
        self._last.update(filter(None, node.outputs) if alone else ())
        width = max((self._widths[name] for name in node.inputs if name in self._widths), default=0)
        if node.op == "Cast":
            self._casts[node.outputs[0]] = node.inputs[0]
        if node.op == PRODUCT:
            width, depth = node.attributes["N"], node.attributes["K"]
            scheme = _scheme(node, self._constants.get(self._casts.get(node.inputs[2], node.inputs[2])))
            self.by_scheme[scheme] += width * depth
            self.weights[alone] += width * depth
            if not alone:
                self.sizes[scheme].append((depth, width))
        elif node.op == ATTENTION:
            width = self.attended(node)
        else:
            if node.op == "GatherBlockQuantized":
                width = self._constants[node.inputs[0]].shape[1] * 8 // node.attributes.get("bits", 4)
            self.others += 1
            self.numbers[alone] += width
        self._widths |= dict.fromkeys(filter(None, node.outputs), width) if width else {}

    def attended(self, node: Node) -> int:
        """Numbers of all heads of an attention."""
        return node.attributes["num_heads"] * int(self._head_sizes[node.inputs[3]])


def _scheme(node: Node, scales: Tensor | None) -> Scheme:
    found = node.attributes
    blocks = found["N"] * ceil(found["K"] / found["block_size"])
    return Scheme(
        bits=found.get("bits", 4),
        block_size=found["block_size"],
        accuracy_level=found.get("accuracy_level", 0),
        zero_points=len(node.inputs) > 3 and bool(node.inputs[3]),
        scale_bytes=scales.size // blocks if scales is not None and scales.size else _FLOAT32_BYTES,
    )


def _weight_bytes(nodes: Iterable[Node], constants: Iterable[Tensor]) -> int:
    tables: set[str] = set()
    read: set[str] = set()
    for node in nodes:
        (tables if node.op in _TABLES else read).update(node.inputs)
    return sum(tensor.size for tensor in constants if tensor.name in read or tensor.name not in tables)
