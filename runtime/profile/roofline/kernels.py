"""Kernels alone, as onnxruntime runs them in a bundle: products, attention, and light nodes.

Graphs of nothing else, made here without the onnx package. Weights are random: speed does not depend on them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.calls import Answer, Arrays
from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.products import value_info
from edgepress.runtime.graph_file.repack import packed_in, tell_packed
from edgepress.runtime.profile.roofline.work import ATTENTION, PRODUCT, Attention, Scheme
from edgepress.sessions import open_on_cpu, session_options
from edgepress.targets.devices.packing import KINDS, Kind, Weight, packed_bytes

_IR_VERSION, _OPSET = 10, 21
LIGHT = 64
"""Nodes in a chain of light ones."""

_FLOAT, _INT32 = 1, 6  # TensorProto.DataType
_TYPES: dict[np.dtype[np.generic], int] = {
    np.dtype(np.float32): _FLOAT,
    np.dtype(np.uint8): 2,
    np.dtype(np.float16): 10,
}
_SEED = 0
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LEAST, _MOST = 64 << 20, 512 << 20  # bytes of a weight that no cache holds
_TELLING = (Weight(8, 64, 4, 32, 4), Weight(8, 64, 8, 32, 4))
_MOST_PRODUCTS = 512  # in one graph
_BEYOND = 4  # times the largest cache: what is left of it in there saves a quarter of the reads at most


class Alone:
    """Kernels of one sort in a graph of their own, open; what goes in and comes out keeps its place from call to call.

    ``amount`` is what a call with a number of rows works through: bytes, operations, nodes or numbers.
    """

    def __init__(self, model: bytes, threads: int | None, values: "Values", amount: Callable[[int], float]) -> None:
        self._session = open_on_cpu(model, session_options(threads))
        self._values, self.amount = values, amount

    def seconds(self, rows: int, repeats: int) -> list[float]:
        """Time ``repeats`` calls with so many rows, after one that is not kept."""
        binding, found = self._session.io_binding(), []
        inputs, outputs = self._values(rows)
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for _ in range(repeats + 1):
            start = perf_counter()
            self._session.run_with_iobinding(binding)
            found.append(perf_counter() - start)
        return found[1:]


Values = Callable[[int], "tuple[Arrays, Arrays]"]
"""Arrays that go in and come out with a number of rows; memory of a state is both."""


def products(scheme: Scheme, sizes: Sequence[tuple[int, int]], threads: int | None) -> "Products":
    """A MatMulNBits for each (depth, columns) of ``sizes``, stored by ``scheme``; those of a depth share x."""
    nodes, constants, stored = [], dict[str, NDArray[np.generic]](), 0
    for number, (depth, columns) in enumerate(sizes):
        weight = Weight(columns, depth, scheme.bits, scheme.block_size, scheme.accuracy_level, scheme.zero_points)
        node, made = _product(weight, f"x{depth}", f"y{number}", f"{number}.", seed=number)
        nodes.append(node)
        constants |= made
        stored += weight.code_bytes + weight.scale_bytes - 4 * columns * weight.blocks
        stored += columns * weight.blocks * scheme.scale_bytes
    inputs = {f"x{depth}": _FLOAT for depth, _ in sizes}
    model = _model(nodes, constants, inputs, {f"y{number}": _FLOAT for number in range(len(sizes))})

    def values(rows: int) -> tuple[Arrays, Arrays]:
        outputs = {f"y{number}": np.zeros((rows, columns), np.float32) for number, (_, columns) in enumerate(sizes)}
        return {f"x{depth}": _normal(rows, depth) for depth, _ in sizes}, dict(outputs)

    weights = sum(depth * columns for depth, columns in sizes)
    return Products(Alone(model, threads, values, lambda rows: 2.0 * rows * weights), stored)


@dataclass(frozen=True)
class Products:
    """Products, and the bytes of their constants as a bundle stores them."""

    alone: Alone
    nbytes: int


def sizes_of(sizes: Sequence[tuple[int, int]], scheme: Scheme, nbytes: int) -> list[tuple[int, int]]:
    """So many of a bundle's products, in their order and again from the first one, that weights take ``nbytes``.

    There are at most :data:`_MOST_PRODUCTS`: small ones have more columns than the bundle's.
    """
    least = min(depth * columns for depth, columns in sizes) * scheme.bits / 8
    wider = max(1, ceil(nbytes / (_MOST_PRODUCTS * least)))
    found, stored = [], 0.0
    for depth, columns in cycle(sizes):
        found.append((depth, columns * wider))
        stored += depth * columns * wider * scheme.bits / 8
        if stored >= nbytes:
            return found
    return found


def attention(shape: Attention, before: int, rows: int, threads: int | None) -> Alone:
    """A bundle's attention after ``before`` tokens, each node with keys and values of its own, written in place."""
    total, half = before + rows, shape.head_size // 2
    key_values = (1, shape.key_value_heads, total, shape.head_size)
    width = shape.heads * shape.head_size
    packed = width + 2 * shape.key_value_heads * shape.head_size
    names = [(f"past.{number}", f"present.{number}", f"y.{number}") for number in range(shape.layers)]
    attributes = {"num_heads": shape.heads, "kv_num_heads": shape.key_value_heads, "do_rotary": 1}
    nodes = [
        _node(
            ["x", "", "", f"{past}.key", f"{past}.value", "seqlens_k", "total", "cos", "sin"],
            [y, f"{present}.key", f"{present}.value"],
            ATTENTION,
            "com.microsoft",
            attributes,
        )
        for past, present, y in names
    ]
    states = [(f"{past}.{what}", f"{present}.{what}") for past, present, _ in names for what in ("key", "value")]
    inputs = {"x": _FLOAT, **{past: _FLOAT for past, _ in states}, "seqlens_k": _INT32, "total": _INT32}
    outputs = {**{y: _FLOAT for _, _, y in names}, **{present: _FLOAT for _, present in states}}
    angles = np.zeros((total, half), np.float32)
    model = _model(nodes, {"cos": angles + 1, "sin": angles}, inputs, outputs)
    memory: Arrays = {past: np.zeros(key_values, np.float32) for past, _ in states}

    def values(rows: int) -> tuple[Arrays, Arrays]:
        at = {"seqlens_k": np.array([total - 1], np.int32), "total": np.array([total], np.int32)}
        made: Arrays = {y: np.zeros((1, rows, width), np.float32) for _, _, y in names}
        made |= {present: memory[past] for past, present in states}
        return {"x": _normal(rows, packed)[None], **memory, **at}, made

    return Alone(
        model, threads, values, lambda rows: 4.0 * shape.layers * width * (rows * before + rows * (rows - 1) / 2)
    )


