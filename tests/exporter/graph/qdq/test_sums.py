"""Sums of 8-bit codes, by the two ways in which onnxruntime's kernels compute them: equal for every pair of codes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.graph.qdq import WIDTHS, quantize
from edgepress.exporter.graph.qdq.sums import GRID, has_ties

CODES = np.arange(256)


def x86(scales: list[np.float32], zeros: list[int]) -> np.ndarray:
    """c[a, b] as the SSE kernel does: float32 products and sums, ties to even."""
    ratios = [scale / scales[2] for scale in scales[:2]]
    fixed = np.float32(zeros[2]) - (ratios[0] * np.float32(zeros[0]) + ratios[1] * np.float32(zeros[1]))
    a, b = CODES.astype(np.float32)[:, None], CODES.astype(np.float32)[None, :]
    return np.clip(np.rint((fixed + a * ratios[0]) + b * ratios[1]), 0, 255)


def arm(scales: list[np.float32], zeros: list[int]) -> np.ndarray:
    """c[a, b] as the NEON kernel does: multipliers of 22 bits, a shift that rounds ties away from zero."""
    ratios = [float(scale / scales[2]) for scale in scales[:2]]
    shift = 21 - int(np.floor(np.log2(max(ratios))))
    first, second = (int(np.rint(ratio * 2**shift)) for ratio in ratios)
    sums = (CODES[:, None] - zeros[0]) * first + (CODES[None, :] - zeros[1]) * second
    rounded = np.sign(sums) * ((np.abs(sums) + (1 << (shift - 1))) >> shift)
    return np.clip(rounded + zeros[2], 0, 255)


def two_sums() -> onnx.ModelProto:
    """y = Relu(x + a) + b: a chain, whose first sum is an input of the second."""
    nodes = [
        helper.make_node("Add", ["x", "a"], ["s"], "s"),
        helper.make_node("Relu", ["s"], ["r"], "r"),
        helper.make_node("Add", ["b", "r"], ["y"], "y"),
    ]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xaby"}
    graph = helper.make_graph(nodes, "g", [values[name] for name in "xab"], [values["y"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def stored(model: onnx.ModelProto, name: str) -> tuple[np.float32, int]:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return np.float32(tensors[f"{name}.scale"]), int(tensors[f"{name}.zero_point"])


limits = st.tuples(st.floats(-20, 0), st.floats(0.25, 20))


@settings(max_examples=40, deadline=None)
@given(ranges=st.fixed_dictionaries(dict.fromkeys("xab", limits)), shares=st.tuples(*[st.floats(0.6, 1.0)] * 2))
def test_both_kernels_give_the_same_for_all_pairs_of_codes(
    tmp_path_factory, ranges: dict[str, tuple[float, float]], shares: tuple[float, float]
) -> None:
    path = tmp_path_factory.getbasetemp() / "sums.onnx"
    onnx.save(two_sums(), path)
    first = shares[0] * (ranges["x"][1] + ranges["a"][1])
    ranges["s"], ranges["r"] = (ranges["x"][0] + ranges["a"][0], first), (0.0, first)
    ranges["y"] = (ranges["b"][0] * shares[1], shares[1] * (first + ranges["b"][1]))
    model = quantize(path, ranges, WIDTHS["a8w8"])
    for inputs, total in ((("x", "a"), "r"), (("b", "r"), "y")):
        scales, zeros = zip(*(stored(model, name) for name in (*inputs, total)), strict=True)
        exact = all((ratio := scale / scales[2] * GRID) == int(ratio) < 2 * GRID for scale in scales[:2])
        wide = max(scale / scales[2] for scale in scales[:2]) >= 2  # an input that reaches twice as far as the sum
        assert exact or wide
        if exact:
            assert (x86(list(scales), list(zeros)) == arm(list(scales), list(zeros))).all()
    for name, (low, high) in ranges.items():
        if name != "s":
            scale, zero = stored(model, name)
            assert scale * (255 - zero) >= high - scale
            assert -scale * zero <= low + scale
            assert scale <= 1.02 * (high - low) / 255 + max(stored(model, total)[0] for total in "ry") / 60


def test_onnxruntime_computes_what_the_oracle_of_its_kernel_says(tmp_path: Path) -> None:
    path = tmp_path / "sums.onnx"
    onnx.save(two_sums(), path)
    ranges = {"x": (-1.0, 3.0), "a": (-2.0, 2.0), "s": (-3.0, 4.0), "r": (0.0, 4.0), "b": (-1.0, 1.0), "y": (-1.0, 4.5)}
    model = quantize(path, ranges, WIDTHS["a8w8"])
    scales, zeros = zip(*(stored(model, name) for name in ("x", "a", "r")), strict=True)
    model.graph.output.append(helper.make_tensor_value_info("r.back", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    codes = np.random.default_rng(1).integers(0, 256, (2, 64))
    feeds = {name: ((codes[i] - zeros[i]) * scales[i]).astype(np.float32)[None] for i, name in enumerate("xa")}
    found = session.run(["r.back"], feeds | {"b": np.zeros((1, 64), np.float32)})[0][0]
    expected = x86(list(scales), list(zeros))[codes[0], codes[1]]
    np.testing.assert_array_equal(np.rint(found / scales[2] + zeros[2]), expected)


def test_ties_are_found() -> None:
    assert has_ties(GRID, GRID // 2, 0, 0, 0)  # a + b / 2
    assert not has_ties(GRID, GRID, 7, 130, 0)
    assert not has_ties(GRID, GRID // 2, 255, 255, 0)  # a tie only where the sum is clipped to 0
