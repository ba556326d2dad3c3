"""Products alone, as onnxruntime runs them in a bundle: one row for memory, a block of rows for arithmetic.

A graph of one node each, made here without the onnx package. Its weights are random: speed does not depend on them.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.calls import Answer, Arrays
from edgepress.runtime import protobuf as pb
from edgepress.runtime.products import value_info
from edgepress.runtime.profile.roofline.work import PRODUCT, Scheme
from edgepress.runtime.repack import packed_in, tell_packed
from edgepress.sessions import open_on_cpu, session_options
from edgepress.targets.devices.packing import KINDS, Kind, Weight, packed_bytes

_IR_VERSION, _OPSET = 10, 21
_FLOAT = 1  # TensorProto.DataType
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
_BEYOND = 4  # times the largest cache: what is left of it in there saves a quarter of the reads at most


class Alone:
    """One product, open: ``nbytes`` are those of its constants as a bundle stores them, (depth, columns) its size."""

    def __init__(self, model: bytes, threads: int | None, nbytes: int, size: tuple[int, int]) -> None:
        self._session = open_on_cpu(model, session_options(threads))
        self.nbytes, (self.depth, self.columns) = nbytes, size

    def operations(self, rows: int) -> int:
        """Multiplications and additions of so many rows."""
        return 2 * rows * self.depth * self.columns

    def seconds(self, rows: int, repeats: int) -> list[float]:
        """Time ``repeats`` calls with so many rows, after one that is not kept."""
        x = np.random.default_rng(_SEED).standard_normal((rows, self.depth), dtype=np.float32)
        found = []
        for _ in range(repeats + 1):
            start = perf_counter()
            self._session.run(None, {"x": x})
            found.append(perf_counter() - start)
        return found[1:]


def quantized(scheme: Scheme, depth: int, columns: int, threads: int | None) -> Alone:
    """A MatMulNBits of ``columns`` rows of ``depth`` weights, stored by ``scheme``."""
    weight = Weight(columns, depth, scheme.bits, scheme.block_size, scheme.accuracy_level, scheme.zero_points)
    model, constants = quantized_model(weight)
    stored = sum(array.nbytes for name, array in constants.items() if name != "scales")
    return Alone(model, threads, stored + columns * weight.blocks * scheme.scale_bytes, (depth, columns))


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
    asked = [packed_by_onnxruntime(quantized_model(Weight(**fields))[0]) for fields in arguments["weights"]]
    return {"kind": kind_of_kernels(), "packed": asked}, {}


def kind_of_kernels() -> Kind:
    """The kind of this processor, by how onnxruntime packs weights of 4 and of 8 bits; "as stored" where it is none."""
    packed = [packed_by_onnxruntime(quantized_model(weight)[0]) for weight in _TELLING]
    alike = (kind for kind in KINDS if [packed_bytes(weight, kind) for weight in _TELLING] == packed)
    return next(alike, "as stored")


def quantized_model(weight: Weight) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
    """The model of one MatMulNBits, and its constants."""
    rng, row = np.random.default_rng(_SEED), weight.block * weight.bits // 8
    codes = np.frombuffer(rng.bytes(weight.code_bytes), np.uint8).reshape(weight.rows, weight.blocks, row)
    floats = np.float16 if weight.half else np.float32
    constants: dict[str, NDArray[np.generic]] = {
        "codes": codes,
        "scales": np.full((weight.rows, weight.blocks), 1 / 64, floats),
    }
    if weight.zero_points:
        constants["zero_points"] = np.full((weight.rows, ceil(weight.blocks * weight.bits / 8)), 8, np.uint8)
    attributes = {
        "K": weight.depth,
        "N": weight.rows,
        "bits": weight.bits,
        "block_size": weight.block,
        "accuracy_level": weight.accuracy_level,
    }
    return _model(PRODUCT, "com.microsoft", constants, attributes, _TYPES[np.dtype(floats)]), constants


def float32(size: int, threads: int | None) -> Alone:
    """A MatMul of a square float32 weight."""
    return Alone(float32_model(size, size), threads, 4 * size * size, (size, size))


def float32_model(depth: int, columns: int) -> bytes:
    """The model of one MatMul of a weight of (depth, columns)."""
    weight = np.random.default_rng(_SEED).standard_normal((depth, columns), dtype=np.float32)
    return _model("MatMul", "", {"weight": weight}, {})


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


def _model(
    operator: str,
    domain: str,
    constants: dict[str, NDArray[np.generic]],
    attributes: dict[str, int],
    data_type: int = _FLOAT,
) -> bytes:
    """An ONNX model of one node whose first input is ``x``, of (rows, depth) numbers."""
    node = [
        *(pb.text(1, name) for name in ("x", *constants)),
        pb.text(2, "y"),
        pb.text(4, operator),
        *(
            pb.nested(5, [pb.text(1, name), pb.integer(3, value), pb.integer(20, 2)])
            for name, value in attributes.items()
        ),
        pb.text(7, domain),
    ]
    graph = [
        pb.nested(1, node),
        pb.text(2, operator),
        *(_constant(name, array) for name, array in constants.items()),
        value_info(11, "x", data_type, ("rows", "depth")),
        value_info(12, "y", data_type, ("rows", "columns")),
    ]
    domains: Sequence[tuple[str, int]] = (("", _OPSET), ("com.microsoft", 1))
    opsets = [pb.nested(8, [pb.text(1, name), pb.integer(2, version)]) for name, version in domains]
    return pb.serialize([pb.integer(1, _IR_VERSION), *opsets, pb.nested(7, graph)])


def _constant(name: str, array: NDArray[np.generic]) -> pb.Field:
    dims = [pb.integer(1, size) for size in array.shape]
    return pb.nested(
        5, [*dims, pb.integer(2, _TYPES[array.dtype]), pb.text(8, name), pb.Field(9, pb.BYTES, array.tobytes())]
    )
