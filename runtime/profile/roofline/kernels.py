"""Products alone, as onnxruntime runs them in a bundle: one row for memory, a block of rows for arithmetic.

A graph of one node each, made here without the onnx package. Its weights are random: speed does not depend on them.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime import protobuf as pb
from edgepress.runtime.products import value_info
from edgepress.runtime.profile.roofline.work import PRODUCT, Scheme
from edgepress.sessions import open_on_cpu, session_options

_IR_VERSION, _OPSET = 10, 21
_FLOAT, _UINT8 = 1, 2  # TensorProto.DataType
_SEED = 0
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LEAST, _MOST = 64 << 20, 512 << 20  # bytes of a weight that no cache holds
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
    rng, blocks = np.random.default_rng(_SEED), ceil(depth / scheme.block_size)
    row = scheme.block_size * scheme.bits // 8
    codes = np.frombuffer(rng.bytes(columns * blocks * row), np.uint8).reshape(columns, blocks, row)
    constants: dict[str, NDArray[np.generic]] = {
        "codes": codes,
        "scales": np.full((columns, blocks), 1 / 64, np.float32),
    }
    if scheme.zero_points:
        constants["zero_points"] = np.full((columns, ceil(blocks * scheme.bits / 8)), 8, np.uint8)
    attributes = {
        "K": depth,
        "N": columns,
        "bits": scheme.bits,
        "block_size": scheme.block_size,
        "accuracy_level": scheme.accuracy_level,
    }
    stored = sum(array.nbytes for name, array in constants.items() if name != "scales")
    model = _model(PRODUCT, "com.microsoft", constants, attributes)
    return Alone(model, threads, stored + columns * blocks * scheme.scale_bytes, (depth, columns))


def float32(size: int, threads: int | None) -> Alone:
    """A MatMul of a square float32 weight."""
    weight = np.random.default_rng(_SEED).standard_normal((size, size), dtype=np.float32)
    return Alone(_model("MatMul", "", {"weight": weight}, {}), threads, weight.nbytes, (size, size))


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


def _model(operator: str, domain: str, constants: dict[str, NDArray[np.generic]], attributes: dict[str, int]) -> bytes:
    """An ONNX model of one node whose first input is ``x``, float32 of (rows, depth)."""
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
        value_info(11, "x", _FLOAT, ("rows", "depth")),
        value_info(12, "y", _FLOAT, ("rows", "columns")),
    ]
    domains: Sequence[tuple[str, int]] = (("", _OPSET), ("com.microsoft", 1))
    opsets = [pb.nested(8, [pb.text(1, name), pb.integer(2, version)]) for name, version in domains]
    return pb.serialize([pb.integer(1, _IR_VERSION), *opsets, pb.nested(7, graph)])


def _constant(name: str, array: NDArray[np.generic]) -> pb.Field:
    kind = _UINT8 if array.dtype == np.uint8 else _FLOAT
    dims = [pb.integer(1, size) for size in array.shape]
    return pb.nested(5, [*dims, pb.integer(2, kind), pb.text(8, name), pb.Field(9, pb.BYTES, array.tobytes())])
