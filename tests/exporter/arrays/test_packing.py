"""Codes in bytes: against their definition, and against onnxruntime's own kernels."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.arrays.packing import dequantize, pack, pack_zero_points, unpack, unpack_zero_points
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES, Scheme

bits_drawn = st.sampled_from(BITS)


@dataclass(frozen=True)
class Stored:
    """A random quantized tensor, and what the kernels are given for it."""

    values: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    meant: np.ndarray  # the weights in float64, from codes that were never packed

    @classmethod
    def draw(cls, rows: int, columns: int, scheme: Scheme, seed: int = 0) -> "Stored":
        random = np.random.default_rng(seed)
        blocks = scheme.blocks(columns)
        codes = random.integers(0, 1 << scheme.bits, (rows, blocks, scheme.block_size), dtype=np.uint8)
        scales = random.standard_normal((rows, blocks)).astype(np.float32)
        zero_points = np.full((rows, blocks), 1 << scheme.bits - 1, np.uint8)
        if not scheme.symmetric:
            zero_points = random.integers(0, 1 << scheme.bits, (rows, blocks), dtype=np.uint8)
        steps = codes.astype(np.float64) - zero_points[:, :, None]
        meant = (steps * scales[:, :, None].astype(np.float64)).reshape(rows, -1)[:, :columns]
        packed = None if scheme.symmetric else pack_zero_points(zero_points, scheme.bits)
        return cls(pack(codes, scheme.bits), scales, packed, meant)


@given(bits=bits_drawn, quarter=st.integers(1, 20), rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_unpack_undoes_pack(bits: int, quarter: int, rows: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, 2, 4 * quarter), dtype=np.uint8)
    values = pack(codes, bits)
    assert values.dtype == np.uint8
    assert values.shape == (rows, 2, 4 * quarter * bits // 8)
    np.testing.assert_array_equal(unpack(values, bits), codes)


@given(bits=bits_drawn, blocks=st.integers(1, 21), rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_zero_points_come_back_from_a_row_of_any_length(bits: int, blocks: int, rows: int, seed: int) -> None:
    zero_points = np.random.default_rng(seed).integers(0, 1 << bits, (rows, blocks), dtype=np.uint8)
    packed = pack_zero_points(zero_points, bits)
    assert packed.shape == (rows, (blocks * bits + 7) // 8)
    np.testing.assert_array_equal(unpack_zero_points(packed, bits, blocks), zero_points)


def test_the_lowest_bits_come_first() -> None:
    np.testing.assert_array_equal(pack(np.array([[1, 2, 15, 0]], np.uint8), 4), [[0x21, 0x0F]])
    np.testing.assert_array_equal(pack(np.array([[1, 2, 3, 0]], np.uint8), 2), [[0b00_11_10_01]])
    np.testing.assert_array_equal(pack_zero_points(np.array([[1, 2, 15]], np.uint8), 4), [[0x21, 0x0F]])
    np.testing.assert_array_equal(pack_zero_points(np.array([[1, 2, 3, 0, 2]], np.uint8), 2), [[0b00_11_10_01, 2]])


@settings(max_examples=40, deadline=None)
@given(
    bits=bits_drawn,
    size=st.sampled_from(BLOCK_SIZES),
    symmetric=st.booleans(),
    rows=st.integers(1, 3),
    columns=st.integers(1, 300),
)
def test_dequantize_is_its_definition(bits: int, size: int, symmetric: bool, rows: int, columns: int) -> None:
    scheme = Scheme("rtn", bits, size, symmetric)
    stored = Stored.draw(rows, columns, scheme, columns)
    kept = stored.values.copy()
    found = dequantize(stored.values, stored.scales, scheme, columns, stored.zero_points)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stored.meant, rtol=1e-6)
    np.testing.assert_array_equal(stored.values, kept)


def _run(node: onnx.NodeProto, feed: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> np.ndarray:
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, types[array.dtype], array.shape) for name, array in feed.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], feed)[0]


every_scheme = pytest.mark.parametrize(
    "scheme",
    [Scheme("rtn", bits, size, symmetric) for bits in BITS for size in BLOCK_SIZES for symmetric in (True, False)],
    ids=str,
)


def _constants(stored: Stored, values: np.ndarray) -> dict[str, np.ndarray]:
    named = {"values": values, "scales": stored.scales}
    return named if stored.zero_points is None else named | {"zero_points": stored.zero_points}


@every_scheme
@pytest.mark.parametrize(("rows", "columns"), [(5, 512), (7, 200), (1, 40)])
def test_matmulnbits_reads_the_same_weights(scheme: Scheme, rows: int, columns: int) -> None:
    """At accuracy level 1 in float32; at 4 x is rounded to int8. Errors are counted against Σ |x| |w|."""
    stored = Stored.draw(rows, columns, scheme)
    constants = _constants(stored, stored.values)
    x = np.concatenate([np.eye(columns), np.random.default_rng(1).standard_normal((9, columns))]).astype(np.float32)
    expected, size = x.astype(np.float64) @ stored.meant.T, np.abs(x) @ np.abs(stored.meant.T)
    for level, tolerance in ((1, 1e-6), (4, 0.005)):
        node = helper.make_node(
            "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft",
            K=columns, N=rows, bits=scheme.bits, block_size=scheme.block_size, accuracy_level=level,
        )  # fmt: skip
        for picked in (slice(None), slice(-1, None)):  # one row has a kernel of its own
            found = _run(node, {"x": x[picked]}, constants)
            assert np.linalg.norm(found - expected[picked]) <= tolerance * np.linalg.norm(size[picked])


@every_scheme
def test_gatherblockquantized_reads_the_same_weights(scheme: Scheme) -> None:
    rows, columns = 6, 512
    stored = Stored.draw(rows, columns, scheme, 2)
    constants = _constants(stored, stored.values.reshape(rows, -1))
    indices = np.array([5, 0, 3], np.int64)
    node = helper.make_node(
        "GatherBlockQuantized", ["values", "indices", *list(constants)[1:]], ["y"], domain="com.microsoft",
        gather_axis=0, quantize_axis=1, block_size=scheme.block_size, bits=scheme.bits,
    )  # fmt: skip
    found = _run(node, {"indices": indices}, constants)
    np.testing.assert_allclose(found, stored.meant[indices], rtol=1e-6)
