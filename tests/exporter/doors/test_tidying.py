"""What is done to graphs as the exporter writes them, so that onnxruntime runs them."""

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgepress.exporter.doors.tidying import cut_by_slices, spread_masks
from edgepress.sessions import open_on_cpu


def attending(mask: list[int | str]) -> onnx.ModelProto:
    """Two Attention nodes with one mask, (1, 2, queries, 4) → the same."""
    shape = [1, 2, "length", 4]
    nodes = [
        helper.make_node("Attention", ["q", "q", "q", "mask"], ["a"], "first"),
        helper.make_node("Attention", ["a", "q", "q", "mask"], ["y"], "second"),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, one) for name, one in (("q", shape), ("mask", mask))
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    values = [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "attending", inputs, outputs, value_info=values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_a_mask_for_all_queries_gets_a_row_for_each() -> None:
    """By the operator's reference, which broadcasts it; onnxruntime does not."""
    model = attending([1, 1, 1, "length"])
    tidied = onnx_ir.serde.deserialize_model(model)
    assert spread_masks(tidied) == 2
    made = onnx_ir.serde.serialize_model(tidied)
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node] == ["Shape", "Concat", "Expand", "Attention", "Attention"]
    for length in (1, 5):
        random = np.random.default_rng(length)
        mask = np.where(np.arange(length) < max(1, length - 2), 0, -1e9).astype(np.float32).reshape(1, 1, 1, length)
        feed = {"q": random.standard_normal((1, 2, length, 4), np.float32), "mask": mask}
        (expected,) = ReferenceEvaluator(model).run(None, feed)
        (found,) = open_on_cpu(made.SerializeToString()).run(None, feed)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_other_masks_stay() -> None:
    for mask in (["length", "length"], [1, 1, "length", "length"]):
        model = onnx_ir.serde.deserialize_model(attending(mask))
        assert spread_masks(model) == 0


def in_pieces(size: str) -> onnx.ModelProto:
    """Pieces 2 and 0 along the last axis of x (3, columns), each ``size`` wide; ``size`` is computed or a constant."""
    nodes = [
        helper.make_node("ReduceMax", ["width"], ["computed"], keepdims=0),
        helper.make_node("SplitToSequence", ["x", size], ["pieces"], axis=-1),
        helper.make_node("SequenceAt", ["pieces", "two"], ["third"]),
        helper.make_node("SequenceAt", ["pieces", "zero"], ["first"]),
        helper.make_node("Concat", ["third", "first"], ["y"], axis=-1),
    ]
    numbers = [helper.make_tensor(*one, [], [value]) for one, value in ((("two", 7), 2), (("zero", 7), 0))]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, "columns"]),
        helper.make_tensor_value_info("width", TensorProto.INT64, [1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, "both"])]
    values = [helper.make_tensor_value_info("computed", TensorProto.INT64, [])]
    known = [*numbers, helper.make_tensor("known", TensorProto.INT64, [], [2])]
    graph = helper.make_graph(nodes, "pieces", inputs, outputs, known, value_info=values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_pieces_of_a_computed_size_are_slices() -> None:
    """Of ZoeDepth, which takes a batch apart by its size; the last piece is narrower where sizes do not divide."""
    model = in_pieces("computed")
    tidied = onnx_ir.serde.deserialize_model(model)
    assert cut_by_slices(tidied) == 1
    made = onnx_ir.serde.serialize_model(tidied)
    onnx.checker.check_model(made, full_check=True)
    assert not any("Sequence" in node.op_type for node in made.graph.node)
    for columns, width in ((6, 2), (9, 3), (8, 3)):
        x = np.random.default_rng(columns).standard_normal((3, columns), np.float32)
        (found,) = open_on_cpu(made.SerializeToString()).run(None, {"x": x, "width": np.array([width])})
        np.testing.assert_array_equal(found, np.concatenate([x[:, 2 * width : 3 * width], x[:, :width]], -1))


def test_pieces_of_a_known_size_stay() -> None:
    assert cut_by_slices(onnx_ir.serde.deserialize_model(in_pieces("known"))) == 0
