"""The kernel registry's word, held against sessions that onnxruntime really makes."""

import warnings
from functools import cache

import legality_models as models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.loader import load_model_tests

from edgepress.onnx_graph.headers import refused_header
from edgepress.onnx_graph.view import Node, view
from edgepress.onnx_graph.walk import opsets_of
from edgepress.targets.legality.registry import needs_casts, place
from edgepress.targets.legality.report import Placement

EVERY = 4  # of ONNX's own node tests, some 1,900

# Kernels that are registered and refuse a value of an attribute when they are made: no registry says so.
REFUSED_VALUES = {
    "test_gru_batchwise",
    "test_lstm_batchwise",
    "test_simple_rnn_batchwise",
    "test_strnormalizer_export_monday_casesensintive_lower",
    "test_strnormalizer_export_monday_casesensintive_nochangecase",
    "test_strnormalizer_export_monday_casesensintive_upper",
    "test_strnormalizer_export_monday_empty_output",
    "test_strnormalizer_export_monday_insensintive_upper_twodim",
    "test_strnormalizer_nostopwords_nochangecase",
}


@cache
def node_tests() -> dict[str, onnx.ModelProto]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow on purpose
        cases = [case for case in load_model_tests(kind="node") if case.model is not None]
    return {case.name: case.model for case in cases[::EVERY]}


def makes_a_session(model: onnx.ModelProto) -> bool:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def placements(model: onnx.ModelProto) -> list[Placement]:
    return [place(node) for graph in view(model) for node in graph.nodes]


def only(model: onnx.ModelProto) -> Node:
    return view(model)[0].nodes[0]


def test_the_registry_agrees_with_the_sessions_of_onnxs_own_node_tests() -> None:
    wrong = []
    for name, model in node_tests().items():
        opsets = tuple(opsets_of(model).items())
        ours = not refused_header(model.ir_version, opsets) and all(found.runs_on for found in placements(model))
        if ours != makes_a_session(model):
            wrong.append(name)
    assert len(node_tests()) > 400
    assert set(wrong) <= REFUSED_VALUES


def unary(op: str, kind: int, opset: int = 17, domain: str = "", **attributes: object) -> onnx.ModelProto:
    node = models.node(op, ["x"], ["y"], domain, **attributes)
    return models.model([node], [models.value("x", (2,), kind)], [models.value("y", (2,), kind)], opset=opset)


def test_a_type_without_kernel_names_the_types_that_have_one() -> None:
    model = unary("Gelu", TensorProto.DOUBLE, 20)
    found = place(only(unary("Relu", TensorProto.BFLOAT16)))
    assert (found.runs_on, found.cause) == ("", "dtype")
    assert "T = bfloat16; it has double, float" in found.reason
    assert found.change == "cast to float before it"
    assert place(only(model)).runs_on == ("CPUExecutionProvider" if makes_a_session(model) else "")


def test_a_version_without_kernel_says_which_have_one() -> None:
    model = unary("Relu", TensorProto.FLOAT, opset=5)
    found = place(only(model))
    assert not makes_a_session(model)
    assert (found.runs_on, found.cause) == ("", "version")
    assert found.reason.endswith("is of opset 1; CPUExecutionProvider has kernels for 6–12, 13, 14")


def test_an_attribute_that_the_schema_does_not_have_is_named() -> None:
    model = unary("Relu", TensorProto.FLOAT, slope=0.5)
    found = place(only(model))
    assert not makes_a_session(model)
    assert (found.runs_on, found.cause) == ("", "attribute")
    assert "'slope'" in found.reason


def test_types_follow_onnxruntimes_own_operators() -> None:
    """onnx infers nothing through com.microsoft operators; what comes after is typed by the schemas."""
    nodes = [
        models.node("QuickGelu", ["x"], ["a"], "com.microsoft"),
        models.node("Relu", ["a"], ["b"]),
        models.node("Cast", ["b"], ["c"], to=TensorProto.INT64),
        models.node("Add", ["c", "c"], ["y"]),
    ]
    model = models.model(nodes, [models.value("x", (2,), TensorProto.FLOAT16)], [models.value("y", None, 7)])
    del model.graph.output[0]
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    outputs = [node.outputs[0] for node in view(model)[0].nodes]
    assert [value.type for value in outputs if value] == [
        "tensor(float16)",
        "tensor(float16)",
        "tensor(int64)",
        "tensor(int64)",
    ]


@pytest.mark.parametrize("op", ["Tanh", "Relu"])
def test_float16_without_a_kernel_runs_between_casts(op: str) -> None:
    model = unary(op, TensorProto.FLOAT16)
    assert makes_a_session(model)
    assert place(only(model)).runs_on == "CPUExecutionProvider"
    assert needs_casts(only(model)) == (op not in kernels_of_half())


def kernels_of_half() -> set[str]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return {
        kernel.op_name
        for kernel in state.get_all_opkernel_def()
        if any("tensor(float16)" in types for types in kernel.type_constraints.values())
    }


def test_the_header_is_asked() -> None:
    assert refused_header(9, (("", 17),)) == ""
    assert "opset 9999" in refused_header(9, (("", 9999),))
    assert "IR version" in refused_header(10_000, (("", 17),))


def test_what_follows_from_constants_alone_is_folded() -> None:
    nodes = [
        models.node("Shape", ["x"], ["s"]),
        models.node("Gather", ["s", "first"], ["n"]),
        models.node("Relu", ["x"], ["y"]),
    ]
    constants = {"first": np.array([0])}
    for shape, folded in (((2, 3), [True, True, False]), (("n", 3), [False, False, False])):
        outputs = [models.value("y", None), models.value("n", None, TensorProto.INT64)]
        model = models.model(nodes, [models.value("x", shape)], outputs, constants)
        assert [node.folded for node in view(model)[0].nodes] == folded


def test_a_constant_node_is_an_initializer() -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    nodes = [models.node("Constant", [], ["c"], value=tensor), models.node("Add", ["x", "c"], ["y"])]
    found = placements(models.model(nodes, [models.value("x", (2,))], [models.value("y", (2,))]))
    assert [placement.runs_on for placement in found] == ["CPUExecutionProvider"] * 2
