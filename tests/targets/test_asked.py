"""What Qualcomm's compiler says of nodes, and the smallest change that makes it take one."""

from collections.abc import Sequence
from pathlib import Path

import npu_models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgepress.errors import InputError
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.view import view
from edgepress.targets import find_soc, find_target
from edgepress.targets.legality import probes
from edgepress.targets.legality.asked import place_all
from edgepress.targets.legality.report import Placement
from edgepress.targets.providers import qnn

pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")

TARGET = find_target("qnn-htp")


def placed(model: onnx.ModelProto, folder: Path, soc: str = "sm8650") -> list[Placement]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return place_all(path, TARGET, find_soc(TARGET, soc))


def one_node(
    op: str,
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: dict[str, np.ndarray] | None = None,
    **attributes: object,
) -> onnx.ModelProto:
    """A model of one node called ``node``; constants come after the inputs."""
    graph = npu_models.Graph()
    names = [name for name, _, _ in inputs] + [graph.constant(name, array) for name, array in (constants or {}).items()]
    node = helper.make_node(op, names, ["y"], name="node", **attributes)
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    output = onnx.ValueInfoProto(name="y")
    body = helper.make_graph([node], "one", infos, [output], graph.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


F, D, I64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
W = np.random.default_rng(0).standard_normal((1, 32, 8)).astype(np.float32)
ASKED = {
    "operator": (one_node("Det", [("x", F, [4, 3, 3])]), "op", "not supported by QNN EP", ""),
    "shape": (one_node("Relu", [("x", F, ["n", 16])]), "dynamic shape", "shape", "fix its shapes"),
    "attribute": (
        one_node("LSTM", [("x", F, [4, 1, 8])], {"w": W, "r": W}, hidden_size=8, clip=1.0),
        "attribute",
        "clip",
        "leave out the attribute 'clip'",
    ),
    "type": (one_node("Relu", [("x", D, [1, 16])]), "dtype", "", "compute in float32"),
    "integers": (
        one_node("Neg", [("x", I64, [1, 16])]),
        "dtype",
        "Unsupported input/output datatypes",
        "use float32 instead of int64",
    ),
    "all constant": (
        one_node("Range", [("a", I64, []), ("b", I64, []), ("c", I64, [])]),
        "constant",
        "must be constant initializers",
        "",
    ),
    "constant": (
        one_node("Pad", [("x", F, [1, 16]), ("pads", I64, [4])]),
        "constant",
        "",
        "make its input 1 a constant",
    ),
    "rank": (
        one_node("Add", [("x", F, [2, 1, 2, 2, 4, 4]), ("z", F, [2, 1, 2, 2, 4, 4])]),
        "rank",
        "incorrect Rank 6",
        "merge leading dimensions, to rank 4",
    ),
    "shape as a value": (
        one_node("Reshape", [("x", F, [1, 16]), ("shape", I64, [2])]),
        "constant",
        "shape",
        "make its input 1 a constant",
    ),
    "zero point": (
        npu_models.projection("uint16", "int8", 5, layout="channel"),
        "quantization",
        "incorrect Value -5, expected equal to 0",
        "store its weights with zero point 0",
    ),
    "gain": (npu_models.norm("RMSNormalization", "uint16", "int8"), "quantization", "", "store its weights in uint8"),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_smallest_change_is_found(name: str, tmp_path: Path) -> None:
    model, cause, words, change = ASKED[name]
    (placement,) = [
        p for p in placed(model, tmp_path) if p.op not in {"QuantizeLinear", "DequantizeLinear", "Identity"}
    ]
    assert placement.runs_on == "CPUExecutionProvider"
    assert placement.cause == cause
    assert words in placement.reason
    assert placement.change == change


def test_quantizers_of_a_node_that_does_not_land_follow_it(tmp_path: Path) -> None:
    placements = placed(npu_models.norm("RMSNormalization", "uint16", "int8"), tmp_path)
    assert {p.cause for p in placements if p.op.endswith("Linear")} == {"neighbour"}


def test_floats_on_a_chip_that_computes_none_are_to_be_quantized(tmp_path: Path) -> None:
    placements = placed(npu_models.float_layer(), tmp_path, "qcs6490")
    product = next(p for p in placements if p.op == "MatMul")
    assert "doesn't support FP16" in product.reason
    assert product.change.startswith("quantize it")


def test_a_model_that_lands_whole_is_asked_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = []
    ask = qnn.ask
    monkeypatch.setattr(qnn, "ask", lambda *args, **options: questions.append(args) or ask(*args, **options))
    placements = placed(npu_models.float_layer(), tmp_path)
    assert {(p.runs_on, p.cause, p.reason) for p in placements} == {(qnn.PROVIDER, "", "")}
    assert [p.op for p in placements] == ["RMSNormalization", "MatMul", "Softmax", "Add"]
    assert len(questions) == 1


def test_nodes_of_one_kind_are_asked_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = []
    ask = qnn.ask
    monkeypatch.setattr(qnn, "ask", lambda *args, **options: questions.append(args) or ask(*args, **options))
    counts = []
    for times in (1, 3):
        graph = npu_models.Graph()
        last = "x"
        for index in range(times):
            last = graph.node("Relu", [last], f"y{index}")
        questions.clear()
        placements = placed(graph.model({"x": ("n", 16)}, {last: ("n", 16)}), tmp_path)
        assert [p.change for p in placements] == ["fix its shapes"] * times
        counts.append(len(questions))
    assert counts[0] == counts[1]


def test_a_weight_that_would_be_computed_wrongly_lands_nowhere(tmp_path: Path) -> None:
    placements = placed(npu_models.projection("uint16", "int4", 3, layout="block"), tmp_path)
    (product,) = [p for p in placements if p.op == "MatMul"]
    assert (product.runs_on, product.cause) == ("", "quantization")
    assert "computes wrong results" in product.reason
    assert product.change == "store int4 with zero point 0"


def test_a_model_that_does_not_compile_says_which_node_is_to_blame(tmp_path: Path) -> None:
    placements = placed(npu_models.float_layer(), tmp_path, "sm8350")
    assert {p.runs_on for p in placements} == {""}
    norm = next(p for p in placements if p.op == "RMSNormalization")
    assert "Failed to finalize" in norm.reason
    assert norm.change.startswith("quantize it")


def test_nodes_without_names_and_in_subgraphs_are_placed(tmp_path: Path) -> None:
    branches = []
    for op, output in (("Relu", "a"), ("Tanh", "b")):
        info = helper.make_tensor_value_info(output, F, [1, 16])
        branches.append(helper.make_graph([helper.make_node(op, ["x"], [output])], op, [], [info]))
    choice = helper.make_node("If", ["c"], ["z"], then_branch=branches[0], else_branch=branches[1])
    nodes = [
        choice,
        helper.make_node("Det", ["m"], ["d"], name="same"),
        helper.make_node("Exp", ["z"], ["y"], name="same"),
    ]
    inputs = [("c", TensorProto.BOOL, []), ("x", F, [1, 16]), ("m", F, [2, 3, 3])]
    outputs = [("y", F, [1, 16]), ("d", F, [2])]
    infos = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = {(p.node, p.op): p.runs_on for p in placed(model, tmp_path)}
    assert found == {
        ("z", "If"): qnn.PROVIDER,
        ("z/then_branch/a", "Relu"): qnn.PROVIDER,
        ("z/else_branch/b", "Tanh"): qnn.PROVIDER,
        ("same", "Det"): "CPUExecutionProvider",
        ("same#2", "Exp"): qnn.PROVIDER,
    }


def test_the_chip_must_be_named(tmp_path: Path) -> None:
    onnx.save(npu_models.float_layer(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="--soc"):
        place_all(tmp_path / "m.onnx", TARGET)


CUTS = {
    "float": (npu_models.float_layer(), "Softmax", "scores", "spread"),
    "projection": (npu_models.projection("uint8", "int8", layout="channel"), "MatMul", "x", "product.values"),
    "norm": (npu_models.norm("LayerNormalization", "uint8", "uint8"), "LayerNormalization", "x", "normed.values"),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_node_alone_computes_what_it_does_in_its_model(name: str) -> None:
    model, op, before, after = CUTS[name]
    (graph,) = view(model)
    (node,) = [node for node in graph.nodes if node.op == op]
    alone = probes.alone(node, probes.Around(model, TensorReader()))
    assert alone is not None
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in {before, after} - {"x", "y"})
    plain = onnxruntime.SessionOptions()
    plain.intra_op_num_threads = 1
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = np.random.default_rng(3).standard_normal((1, 16, 64)).astype(np.float32)
    whole = onnxruntime.InferenceSession(model.SerializeToString(), plain)
    values = dict(zip([info.name for info in whole.get_outputs()], whole.run(None, {"x": x}), strict=True)) | {"x": x}
    session = onnxruntime.InferenceSession(alone.SerializeToString(), plain)
    (given,) = session.get_inputs()
    np.testing.assert_array_equal(session.run(None, {given.name: values[before]})[0], values[after])
