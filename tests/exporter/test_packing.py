"""Codes in bytes: against their definition, and against onnxruntime's own kernels."""

import numpy as np
import onnx
import onnxruntime as ort
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.compress.packing import dequantize, pack, unpack
from edgepress.exporter.scheme import Scheme

BITS = st.sampled_from([4, 8])


def _packed(rows: int, columns: int, scheme: Scheme, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << scheme.bits, (rows, scheme.blocks(columns), scheme.block_size), dtype=np.uint8)
    scales = random.standard_normal((rows, scheme.blocks(columns))).astype(np.float32)
    return pack(codes, scheme.bits), scales


@given(bits=BITS, half=st.integers(1, 40), rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_unpack_undoes_pack(bits: int, half: int, rows: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, 2, 2 * half), dtype=np.uint8)
    values = pack(codes, bits)
    assert values.dtype == np.uint8
    assert values.shape == (rows, 2, 2 * half * bits // 8)
    np.testing.assert_array_equal(unpack(values, bits), codes)


def test_low_nibble_comes_first() -> None:
    np.testing.assert_array_equal(pack(np.array([[1, 2, 15, 0]], np.uint8), 4), [[0x21, 0x0F]])


@settings(max_examples=40, deadline=None)
@given(bits=BITS, size=st.sampled_from([16, 32, 128]), rows=st.integers(1, 3), columns=st.integers(1, 150))
def test_dequantize_is_its_definition(bits: int, size: int, rows: int, columns: int) -> None:
    scheme = Scheme("rtn", bits, size)
    values, scales = _packed(rows, columns, scheme, columns)
    kept = values.copy()
    found = dequantize(values, scales, scheme, columns)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracles.dequantize(values, scales, bits, size, columns), rtol=1e-6)
    np.testing.assert_array_equal(values, kept)


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
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], feed)[0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(3, 64, 32), (5, 64, 128), (1, 40, 32), (7, 200, 64), (2, 16, 16)]
)
def test_matmulnbits_reads_the_same_weights(bits: int, rows: int, columns: int, size: int) -> None:
    scheme = Scheme("rtn", bits, size)
    values, scales = _packed(rows, columns, scheme, 1)
    node = helper.make_node(
        "MatMulNBits", ["a", "b", "s"], ["y"], domain="com.microsoft",
        K=columns, N=rows, bits=bits, block_size=size, accuracy_level=0,
    )  # fmt: skip
    found = _run(node, {"a": np.eye(columns, dtype=np.float32)}, {"b": values, "s": scales})  # (columns, rows)
    np.testing.assert_allclose(found.T, dequantize(values, scales, scheme, columns), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [16, 32, 128])
def test_gatherblockquantized_reads_the_same_weights(bits: int, size: int) -> None:
    rows, columns = 6, 256
    scheme = Scheme("rtn", bits, size)
    values, scales = _packed(rows, columns, scheme, 2)
    node = helper.make_node(
        "GatherBlockQuantized", ["d", "i", "s"], ["y"], domain="com.microsoft",
        gather_axis=0, quantize_axis=1, block_size=size, bits=bits,
    )  # fmt: skip
    indices = np.array([5, 0, 3], np.int64)
    found = _run(node, {"i": indices}, {"d": values.reshape(rows, -1), "s": scales})
    np.testing.assert_array_equal(found, dequantize(values, scales, scheme, columns)[indices])