def light(width: int, threads: int | None, amount: Callable[[int], float]) -> Alone:
    """:data:`LIGHT` norms one after the other, of rows of ``width`` numbers: nodes that are no products."""
    names = ["x", *(f"y{number}" for number in range(LIGHT))]
    nodes = [
        _node([before, "x", "gain"], [after], "SkipSimplifiedLayerNormalization", "com.microsoft", {})
        for before, after in pairwise(names)
    ]
    model = _model(nodes, {"gain": np.ones(width, np.float32)}, {"x": _FLOAT}, {names[-1]: _FLOAT})

    def values(rows: int) -> tuple[Arrays, Arrays]:
        return {"x": _normal(rows, width)[None]}, {names[-1]: np.zeros((1, rows, width), np.float32)}

    return Alone(model, threads, values, amount)


def float32(size: int, threads: int | None) -> Alone:
    """A MatMul of a square float32 weight."""

    def values(rows: int) -> tuple[Arrays, Arrays]:
        return {"x": _normal(rows, size)}, {"y": np.zeros((rows, size), np.float32)}

    return Alone(float32_model(size, size), threads, values, lambda rows: 2.0 * rows * size * size)


def packed_by_onnxruntime(model: bytes) -> int:
    """Bytes that onnxruntime packs a model's constants into on this processor: it is asked, by a session."""
    options = session_options(1)
    with TemporaryDirectory(prefix="edgepress-packed-") as name:
        told = Path(name, "model.onnx")
        tell_packed(options, told, "packed")
        open_on_cpu(model, options)
        return sum(size for _, regions in packed_in(told).values() for _, size in regions)


