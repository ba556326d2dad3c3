"""Operator tables: every sentence is understood, and each condition is tried on a model that breaks it."""

import re
from pathlib import Path

import legality_models as models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.tools.mobile_helpers import usability_checker

from edgepress.onnx_graph.view import view
from edgepress.targets import Table, Target, find_target, target_names
from edgepress.targets.legality.conditions import check_sentence
from edgepress.targets.legality.partitions import partitions
from edgepress.targets.legality.report import Placement
from edgepress.targets.legality.tables import operators, place_all

HELPERS = Path(onnxruntime.__file__).parent / "tools" / "mobile_helpers"
TABLE_TARGETS = [find_target(name) for name in target_names() if find_target(name).table]
NNAPI, COREML, XNNPACK = (find_target(name) for name in ("android-nnapi", "ios-coreml", "android-xnnpack"))
OPENVINO, VITIS = find_target("openvino-npu"), find_target("vitisai-npu")

# What no check covers: it is passed on to the reader.
NOT_CHECKED = (
    "See [resize_op_builder.cc]",
    "'mode' of 'linear' or 'zeros'",
    "(mode==linear && padding_mode==reflection",
)


def places(target: Target, model: onnx.ModelProto) -> dict[str, Placement]:
    return {placement.op: placement for placement in place_all(target, view(model))[0]}


def sentences() -> list[tuple[str, str]]:
    tables = [target.table for target in TABLE_TARGETS if target.table]
    tables += [Table(file=table.other) for table in tables if table.other]
    return [
        (key, sentence.strip())
        for table in tables
        for key, note in operators(table).items()
        for sentence in filter(None, note.split("<br/>"))
    ]


def test_every_sentence_of_every_table_has_a_check_or_is_known_to_have_none() -> None:
    node = view(models.chain("Relu"))[0].nodes[0]
    unknown = []
    for key, sentence in sentences():
        try:
            check_sentence(node, sentence)
        except LookupError:
            unknown.append((key, sentence))
    assert len(sentences()) > 80
    assert [sentence for _, sentence in unknown if not sentence.startswith(NOT_CHECKED)] == []


def test_what_is_not_checked_is_passed_on() -> None:
    node = models.node("Resize", ["x", "", "s"], ["y"], mode="nearest")
    constants = {"s": np.array([1, 1, 2, 2], np.float32)}
    model = models.model([node], [models.value("x", (1, 3, 8, 8))], [models.value("y", None)], constants)
    placements, caveats = place_all(COREML, view(model))
    assert placements[0].runs_on == COREML.provider
    assert len(caveats) == 1
    assert caveats[0].startswith("ai.onnx:Resize: See [resize_op_builder.cc]")


@pytest.mark.parametrize("name", ["nnapi_supported_ops.md", "coreml_supported_mlprogram_ops.md"])
def test_a_table_of_the_wheel_is_read_whole(name: str) -> None:
    lines = [line for line in (HELPERS / name).read_text().splitlines() if re.match(r"\|(ai\.onnx|com\.)", line)]
    assert len(operators(Table(file=name))) == len(lines) > 40


def test_operators_that_the_files_spell_wrongly_are_read_as_onnx_has_them() -> None:
    assert "ai.onnx:ArgMax" in operators(Table(file="coreml_supported_mlprogram_ops.md"))
    assert "ai.onnx:ReduceSum" in operators(Table(file="coreml_supported_neuralnetwork_ops.md"))


@pytest.mark.parametrize("target", TABLE_TARGETS, ids=lambda target: target.name)
def test_tables_name_operators_that_exist(target: Target) -> None:
    from edgepress.onnx_graph.headers import known_operators

    known = {f"{domain or 'ai.onnx'}:{op}" for domain, op in known_operators()}
    assert target.table
    missing = {key for key in operators(target.table) if key not in known}
    assert missing <= {"com.microsoft:QLinearConvTranspose", "com.microsoft:GroupNormalization"}


# uint16 QDQ ------------------------------------------------------------------------------------------------


