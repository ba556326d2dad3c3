"""The wire format against the onnx package's own reading and writing of it."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepress.runtime.graph_file import protobuf as pb

_NUMBERS = st.integers(1, 2**29 - 1)
_FIELDS = st.one_of(
    st.builds(pb.Field, _NUMBERS, st.just(pb.VARINT), st.integers(0, 2**64 - 1)),
    st.builds(pb.Field, _NUMBERS, st.just(pb.FIXED64), st.binary(min_size=8, max_size=8)),
    st.builds(pb.Field, _NUMBERS, st.just(pb.BYTES), st.binary(max_size=300)),
    st.builds(pb.Field, _NUMBERS, st.just(pb.FIXED32), st.binary(min_size=4, max_size=4)),
)


@given(st.lists(_FIELDS, max_size=8))
def test_what_is_serialized_parses_to_the_same_fields(message: pb.Message) -> None:
    assert pb.parse(pb.serialize(message)) == message


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        message = pb.parse(data)
    except ValueError:
        return
    assert pb.parse(pb.serialize(message)) == message


def _model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "w")
    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transB=1, alpha=-0.5)
    concat = helper.make_node("Concat", ["y"], ["z"], axis=-1)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in ("x", "z")]
    graph = helper.make_graph([node, concat], "graph", values[:1], values[1:], [weight], doc_string="Ω")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def test_a_models_bytes_survive() -> None:
    data = _model().SerializeToString()
    message = pb.parse(data)
    (graph,) = pb.all_bytes(message, 7)
    assert pb.serialize(pb.parse(graph)) == graph
    assert pb.serialize(message) == data


def test_fields_read_as_onnx_reads_them() -> None:
    model = _model()
    (graph,) = pb.all_bytes(pb.parse(model.SerializeToString()), 7)
    nodes = [pb.parse(value) for value in pb.all_bytes(pb.parse(graph), 1)]
    assert [pb.one_text(node, 4) for node in nodes] == [node.op_type for node in model.graph.node]
    axis = pb.parse(next(pb.all_bytes(nodes[1], 5)))
    assert pb.integers(axis, 3) == [-1]
    tensor = pb.parse(next(pb.all_bytes(pb.parse(graph), 5)))
    assert pb.integers(tensor, 1) == [3, 4]
    assert pb.integers([pb.Field(1, pb.BYTES, b"\x03\x96\x01")], 1) == [3, 150]  # packed


def test_fields_written_are_read_by_onnx() -> None:
    entry = [pb.text(1, "offset"), pb.text(2, "4096")]
    data = pb.serialize([pb.integer(1, 7), pb.integer(2, 2), pb.text(8, "größe"), pb.nested(13, entry)])
    tensor = onnx.TensorProto.FromString(data)
    assert (list(tensor.dims), tensor.data_type, tensor.name) == ([7], TensorProto.UINT8, "größe")
    assert (tensor.external_data[0].key, tensor.external_data[0].value) == ("offset", "4096")
    attribute = onnx.AttributeProto.FromString(pb.serialize([pb.integer(3, -1)]))
    assert attribute.i == -1


_ENDLESS = b"\x08" + b"\xff" * 10 + b"\x01"


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x08", _ENDLESS, b"\x0b", b"\x02\x01", b"\x0d\x01"])
def test_a_cut_or_senseless_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"ends at|no end|wire type|number 0"):
        pb.parse(data)


def test_without_leaves_the_rest_in_order() -> None:
    message = [pb.integer(1, 1), pb.integer(2, 2), pb.integer(1, 3), pb.integer(3, 4)]
    assert pb.without(message, 1, 3) == [pb.integer(2, 2)]