def packed_there(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Of the processor that this runs on its ``kind``, and what each of ``weights`` takes, as fields of a Weight."""
    asked = [packed_by_onnxruntime(quantized_model(Weight(**fields))) for fields in arguments["weights"]]
    return {"kind": kind_of_kernels(), "packed": asked}, {}


def kind_of_kernels() -> Kind:
    """The kind of this processor, by how onnxruntime packs weights of 4 and of 8 bits; "as stored" where it is none."""
    packed = [packed_by_onnxruntime(quantized_model(weight)) for weight in _TELLING]
    alike = (kind for kind in KINDS if [packed_bytes(weight, kind) for weight in _TELLING] == packed)
    return next(alike, "as stored")


def quantized_model(weight: Weight) -> bytes:
    """The model of one MatMulNBits."""
    kind = _TYPES[np.dtype(np.float16 if weight.half else np.float32)]
    node, constants = _product(weight, "x", "y", "")
    return _model([node], constants, {"x": kind}, {"y": kind})


def _product(
    weight: Weight, x: str, y: str, prefix: str, seed: int = _SEED
) -> tuple[pb.Field, dict[str, NDArray[np.generic]]]:
    """A MatMulNBits and its constants, whose names begin with ``prefix``; by another seed they are others.

    onnxruntime keeps equal packed weights once, and what is read again from a cache is twice as fast.
    """
    rng, row = np.random.default_rng(seed), weight.block * weight.bits // 8
    codes = np.frombuffer(rng.bytes(weight.code_bytes), np.uint8).reshape(weight.rows, weight.blocks, row)
    floats = np.float16 if weight.half else np.float32
    constants: dict[str, NDArray[np.generic]] = {
        f"{prefix}codes": codes,
        f"{prefix}scales": np.full((weight.rows, weight.blocks), 1 / 64, floats),
    }
    if weight.zero_points:
        zero_points = np.full((weight.rows, ceil(weight.blocks * weight.bits / 8)), 8, np.uint8)
        constants[f"{prefix}zero_points"] = zero_points
    attributes = {
        "K": weight.depth,
        "N": weight.rows,
        "bits": weight.bits,
        "block_size": weight.block,
        "accuracy_level": weight.accuracy_level,
    }
    return _node([x, *constants], [y], PRODUCT, "com.microsoft", attributes), constants


def float32_model(depth: int, columns: int) -> bytes:
    """The model of one MatMul of a weight of (depth, columns)."""
    weight = np.random.default_rng(_SEED).standard_normal((depth, columns), dtype=np.float32)
    return _model([_node(["x", "weight"], ["y"], "MatMul", "", {})], {"weight": weight}, {"x": _FLOAT}, {"y": _FLOAT})


def _normal(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(_SEED).standard_normal((rows, columns), dtype=np.float32)


def beyond_caches(folder: Path = _CACHES) -> int:
    """Bytes that are four times the largest cache that the system tells of; 64 to 512 MiB."""
    sizes = [0]
    for path in folder.glob("index*/size"):
        try:
            words = path.read_text(encoding="utf-8").strip()
        except OSError:  # a phone's shell user may not read all of them
            continue
        if words[:-1].isdecimal() and words[-1] in _SUFFIXES:
            sizes.append(int(words[:-1]) * _SUFFIXES[words[-1]])
    return min(max(_BEYOND * max(sizes), _LEAST), _MOST)


def _node(
    inputs: Sequence[str], outputs: Sequence[str], operator: str, domain: str, attributes: dict[str, int]
) -> pb.Field:
    """A node of a graph, with integer attributes."""
    described = [
        *(pb.text(1, name) for name in inputs),
        *(pb.text(2, name) for name in outputs),
        pb.text(4, operator),
        *(
            pb.nested(5, [pb.text(1, name), pb.integer(3, value), pb.integer(20, 2)])
            for name, value in attributes.items()
        ),
        pb.text(7, domain),
    ]
    return pb.nested(1, described)


def _model(
    nodes: Sequence[pb.Field],
    constants: dict[str, NDArray[np.generic]],
    inputs: dict[str, int],
    outputs: dict[str, int],
) -> bytes:
    """An ONNX model; inputs and outputs by their TensorProto.DataType, of any shape."""
    graph = [
        *nodes,
        pb.text(2, "alone"),
        *(_constant(name, array) for name, array in constants.items()),
        *(value_info(11, name, kind) for name, kind in inputs.items()),
        *(value_info(12, name, kind) for name, kind in outputs.items()),
    ]
    domains: Sequence[tuple[str, int]] = (("", _OPSET), ("com.microsoft", 1))
    opsets = [pb.nested(8, [pb.text(1, name), pb.integer(2, version)]) for name, version in domains]
    return pb.serialize([pb.integer(1, _IR_VERSION), *opsets, pb.nested(7, graph)])


def _constant(name: str, array: NDArray[np.generic]) -> pb.Field:
    dims = [pb.integer(1, size) for size in array.shape]
    return pb.nested(
        5, [*dims, pb.integer(2, _TYPES[array.dtype]), pb.text(8, name), pb.Field(9, pb.BYTES, array.tobytes())]
    )