def test_nnapi_takes_eight_bit_qdq() -> None:
    assert {place.runs_on for place in places(NNAPI, models.quantized_convolution(np.uint8)).values()} == {
        NNAPI.provider
    }


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_nnapi_does_not_take_sixteen_bit_qdq_which_onnxruntimes_own_checker_passes(
    kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    model = models.quantized_convolution(kind)
    theirs = usability_checker._SupportedOpsChecker(str(HELPERS / "nnapi_supported_ops.md"))
    assert all(theirs.is_op_supported(node) for node in model.graph.node)
    ours = places(NNAPI, model)
    for op in ("QuantizeLinear", "DequantizeLinear", "Conv"):
        assert (ours[op].runs_on, ours[op].cause) == ("CPUExecutionProvider", "quantization")
        assert f"{np.dtype(kind).name}; the provider takes int8, uint8" in ours[op].reason
    assert not caplog.records


@pytest.mark.parametrize(("target", "kinds"), [(OPENVINO, {np.uint8, np.uint16}), (VITIS, {np.uint8, np.uint16})])
def test_npus_take_what_their_lists_say(target: Target, kinds: set[type]) -> None:
    for kind in kinds:
        found = places(target, models.quantized_convolution(kind))
        assert {placement.runs_on for placement in found.values()} == {target.provider}


def test_coreml_takes_no_qdq() -> None:
    found = places(COREML, models.quantized_convolution(np.uint8))
    assert found["Conv"].cause == "quantization"
    assert found["Conv"].change == "use the float model"


def test_qdq_that_a_table_does_not_list_goes_with_the_node_that_it_quantizes() -> None:
    """DQ → Conv → Q is one unit; the Q and DQ at the model's ends belong to none."""
    model = models.quantized_convolution(np.int8)
    placements, _ = place_all(XNNPACK, view(model))
    on = {placement.node for placement in placements if placement.runs_on == XNNPACK.provider}
    assert on == {"xd_node", "wd_node", "bd_node", "c_node", "yq_node"}
    model.graph.node[4].CopyFrom(models.node("Sum", ["xd", "wd", "bd"], ["c"]))  # not in XNNPACK's table
    placements, _ = place_all(XNNPACK, view(model))
    assert {placement.runs_on for placement in placements} == {"CPUExecutionProvider"}
    assert {placement.cause for placement in placements if placement.op != "Sum"} == {"neighbour"}


def test_xnnpack_takes_activations_of_the_type_of_the_weights() -> None:
    """The provider's GetTensorQuantType does not handle uint8 activations with int8 weights."""
    found = places(XNNPACK, models.quantized_convolution(np.uint8))["Conv"]
    assert found.cause == "quantization"
    assert found.change == "make the activations int8, with zero points lower by 128"


def test_xnnpack_takes_an_activation_with_the_convolution_that_alone_it_follows() -> None:
    weights = {"w": np.ones((4, 3, 3, 3), np.float32), "low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    given, made = [models.value("x", (1, 3, 8, 8))], [models.value("y", None)]
    for op, inputs in (("Relu", ["c"]), ("Clip", ["c", "low", "high"])):
        nodes = [models.node("Conv", ["x", "w"], ["c"]), models.node(op, inputs, ["y"])]
        assert places(XNNPACK, models.model(nodes, given, made, weights))[op].runs_on == XNNPACK.provider
        nodes.append(models.node("Relu", ["c"], ["z"]))
        found = places(XNNPACK, models.model(nodes, given, [*made, models.value("z", None)], weights))
        assert found[op].cause == "op"


def unit(op: str, scales: int = 1) -> onnx.ModelProto:
    """One node of x (2, 4) between DequantizeLinear and QuantizeLinear; Gemm with weights of that many scales."""
    constants = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    nodes = [models.node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    nodes.append(models.node("DequantizeLinear", ["q", "s", "z"], ["d"]))
    inputs = ["d"]
    if op == "Gemm":
        constants["w"] = np.ones((4, 4), np.int8)
        constants["ws"] = np.full(scales, 0.1, np.float32) if scales > 1 else constants["s"]
        constants["wz"] = np.zeros(constants["ws"].shape, np.int8)
        nodes.append(models.node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1))
        inputs.append("wd")
    nodes += [models.node(op, inputs, ["c"]), models.node("QuantizeLinear", ["c", "s", "z"], ["cq"])]
    nodes.append(models.node("DequantizeLinear", ["cq", "s", "z"], ["y"]))
    return models.model(nodes, [models.value("x", (2, 4))], [models.value("y", (2, 4))], constants)


def test_nnapi_computes_few_operators_between_integers_and_leaves_the_unit_whole() -> None:
    assert {one.runs_on for one in places(NNAPI, unit("Softmax")).values()} == {NNAPI.provider}
    placements, _ = place_all(NNAPI, view(unit("Relu")))
    causes = {one.node: one.cause for one in placements if one.runs_on != NNAPI.provider}
    assert causes == {"d_node": "neighbour", "c_node": "quantization", "cq_node": "neighbour"}


@pytest.mark.parametrize(("scales", "runs"), [(1, True), (4, False)])
def test_nnapis_integer_products_have_one_scale(scales: int, runs: bool) -> None:
    found = places(NNAPI, unit("Gemm", scales))["Gemm"]
    assert (found.runs_on == NNAPI.provider) is runs
    assert runs or "has 4 scales" in found.reason


@pytest.mark.parametrize(
    ("left", "right", "runs"),
    [((2, 4), (4, 3), True), ((1, 2, 4), (4, 3), False), ((5, 2, 4), (5, 4, 3), True), ((5, 2, 4), (1, 4, 3), False)],
)
def test_nnapis_products_are_of_matrices_or_of_equal_batches(
    left: tuple[int, ...], right: tuple[int, ...], runs: bool
) -> None:
    model = models.model(
        [models.node("MatMul", ["x", "w"], ["y"])],
        [models.value("x", left)],
        [models.value("y", None)],
        {"w": np.ones(right, np.float32)},
    )
    assert (places(NNAPI, model)["MatMul"].runs_on == NNAPI.provider) is runs


# Conditions ------------------------------------------------------------------------------------------------


def one(
    op: str, shapes: list[tuple[int | str, ...]], kinds: list[int] | None = None, **attributes: object
) -> onnx.ModelProto:
    """One node whose inputs are all computed."""
    names = [f"x{index}" for index in range(len(shapes))]
    kinds = kinds or [TensorProto.FLOAT] * len(shapes)
    inputs = [models.value(*each) for each in zip(names, shapes, kinds, strict=True)]
    return models.model([models.node(op, names, ["y"], **attributes)], inputs, [models.value("y", None)])


F, I32, I64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
BROKEN = [
    (NNAPI, one("MaxPool", [(1, 3, 8)], kernel_shape=[2]), "rank", "3 dimensions, not 4"),
    (NNAPI, one("Conv", [(1, 3, 8, 8), (4, 3, 3, 3)]), "constant", "'x1' is computed"),
    (NNAPI, one("Relu", [("n", 3)]), "dynamic shape", r"no fixed shape \(\?×3\)"),
    (NNAPI, one("Relu", [(1, 2, 3, 4, 5)]), "rank", "5 dimensions; the provider takes 4"),
    (NNAPI, one("Relu", [(2,)], [TensorProto.FLOAT16]), "dtype", "float16; the provider takes"),
    (NNAPI, one("LSTM", [(4, 1, 8), (1, 32, 8), (1, 32, 8)], hidden_size=8), "op", "not in the provider's table"),
    (NNAPI, one("Gemm", [(2, 3), (3, 4)]), "attribute", "transB is 0"),
    (NNAPI, one("Gather", [(5, 3), (2,)], [F, I64]), "dtype", "int64"),
    (NNAPI, one("DepthToSpace", [(1, 4, 2, 2)], blocksize=2, mode="CRD"), "attribute", "mode is CRD"),
    (COREML, one("Pow", [(2,), (2,)], [F, I32]), "dtype", "'x1' is tensor.int32., not float"),
    (COREML, one("GatherND", [(2, 3), (2, 1)], [F, I64], batch_dims=1), "attribute", "batch_dims is 1, not 0"),
    (COREML, one("Gemm", [(2, 3), (3, 4)]), "constant", "'x1' is computed"),
    (COREML, one("Where", [(2,), (2,), (2,)], [TensorProto.BOOL, I32, I32]), "dtype", "not float or float16"),
    (COREML, one("DepthToSpace", [("n", 4, 2, 2)], blocksize=2, mode="CRD"), "dynamic shape", "mode is CRD"),
    (XNNPACK, one("MatMul", [(2, 3, 4), (2, 4, 5)]), "rank", "3 dimensions, not 2"),
    (XNNPACK, one("Softmax", [(2, 3, 4)], axis=1), "attribute", "axis is 1, not the last"),
    (VITIS, one("Relu", [(2,)]), "quantization", "not in float form"),
    (VITIS, one("Softmax", [(2,)]), "quantization", "A16W8, A8W8, XINT8, not in float"),
    (OPENVINO, one("Relu", [("n",)]), "dynamic shape", "no fixed shape"),
]


@pytest.mark.parametrize(("target", "model", "cause", "reason"), BROKEN, ids=lambda value: getattr(value, "name", None))
def test_a_broken_condition_is_named(target: Target, model: onnx.ModelProto, cause: str, reason: str) -> None:
    (found,) = places(target, model).values()
    assert (found.runs_on, found.cause) == ("CPUExecutionProvider", cause)
    assert re.search(reason, found.reason)
    assert found.change


MET = [
    (NNAPI, models.convolution()),
    (NNAPI, one("Gemm", [(2, 3), (4, 3)], transB=1)),
    (NNAPI, one("Gather", [(5, 3), (2,)], [F, I32])),
    (COREML, one("Where", [(2,), (2,), (2,)], [TensorProto.BOOL, F, F])),
    (COREML, one("Relu", [("n", 3)])),
    (XNNPACK, one("Softmax", [(2, 3, 4)], axis=2)),
    (XNNPACK, one("MatMul", [(2, 3), (3, 4)])),
    (VITIS, one("Sigmoid", [(2,)])),
    (OPENVINO, one("Relu", [(2,)])),
]


@pytest.mark.parametrize(("target", "model"), MET, ids=lambda value: getattr(value, "name", None))
def test_a_met_condition_leaves_the_node_on_the_accelerator(target: Target, model: onnx.ModelProto) -> None:
    placements, _ = place_all(target, view(model))
    assert {placement.runs_on for placement in placements} <= {target.provider, "CPUExecutionProvider"}
    assert next(iter(places(target, model).values())).runs_on == target.provider


def test_only_constant_pads_are_taken() -> None:
    node = models.node("Pad", ["x", "pads"], ["y"], mode="reflect")
    constants = {"pads": np.array([0, 0, 1, 1], np.int64)}
    model = models.model([node], [models.value("x", (4, 4))], [models.value("y", None)], constants)
    assert places(NNAPI, model)["Pad"].reason == "attribute mode is reflect, not constant"


def test_negative_pads_are_read_from_the_constant() -> None:
    node = models.node("Pad", ["x", "pads"], ["y"])
    for pads, runs in (([0, 0, 1, 1], True), ([0, 0, -1, 0], False)):
        constants = {"pads": np.array(pads, np.int64)}
        model = models.model([node], [models.value("x", (4, 4))], [models.value("y", None)], constants)
        assert (places(NNAPI, model)["Pad"].runs_on == NNAPI.provider) is runs


@pytest.mark.parametrize(("sizes", "runs"), [([4, 4], True), ([3, 5], False)])
def test_nnapi_splits_evenly(sizes: list[int], runs: bool) -> None:
    node = models.node("Split", ["x", "sizes"], ["y", "z"], axis=1)
    outputs = [models.value("y", None), models.value("z", None)]
    model = models.model([node], [models.value("x", (1, 8))], outputs, {"sizes": np.array(sizes)})
    assert (places(NNAPI, model)["Split"].runs_on == NNAPI.provider) is runs


def test_weights_in_external_data_are_not_for_nnapi() -> None:
    model = models.convolution()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    assert places(NNAPI, model)["Conv"].reason.startswith("'w' is in an external data file")
    assert places(COREML, model)["Conv"].runs_on == COREML.provider


def test_large_weights_inside_the_file_are_not_taken_for_external() -> None:
    model = models.convolution(np.ones((64, 3, 7, 7), np.float32))
    assert places(NNAPI, model)["Conv"].runs_on == NNAPI.provider


def test_coreml_names_the_other_form_that_takes_an_operator() -> None:
    found = places(COREML, one("Flatten", [(2, 3, 4)]))["Flatten"]
    assert found.change == "ModelFormat=NeuralNetwork takes it"


def test_nodes_of_a_branch_are_not_taken() -> None:
    inner = models.chain("Relu").graph
    del inner.input[:]
    branch = models.node("If", ["go"], ["y"], then_branch=inner, else_branch=inner)
    inputs = [models.value("go", (), TensorProto.BOOL), models.value("x", (1, 3, 8, 8))]
    model = models.model([branch], inputs, [models.value("y", None)])
    found = place_all(NNAPI, view(model))[0]
    assert {placement.node for placement in found} == {
        "y_node",
        "y_node/then_branch/v0_node",
        "y_node/else_branch/v0_node",
    }
    assert all("within If" in placement.reason for placement in found[1:])


def test_a_shape_that_is_computed_is_told_apart_from_data() -> None:
    nodes = [
        models.node("Shape", ["x"], ["s"]),
        models.node("Gather", ["s", "first"], ["n"]),
        models.node("Relu", ["x"], ["y"]),
    ]
    outputs = [models.value("y", None), models.value("n", None, I64)]
    model = models.model(nodes, [models.value("x", ("n", 3))], outputs, {"first": np.array([0])})
    found = places(NNAPI, model)
    assert found["Gather"].cause == "dynamic shape"
    assert found["Gather"].reason == "it computes a shape that is not fixed"


def test_nodes_that_share_a_name_are_told_apart() -> None:
    model = models.chain("Relu", "Erf", "Relu")
    for node in model.graph.node:
        node.name = "same"
    placements, _ = place_all(NNAPI, view(model))
    assert [(placement.node, placement.runs_on == NNAPI.provider) for placement in placements] == [
        ("same", True),
        ("same#2", False),
        ("same#3", True),
    ]


# Neighbours and partitions ---------------------------------------------------------------------------------


def test_a_reshape_between_nodes_of_the_cpu_stays_there() -> None:
    """Erf is not NNAPI's; one Reshape is not worth a trip there, three nodes are."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [4, 2])
    nodes = [models.node("Erf", ["x"], ["a"]), models.node("Reshape", ["a", "shape"], ["b"])]
    alone = models.model(
        [*nodes, models.node("Erf", ["b"], ["y"])], [models.value("x", (2, 4))], [models.value("y", (4, 2))]
    )
    alone.graph.initializer.append(shape)
    assert places(NNAPI, alone)["Reshape"].cause == "neighbour"
    worth = [*nodes, models.node("Relu", ["b"], ["c"]), models.node("Sigmoid", ["c"], ["y"])]
    together = models.model(worth, [models.value("x", (2, 4))], [models.value("y", (4, 2))])
    together.graph.initializer.append(shape)
    assert places(NNAPI, together)["Reshape"].runs_on == NNAPI.provider


def random_graph(seed: int) -> onnx.ModelProto:
    """A random graph of operators of which NNAPI's table has some."""
    random = np.random.default_rng(seed)
    names, nodes = ["x"], []
    for index in range(int(random.integers(5, 40))):
        op = str(random.choice(["Relu", "Erf", "Add", "Mul", "Cosh"]))
        count = 2 if op in {"Add", "Mul"} else 1
        inputs = [str(random.choice(names[-6:])) for _ in range(count)]
        nodes.append(models.node(op, inputs, [f"v{index}"]))
        names.append(f"v{index}")
    return models.model(nodes, [models.value("x", (2,))], [models.value(names[-1], (2,))])


@pytest.mark.parametrize("seed", range(60))
def test_partitions_are_counted_as_onnxruntimes_own_tool_counts_them(seed: int) -> None:
    model = random_graph(seed)
    graph = view(model)[0]
    taken = {placement.node for placement in place_all(NNAPI, [graph])[0] if placement.runs_on == NNAPI.provider}
    theirs = usability_checker.check_partitioning(
        onnx.shape_inference.infer_shapes(model).graph,
        usability_checker._SupportedOpsChecker(str(HELPERS / "nnapi_supported_ops.md")),
        require_fixed_input_sizes=True,
    )
    assert len(taken) == theirs.num_supported_nodes
    ours = [{node.name for node in group} for group in partitions(graph, taken)]
    assert ours == [{node.name for node in group} for group in theirs.supported_groups]
