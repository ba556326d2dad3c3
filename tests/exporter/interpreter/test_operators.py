"""Every operator against onnxruntime: the same node, the same numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Network, arrays
from edgepress.exporter.interpreter.operators import operators
from edgepress.sessions import open_on_cpu

Array = NDArray[Any]
MS = "com.microsoft"
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return RANDOM.uniform(0.1, 3, shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


@dataclass
class Case:
    """A node, its inputs in order (None is left out), its attributes; ``fixed`` are the inputs that are constants."""

    op: str
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    version: int = 23
    domain: str = ""
    fixed: Sequence[int] = ()
    skipped: Sequence[int] = ()  # outputs that are left out

    def __str__(self) -> str:
        return f"{self.op}-{self.version}-{'-'.join(map(str, self.attributes.values()))[:40]}"

    def model(self) -> onnx.ModelProto:
        names = ["" if value is None else f"x{index}" for index, value in enumerate(self.inputs)]
        made = ["" if index in self.skipped else f"y{index}" for index in range(self.outputs)]
        node = helper.make_node(self.op, names, made, name="node", domain=self.domain, **self.attributes)
        present = [(index, value) for index, value in enumerate(self.inputs) if value is not None]
        graph = helper.make_graph(
            [node],
            "case",
            [
                helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for i, v in present
                if i not in self.fixed
            ],
            [onnx.ValueInfoProto(name=name) for name in made if name],
            [numpy_helper.from_array(np.asarray(v), f"x{i}") for i, v in present if i in self.fixed],
        )
        opsets = [helper.make_opsetid("", self.version), *([helper.make_opsetid(MS, 1)] if self.domain else [])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def feed(self) -> dict[str, Array]:
        return {f"x{i}": np.asarray(v) for i, v in enumerate(self.inputs) if v is not None and i not in self.fixed}


def same(case: Case, tolerance: float = 2e-5) -> None:
    model, feed = case.model(), case.feed()
    expected = open_on_cpu(model.SerializeToString()).run(None, feed)
    network = Network(model)
    with torch.no_grad():
        found = arrays(network.run(network.tensors(feed)))
    for name, value in zip((o.name for o in model.graph.output), expected, strict=True):
        seen = found[name]
        assert seen.shape == value.shape, (case, seen.shape, value.shape)
        if case.op not in ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"):
            assert seen.dtype == value.dtype, (case, name)
        scale = max(float(np.abs(value[np.isfinite(value)]).max(initial=0)), 1e-3) if value.dtype.kind == "f" else 1
        np.testing.assert_allclose(
            seen.astype(np.float64), value.astype(np.float64), rtol=tolerance, atol=tolerance * scale, err_msg=str(case)
        )


X = normal(2, 3, 4)
BOOLS = RANDOM.integers(0, 2, (3, 4)).astype(bool)
WHOLE = RANDOM.integers(-9, 9, (3, 4))
UNSIGNED = RANDOM.integers(0, 200, (3, 4)).astype(np.uint8)

PLAIN = "Abs Atan Ceil Cos Cosh Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsNaN LeakyRelu Mish Neg Relu Round"
PLAIN += " Selu Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh Asinh Elu Celu ThresholdedRelu Shrink"
ELEMENTWISE = [
    *(Case(op, [X * 2], version=22) for op in PLAIN.split()),
    *(Case(op, [positive(3, 4)]) for op in ("Log", "Reciprocal", "Sqrt")),
    *(Case(op, [np.clip(normal(3, 4), -0.9, 0.9)]) for op in ("Acos", "Asin", "Atanh")),
    Case("Acosh", [1 + positive(5)]),
    *(Case(op, [X, normal(3, 1)]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Greater", "Equal")),
    *(Case(op, [X, normal(3, 1)]) for op in ("LessOrEqual", "GreaterOrEqual", "PRelu", "Mean", "Sum")),
    *(Case(op, [WHOLE, WHOLE.T[:1].reshape(3, 1) * 2 + 1]) for op in ("Div", "Mod", "Add", "Max")),
    Case("Mod", [X, normal(3, 1)], {"fmod": 1}),
    Case("Mod", [WHOLE, np.full_like(WHOLE, -4)], {"fmod": 1}),
    Case("Pow", [positive(3, 4), normal(4)]),
    Case("Pow", [X, ints(2)]),
    *(Case(op, [BOOLS, ~BOOLS[:1]]) for op in ("And", "Or", "Xor")),
    *(Case(op, [UNSIGNED, UNSIGNED[:1]]) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    Case("BitwiseNot", [UNSIGNED]),
    Case("BitShift", [UNSIGNED, np.full_like(UNSIGNED, 2)], {"direction": "RIGHT"}),
    Case("BitShift", [UNSIGNED, np.full_like(UNSIGNED, 1)], {"direction": "LEFT"}),
    Case("Not", [BOOLS]),
    Case("Where", [BOOLS, normal(3, 1), normal(4)]),
    Case("Gelu", [X], {"approximate": "tanh"}),
    Case("Swish", [X], {"alpha": 1.5}, version=24),
    Case("Clip", [X, np.float32(-0.3), None]),
    Case("Clip", [X, None, np.float32(0.4)]),
    Case("Clip", [WHOLE, np.int64(-2), np.int64(3)]),
    Case("Clip", [X], {"min": -0.5, "max": 0.5}, version=10),
    Case("Cast", [X * 9], {"to": TensorProto.INT64}),
    Case("Cast", [WHOLE], {"to": TensorProto.FLOAT}),
    Case("Cast", [WHOLE], {"to": TensorProto.BOOL}),
    Case("CastLike", [WHOLE, X]),
    Case("Dropout", [X, np.float32(0.5), np.array(False)]),
    Case("IsInf", [np.array([1, np.inf, -np.inf], np.float32)], {"detect_negative": 0}),
    Case("BiasGelu", [X, normal(4)], domain=MS),
    Case("FastGelu", [X, normal(4)], domain=MS),
    Case("Gelu", [X], domain=MS),
    Case("QuickGelu", [X], {"alpha": 1.5}, domain=MS),
]
REDUCTIONS = [
    *(
        Case(op, [positive(2, 3, 4), ints(*axes)], {"keepdims": keep})
        for op in (f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod"))
        for axes, keep in (((1,), 0), ((-1, 0), 1))
    ),
    *(Case(op, [positive(2, 3, 4)], {"axes": [1], "keepdims": 0}, version=11) for op in ("ReduceMean", "ReduceSum")),
    Case("ReduceSum", [X]),
    Case("ReduceSum", [X, None], {"noop_with_empty_axes": 1}),
    Case("ReduceSum", [WHOLE, ints(1)]),
    Case("ReduceSumSquare", [X, ints(2)]),
    *(Case(op, [X], {"axis": 1, "keepdims": 0}) for op in ("ArgMax", "ArgMin")),
    Case("ArgMax", [np.round(X)], {"axis": 2, "select_last_index": 1}),
    *(Case(op, [X], {"axis": axis}) for op in ("Softmax", "LogSoftmax", "Hardmax") for axis in (-1, 1)),
    Case("Softmax", [X], {"axis": 1}, version=11),
    Case("CumSum", [X, np.int64(1)], {"exclusive": 1}),
    Case("CumSum", [X, np.int64(-1)], {"reverse": 1}),
    Case("TopK", [X, ints(2)], outputs=2),
    Case("TopK", [X, ints(2)], {"largest": 0, "axis": 1}, outputs=2),
    Case("NonZero", [BOOLS]),
    Case("LpNormalization", [X], {"axis": 1, "p": 1}),
    Case("LpNormalization", [X], {"axis": -1, "p": 2}),
    Case("OneHot", [ints(0, 2, -1, 7), ints(4), normal(2)]),
    Case("OneHot", [ints(0, 2), ints(4), normal(2)], {"axis": 0}),
]
SHAPES = [
    Case("Shape", [X]),
    Case("Shape", [X], {"start": 1, "end": -1}),
    Case("Size", [X]),
    Case("Reshape", [X, ints(0, -1)]),
    Case("Reshape", [normal(0, 3), ints(3, 0)], {"allowzero": 1}),
    Case("Flatten", [X]),
    Case("Flatten", [X], {"axis": 0}),
    Case("Flatten", [X], {"axis": -1}),
    Case("Squeeze", [normal(1, 3, 1)]),
    Case("Squeeze", [normal(1, 3, 1), ints(-1)]),
    Case("Squeeze", [normal(1, 3, 1)], {"axes": [0]}, version=11),
    Case("Unsqueeze", [X, ints(0, -1)]),
    Case("Unsqueeze", [X], {"axes": [0, 2]}, version=11),
    Case("Transpose", [X]),
    Case("Transpose", [X], {"perm": [0, 2, 1]}),
    Case("Concat", [X, normal(2, 1, 4)], {"axis": 1}),
    Case("Split", [X, ints(1, 3)], {"axis": 2}, outputs=2),
    Case("Split", [X], {"axis": 1, "num_outputs": 2}, outputs=2),
    Case("Split", [X], {"axis": 2, "split": [3, 1]}, outputs=2, version=11),
    Case("Expand", [normal(3, 1), ints(2, 1, 4)]),
    Case("Tile", [X, ints(1, 2, 3)]),
    Case("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([7], np.int64))}),
    Case("ConstantOfShape", [ints(2)]),
    Case("Range", [np.int64(3), np.int64(-4), np.int64(-2)]),
    Case("Range", [np.float32(0), np.float32(2), np.float32(0.5)]),
    Case("Slice", [X], {"starts": [0, 1], "ends": [9, -1], "axes": [1, 2]}, version=9),
    Case("DepthToSpace", [normal(2, 8, 2, 3)], {"blocksize": 2}),
    Case("DepthToSpace", [normal(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [normal(2, 3, 4, 6)], {"blocksize": 2}),
    Case("Trilu", [normal(4, 5)], {"upper": 0}),
    Case("Trilu", [normal(2, 4, 5), np.int64(1)]),
    Case("EyeLike", [normal(3, 4)], {"k": 1}),
    Case("ReverseSequence", [normal(4, 3, 2), ints(4, 1, 2)]),
    Case("ReverseSequence", [normal(3, 4), ints(4, 1, 2)], {"batch_axis": 0, "time_axis": 1}),
    Case("Pad", [X], {"pads": [0, 1, 0, 0, 0, 2], "value": 0.5}, version=10),
    Case("Pad", [X, ints(1, 2), np.float32(3), ints(-1)]),
]
PLACES = np.array([[0, 2], [-1, 1]])
INDEXING = [
    Case("Gather", [X, PLACES], {"axis": 1}),
    Case("Gather", [X, np.int64(-1)]),
    Case("Gather", [normal(4), np.int64(2)]),
    Case("GatherElements", [normal(3, 4), RANDOM.integers(-3, 3, (2, 4))]),
    Case("GatherND", [X, np.array([[0, 1], [1, -1]])]),
    Case("GatherND", [X, np.array([[0], [2]])], {"batch_dims": 1}),
    Case("ScatterElements", [normal(3, 4), np.array([[1, 0, 2, -1]]), normal(1, 4)]),
    Case("ScatterElements", [normal(3, 4), np.array([[1, 1], [1, 2]]), normal(2, 2)], {"reduction": "add", "axis": 1}),
    *(
        Case("ScatterND", [normal(4, 3), np.array([[1], [-1]]), normal(2, 3)], {"reduction": r})
        for r in ("none", "add")
    ),
    Case("ScatterND", [normal(4, 3), np.array([[1, 0], [1, 0]]), normal(2)], {"reduction": "max"}),
    Case("Compress", [X, np.array([True, False, True])], {"axis": 1}),
    Case("Compress", [X, np.array([False, True, True])]),
    Case(
        "EmbedLayerNormalization",
        [
            RANDOM.integers(0, 9, (2, 5)).astype(np.int32),
            RANDOM.integers(0, 2, (2, 5)).astype(np.int32),
            normal(9, 8),
            normal(6, 8),
            normal(2, 8),
            normal(8),
            normal(8),
            np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32),
        ],
        outputs=2,
        domain=MS,
    ),
]
PRODUCTS = [
    Case("MatMul", [X, normal(4, 5)]),
    Case("MatMul", [normal(4), normal(2, 4, 3)]),
    Case("Gemm", [normal(3, 4), normal(4, 5), normal(5)]),
    Case("Gemm", [normal(4, 3), normal(5, 4), normal(3, 1)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Einsum", [X, normal(2, 5, 4)], {"equation": "bij,bkj->bik"}),
    Case("FusedMatMul", [X, normal(5, 4)], {"transB": 1, "alpha": 0.25}, domain=MS),
    Case("FusedGemm", [normal(3, 4), normal(4, 5), normal(5)], {"activation": "Relu"}, domain=MS),
]
NORMS = [
    Case("BatchNormalization", [normal(2, 3, 5), *(positive(3) for _ in range(4))], {"epsilon": 1e-3}),
    Case("LayerNormalization", [X, normal(4), normal(4)]),
    Case("LayerNormalization", [X, normal(3, 4)], {"axis": 1}, outputs=3),
    Case("RMSNormalization", [X, normal(4)]),
    Case("SimplifiedLayerNormalization", [X, normal(4)], {"axis": -1}, version=17),
    Case("InstanceNormalization", [normal(2, 3, 4, 5), normal(3), normal(3)]),
    Case("GroupNormalization", [normal(2, 6, 5), normal(6), normal(6)], {"num_groups": 3}, version=21),
    Case("MeanVarianceNormalization", [normal(2, 3, 4, 5)]),
    Case("LRN", [normal(2, 6, 4, 5)], {"size": 3}),
    Case("LRN", [normal(2, 6, 4, 5)], {"size": 5, "alpha": 0.3, "beta": 0.5, "bias": 2.0}),
    Case("SkipLayerNormalization", [X, X[::-1].copy(), normal(4), normal(4), normal(4)], domain=MS),
    Case("SkipLayerNormalization", [X, X[::-1].copy(), normal(4), normal(4)], outputs=4, skipped=(1, 2), domain=MS),
    Case("SkipSimplifiedLayerNormalization", [X, X[::-1].copy(), normal(4)], domain=MS),
]
SPACE = [
    Case("ConvTranspose", [normal(1, 4, 5), normal(4, 2, 3), normal(4)], {"group": 2, "strides": [2]}),
    Case(
        "ConvTranspose",
        [normal(1, 2, 4, 5), normal(2, 3, 3, 3)],
        {"strides": [2, 2], "pads": [1, 0, 1, 2], "output_padding": [1, 1]},
    ),
    Case("ConvTranspose", [normal(1, 2, 4), normal(2, 3, 3)], {"strides": [2], "output_shape": [8]}),
    Case("ConvTranspose", [normal(1, 2, 4), normal(2, 3, 3)], {"strides": [2], "auto_pad": "SAME_UPPER"}),
    Case("GlobalAveragePool", [normal(2, 3, 4, 5)]),
    Case("GlobalMaxPool", [normal(2, 3, 5)]),
    Case("LpPool", [normal(1, 2, 6)], {"kernel_shape": [3], "strides": [2], "pads": [1, 0], "p": 2}),
    Case("Col2Im", [normal(1, 8, 9), ints(4, 4), ints(2, 2)]),
    Case("FusedConv", [normal(1, 2, 5, 5), normal(3, 2, 3, 3), normal(3)], {"activation": "Relu"}, domain=MS),
    Case("GridSample", [normal(1, 2, 4, 5), RANDOM.uniform(-1.1, 1.1, (1, 3, 3, 2)).astype(np.float32)]),
    Case(
        "Upsample", [normal(1, 2, 3, 3), np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, version=9, fixed=(1,)
    ),
    Case(
        "Resize", [normal(1, 2, 3, 3), np.array([1, 1, 2, 1.5], np.float32)], {"mode": "linear"}, version=10, fixed=(1,)
    ),
]
LENGTHS = np.array([4, 2, 3], np.int32)


def recurrent(op: str, gates: int, states: int, *, bidirectional: bool, **attributes: Any) -> Case:
    """Sequences of several lengths, with all inputs."""
    directions, hidden, width, batch = (2 if bidirectional else 1), 5, 3, 3
    inputs: list[Array | None] = [
        normal(4, batch, width),
        normal(directions, gates * hidden, width),
        normal(directions, gates * hidden, hidden),
        normal(directions, 2 * gates * hidden),
        LENGTHS,
        *(normal(directions, batch, hidden) for _ in range(states)),
    ]
    how = {"direction": "bidirectional"} if bidirectional else {}
    return Case(op, inputs, {"hidden_size": hidden, **how, **attributes}, outputs=states + 1, version=14)


RECURRENT = [
    *(recurrent("LSTM", 4, 2, bidirectional=both) for both in (False, True)),
    *(recurrent("GRU", 3, 1, bidirectional=True, linear_before_reset=before) for before in (0, 1)),
    recurrent("RNN", 1, 1, bidirectional=False, direction="reverse"),
    Case("LSTM", [normal(4, 2, 3), normal(1, 8, 3), normal(1, 8, 2)], {"hidden_size": 2}, outputs=3, version=14),
    Case(
        "LSTM",
        [normal(4, 2, 3), normal(1, 8, 3), normal(1, 8, 2), None, None, None, None, normal(1, 6)],
        {"hidden_size": 2},
        version=14,
    ),
]
OPEN = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
LAST, SEVEN = np.array([6], np.int32), np.int32(7)
ATTENTION = [
    Case("Attention", [normal(2, 4, 3, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 8)]),
    Case("Attention", [normal(2, 4, 5, 8), normal(2, 4, 5, 8), normal(2, 4, 5, 8)], {"is_causal": 1, "scale": 0.2}),
    Case(
        "Attention",
        [normal(2, 5, 16), normal(2, 5, 16), normal(2, 5, 16), OPEN.astype(bool)[:, None, None].repeat(5, 2)],
        {"q_num_heads": 2, "kv_num_heads": 2},
    ),
    Case(
        "MultiHeadAttention",
        [normal(2, 5, 16), normal(2, 5, 16), normal(2, 5, 16), normal(48), OPEN],
        {"num_heads": 2},
        domain=MS,
    ),
    Case(
        "MultiHeadAttention",
        [normal(2, 3, 16), normal(2, 2, 5, 8), normal(2, 2, 5, 8), None, None, normal(1, 2, 3, 5)],
        {"num_heads": 2, "scale": 0.3},
        domain=MS,
    ),
    Case(
        "GroupQueryAttention",
        [normal(1, 3, 32), None, None, normal(1, 1, 4, 8), normal(1, 1, 4, 8), LAST, SEVEN],
        {"num_heads": 2, "kv_num_heads": 1},
        domain=MS,
        outputs=3,
    ),
    Case(
        "GroupQueryAttention",
        [
            *(normal(1, 7, 16), normal(1, 7, 16), normal(1, 7, 16), normal(1, 2, 0, 8), normal(1, 2, 0, 8)),
            *(LAST, SEVEN, None, None, None, normal(1, 2, 7, 7)),
        ],
        {"num_heads": 2, "kv_num_heads": 2, "scale": 0.3},
        domain=MS,
        outputs=3,
    ),
    Case("Attention", [normal(2, 5, 12), normal(12, 48), normal(48), OPEN], {"num_heads": 2}, domain=MS),
    Case("Attention", [normal(2, 5, 12), normal(12, 48), normal(48)], {"num_heads": 4, "unidirectional": 1}, domain=MS),
    *(
        Case(
            "RotaryEmbedding",
            [normal(2, 3, 5, 8), RANDOM.integers(0, 9, (2, 5)), normal(9, 4), normal(9, 4)],
            {"interleaved": interleaved},
            domain=MS,
        )
        for interleaved in (0, 1)
    ),
    Case("RotaryEmbedding", [normal(2, 5, 24), normal(2, 5, 4), normal(2, 5, 4)], {"num_heads": 3}),
]
CODES = RANDOM.integers(0, 256, (6, 3, 8)).astype(np.uint8)
QUANTIZED = [
    Case("QuantizeLinear", [X, np.float32(0.05), np.uint8(120)], fixed=(1, 2)),
    Case("QuantizeLinear", [X, positive(3), np.zeros(3, np.int8)], {"axis": 1}, fixed=(1, 2)),
    Case("QuantizeLinear", [X, np.float32(0.0005), np.uint16(20000)], fixed=(1, 2)),
    Case("DequantizeLinear", [UNSIGNED, np.float32(0.05), np.uint8(120)], fixed=(1, 2)),
    Case("DequantizeLinear", [UNSIGNED.view(np.int8), positive(4)], {"axis": 1}),
    Case("DequantizeLinear", [UNSIGNED.view(np.int8), positive(3, 2)], {"axis": 1, "block_size": 2}),
    Case("DynamicQuantizeLinear", [X], outputs=3),
    Case("MatMulInteger", [UNSIGNED, UNSIGNED.T.copy(), np.uint8(9), np.uint8(100)]),
    *(
        Case(
            "MatMulNBits",
            [normal(2, 43), codes, positive(6, 3), zeros],
            {"K": 43, "N": 6, "bits": bits, "block_size": 16, "accuracy_level": 1},
            domain=MS,
            fixed=(1, 2, 3),
        )
        for bits, codes in ((4, CODES), (8, CODES.repeat(2, 2)))
        for zeros in (None, RANDOM.integers(0, 256, (6, 2 if bits == 4 else 3)).astype(np.uint8))
    ),
]
SOUND = normal(1, 64, 1)
SIGNALS = [
    *(
        Case(op, [np.int64(10)], {"periodic": p})
        for op in ("HannWindow", "HammingWindow", "BlackmanWindow")
        for p in (0, 1)
    ),
    Case("DFT", [SOUND, None, np.int64(1)], {"onesided": 1}),
    Case("DFT", [normal(2, 8, 2)], {"axis": 1, "inverse": 1}, version=17),
    Case("STFT", [SOUND, np.int64(8), np.hanning(16).astype(np.float32)]),
    Case("STFT", [SOUND, np.int64(8), None, np.int64(16)], {"onesided": 0}),
]
CASES = [
    *(*ELEMENTWISE, *REDUCTIONS, *SHAPES, *INDEXING, *PRODUCTS, *NORMS, *SPACE),
    *(*RECURRENT, *ATTENTION, *QUANTIZED, *SIGNALS),
]


@pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
def test_operator_gives_what_onnxruntime_gives(case: Case) -> None:
    same(case)


def test_every_operator_is_compared() -> None:
    elsewhere = {"Conv", "AveragePool", "MaxPool", "If", "Loop"}  # below, and in test_network.py
    elsewhere |= {"com.microsoft:QuantizeLinear", "com.microsoft:DequantizeLinear"}  # the functions of ONNX's own
    compared = {f"{case.domain}:{case.op}" if case.domain else case.op for case in CASES}
    assert set(operators()) - compared == elsewhere


@settings(max_examples=40)
@given(st.data())
def test_windows_over_space(data: st.DataObject) -> None:
    """Conv, AveragePool and MaxPool of any kernel, stride, dilation, padding, group and rank."""
    rank = data.draw(st.integers(1, 3))
    op = data.draw(st.sampled_from(("Conv", "AveragePool", "MaxPool")))
    each = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides = data.draw(each), data.draw(each)
    dilations = data.draw(each) if op != "AveragePool" else [1] * rank
    size = [data.draw(st.integers((k - 1) * d + 1, 8)) for k, d in zip(kernel, dilations, strict=True)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    how = data.draw(st.sampled_from(("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")))
    if how == "NOTSET":  # a pooling window holds something that is there
        attributes["pads"] = [data.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    elif max(dilations) > 1 and how != "VALID":
        return  # which onnxruntime refuses
    elif op != "Conv" and how != "VALID" and any(s > k for s, k in zip(strides, kernel, strict=True)):
        return  # which onnxruntime pads by less than nothing
    else:
        attributes["auto_pad"] = how
    if op == "Conv":
        group = data.draw(st.sampled_from((1, 2)))
        same(Case(op, [normal(2, 4, *size), normal(6, 4 // group, *kernel), normal(6)], attributes | {"group": group}))
        return
    if how == "NOTSET":
        attributes["ceil_mode"] = data.draw(st.sampled_from((0, 1)))
    if op == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.sampled_from((0, 1)))
    same(Case(op, [normal(2, 3, *size)], attributes))


@settings(max_examples=30)
@given(st.data())
def test_slice(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    x = normal(*(data.draw(st.integers(1, 5)) for _ in range(rank)))
    axes = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    place = st.integers(-7, 7) | st.sampled_from((-(2**63), 2**63 - 1))
    draw = [ints(*(data.draw(kind) for _ in axes)) for kind in (place, place, st.sampled_from((1, 2, -1, -2)))]
    same(Case("Slice", [x, draw[0], draw[1], ints(*(a - rank if a % 2 else a for a in axes)), draw[2]]))


@settings(max_examples=30)
@given(st.data())
def test_pad(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(("constant", "edge", "reflect", "wrap")))
    size = [data.draw(st.integers(3, 5)) for _ in range(data.draw(st.integers(1, 3)))]
    pads = [data.draw(st.integers(-1 if mode == "constant" else 0, 2)) for _ in (*size, *size)]
    same(Case("Pad", [normal(*size), ints(*pads), np.float32(0.5) if mode == "constant" else None], {"mode": mode}))


@settings(max_examples=30)
@given(st.data())
def test_resize(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(("nearest", "linear", "cubic")))
    size = [data.draw(st.integers(2, 6)) for _ in range(2)]
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": data.draw(
            st.sampled_from(("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"))
        ),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = data.draw(
            st.sampled_from(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))
        )
    wanted = [data.draw(st.integers(1, 9)) for _ in range(2)]
    x = normal(1, 2, *size)
    if data.draw(st.booleans()):
        same(Case("Resize", [x, None, None, ints(1, 2, *wanted)], attributes, fixed=(3,)), 1e-4)
    else:  # by powers of two, whose products no machine rounds
        scales = np.array(
            [1, 1, *data.draw(st.lists(st.sampled_from((0.5, 2, 4)), min_size=2, max_size=2))], np.float32
        )
        same(Case("Resize", [x, None, scales], attributes, fixed=(2,)), 1e-4)


@settings(max_examples=25)
@given(st.data())
def test_elementwise_shapes_broadcast(data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, 3))
    shape = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    other = [size if data.draw(st.booleans()) else 1 for size in shape][data.draw(st.integers(0, rank)) :]
    op = data.draw(st.sampled_from(("Add", "Mul", "Max", "Less")))
    same(Case(op, [normal(*shape), normal(*other)]))


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(InputError, match=r"node node is StringSplit, which cannot be computed in torch"):
        Network(Case("StringSplit", [np.array(["a"], object)], outputs=2).model())


def test_what_an_operator_cannot_do_is_said() -> None:
    case = Case("MaxPool", [normal(1, 1, 4)], {"kernel_shape": [2]}, outputs=2)
    network = Network(case.model())
    with pytest.raises(InputError, match=r"node node \(MaxPool\) cannot be computed in torch: its indices are asked"):
        network.run(network.tensors(case.feed()))


def test_rounding_passes_gradients_as_learned_step_sizes_want() -> None:
    """Esser et al. 2020, equations 2 and 3, for unsigned codes with a zero point, by hand."""
    x = torch.tensor([-9.0, -0.3, 0.26, 0.9, 9.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    codes = Case("QuantizeLinear", [normal(5), np.float32(0.5), np.uint8(8)], fixed=(2,))
    network = Network(codes.model())
    given = {"x0": x, "x1": scale}
    y = (network.run(given)["y0"].clamp(0, 15) - 8) * scale
    y.sum().backward()  # type: ignore[no-untyped-call]
    inside = torch.tensor([-0.3, 0.26, 0.9]) / 0.5
    assert x.grad is not None
    assert scale.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    expected = float((inside.round() - inside).sum()) - 8 + 7
    assert float(scale.grad) == pytest.approx(expected, abs=1e-6)
