"""What a call of a bundle's graph moves and computes, read from the graph: the counts of `plan --device`.

Bytes are all constants that a call reads whole (of a table it takes rows) and the states of the tokens before.
Operations are two for each weight of a product and four for each number and key of attention.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from edgepress.errors import InputError
from edgepress.runtime import protobuf as pb
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.products import Node, Tensor, read_node, read_tensor
from edgepress.runtime.sessions.session import PREFILL_CHUNK
from edgepress.states import state_bytes

PRODUCT = "MatMulNBits"
_ATTENTION = "GroupQueryAttention"
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
class Work:
    """A graph's work for a token.

    - ``weight_bytes``: constants that each call reads whole
    - ``weights``, ``last_weights``: of products for every token of a prompt, and for its last one alone
    - ``width``: numbers of all heads of all attention together
    - ``scheme``: of the most weights
    """

    weight_bytes: int
    weights: int
    last_weights: int
    width: int
    scheme: Scheme

    def decode(self, config: BundleConfig, before: float) -> tuple[float, float]:
        """Bytes and operations of a token after ``before`` others."""
        moved = self.weight_bytes + state_bytes(config.states, round(before))
        return moved, 2 * (self.weights + self.last_weights) + 4 * self.width * before

    def prefill(self, config: BundleConfig, length: int) -> tuple[float, float]:
        """Bytes and operations of a prompt of ``length`` tokens: weights are read once for each chunk of it."""
        moved = self.weight_bytes * ceil(length / PREFILL_CHUNK) + state_bytes(config.states, length)
        products = 2 * (self.weights * length + self.last_weights)
        return moved, products + 4 * self.width * length * (length - 1) / 2


def read_work(config: BundleConfig) -> Work:
    """Count the work of a bundle's graph.

    Raises:
        InputError: the graph has no product of a kind whose speed can be measured alone.

    """
    [graph] = [pb.parse(value) for value in pb.all_bytes(pb.parse(config.model.read_bytes()), 7)]
    nodes = [read_node(value) for value in pb.all_bytes(graph, 1)]
    constants = [read_tensor(value) for value in pb.all_bytes(graph, 5)]
    by_scheme, weights, last_weights = _products(nodes, {tensor.name: tensor for tensor in constants})
    if not by_scheme:
        raise InputError(
            f"{config.model} has no {PRODUCT}, by which a roofline is measured; take a bundle of recipe int4 or int8"
        )
    sizes = {state.input: state.shape[-1] for state in config.states}
    width = sum(node.attributes["num_heads"] * int(sizes[node.inputs[3]]) for node in nodes if node.op == _ATTENTION)
    scheme = max(by_scheme, key=lambda key: by_scheme[key])
    return Work(_weight_bytes(nodes, constants), weights, last_weights, width, scheme)


def _products(nodes: Iterable[Node], constants: Mapping[str, Tensor]) -> tuple[dict[Scheme, int], int, int]:
    """Weights by scheme, those for every token, and those for a prompt's last one alone."""
    by_scheme: dict[Scheme, int] = defaultdict(int)
    casts: dict[str, str] = {}
    counts = {False: 0, True: 0}
    last = {_LOGITS_START}
    for node in nodes:
        alone = not last.isdisjoint(node.inputs)
        last.update(node.outputs if alone else ())
        if node.op == "Cast":
            casts[node.outputs[0]] = node.inputs[0]
        elif node.op == PRODUCT:
            weights = node.attributes["N"] * node.attributes["K"]
            scales = constants.get(casts.get(node.inputs[2], node.inputs[2]))
            by_scheme[_scheme(node, scales)] += weights
            counts[alone] += weights
    return by_scheme, counts[False], counts[True]


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
