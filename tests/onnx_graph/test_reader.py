"""The reader of ONNX models: scopes through subgraphs, constants of every kind, tensors where they lie, shapes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_models import CASES

from edgepress.errors import InputError
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.values import Scope, inferred, known_shapes
from edgepress.onnx_graph.walk import all_nodes, attribute, attributes_of, graphs, read_inside, scopes, tensors


def branch(name: str, *reads: str) -> onnx.GraphProto:
    """A branch that adds what it reads from outside to a constant of its own."""
    constant = numpy_helper.from_array(np.float32(1), "own")
    nodes = [helper.make_node("Sum", [*reads, "own"], [f"{name}.out"], name=f"{name}.sum")]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}.out", 1, [2])], [constant])


def nested() -> onnx.ModelProto:
    """If, in whose first branch another If reads values of the main graph."""
    inner = helper.make_node(
        "If", ["flag"], ["inner.y"], name="inner", then_branch=branch("a", "x", "w"), else_branch=branch("b", "x")
    )
    then = helper.make_graph([inner], "then", [], [helper.make_tensor_value_info("inner.y", 1, [2])])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("If", ["flag"], ["y"], name="outer", then_branch=then, else_branch=branch("c", "r")),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    graph = helper.make_graph(nodes, "main", inputs, [helper.make_tensor_value_info("y", 1, [2])], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def test_a_node_reads_what_its_subgraphs_take_from_outside() -> None:
    model = nested()
    scope = Scope(model)
    assert set(read_inside(model.graph.node[1])) == {"flag", "x", "w", "r"}
    assert [node.name for node in scope.readers["x"]] == ["relu", "outer"]
    assert [node.name for node in scope.readers["w"]] == ["outer"]
    assert "own" not in scope.readers
    assert scope.makers["r"].name == "relu"
    assert [node.name for node in all_nodes(model.graph.node)] == ["relu", "outer", "c.sum", "inner", "b.sum", "a.sum"]
    assert [graph.name for graph in graphs(model.graph)] == ["main", "c", "then", "b", "a"]
    paths = {path: (graph.name, "w" in outer) for path, graph, outer in scopes(model.graph)}
    assert paths["outer/then_branch/inner/else_branch/"] == ("b", True)
    assert sorted(tensor.name for tensor in tensors(model)) == ["own", "own", "own", "w"]


def test_an_inner_graph_sees_constants_of_the_main_one() -> None:
    model = nested()
    inner = next(graph for graph in graphs(model.graph) if graph.name == "a")
    assert set(Scope(model, inner).constants) == {"w", "own"}
    assert set(Scope(model).constants) == {"w"}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(np.arange(6).reshape(2, 3), "other name")}, np.arange(6).reshape(2, 3)),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [7, -1]}, np.array([7, -1])),
        ({"value_string": "text"}, None),
    ],
)
def test_what_constant_nodes_give(attributes: dict[str, object], expected: np.ndarray | None) -> None:
    node = helper.make_node("Constant", [], ["c"], **attributes)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    constants = Scope(model).constants
    if expected is None:
        assert not constants
        return
    found = TensorReader().array(constants["c"])
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    assert constants["c"].name == "c"


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "BFLOAT16", "INT8", "UINT4", "INT4"])
@pytest.mark.parametrize("shape", [(3, 5), (4,), ()])
def test_a_tensor_is_the_same_wherever_it_lies(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    number = TensorProto.DataType.Value(kind)
    values = np.random.default_rng(3).integers(0, 7, shape).astype(helper.tensor_dtype_to_np_dtype(number))
    inline = numpy_helper.from_array(values, "w")
    (tmp_path / "data").write_bytes(b"before" + inline.raw_data + b"after")
    stored = TensorProto(name="w", data_type=number, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "data", "offset": "6", "length": str(len(inline.raw_data))}.items():
        stored.external_data.add(key=key, value=value)
    reader = TensorReader(tmp_path)
    np.testing.assert_array_equal(reader.array(stored), values)
    np.testing.assert_array_equal(reader.array(inline), values)
    assert reader.inline(stored) == inline
    stored.dims.extend([5])
    with pytest.raises(InputError, match=r"its shape .* says .*; the file is broken"):
        reader.inline(stored)


@pytest.mark.parametrize("case", CASES)
def test_shapes_without_weights_are_those_that_onnx_infers_with_them(case: str) -> None:
    model = CASES[case].model
    whole, light = onnx.shape_inference.infer_shapes(model, data_prop=True), inferred(model)
    assert list(light.graph.value_info) == list(whole.graph.value_info)
    assert list(light.graph.output) == list(whole.graph.output)
    assert [node.op_type for node in light.graph.node] == [node.op_type for node in model.graph.node]
    known = {value.name for value in whole.graph.value_info if value.type.tensor_type.HasField("shape")}
    assert known <= known_shapes(model).keys()


def test_weights_are_left_out_of_inference() -> None:
    large = numpy_helper.from_array(np.zeros((100, 100), np.float32), "w")
    value = helper.make_tensor_value_info
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", 1, [2, 100])], [value("y", 1, None)], [large])
    model = helper.make_model(graph)
    found = inferred(model)
    assert found.ByteSize() < 1000
    assert [dim.dim_value for dim in found.graph.output[0].type.tensor_type.shape.dim] == [2, 100]
    assert model.graph.initializer[0] == large


def test_attributes_that_hold_nothing_are_left_out() -> None:
    node = helper.make_node("Op", [], ["y"], mode="linear", count=3, scales=[1.0, 2.0])
    node.attribute.append(onnx.AttributeProto(name="empty"))
    assert attributes_of(node) == {"mode": "linear", "count": 3, "scales": [1.0, 2.0]}
    assert attribute(node, "mode") == "linear"
    assert attribute(node, "empty", 5) == attribute(node, "absent", 5) == 5
