"""Every target found on disk is held to the same contract."""

import itertools
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import legality_models
import numpy as np
import onnx
import onnxruntime
import pytest

from edgepress.bundle.manifest import read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide
from edgepress.exporter.decide.report import format_plan
from edgepress.exporter.recipe.reading import preset_names
from edgepress.targets import (
    CPU,
    Operator,
    default_recipe,
    find_soc,
    find_target,
    has_kernel,
    missing_kernels,
    target_names,
)
from edgepress.targets.legality.check import check_file
from edgepress.targets.legality.report import format_report


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_named_as_its_file_and_says_how_it_is_checked(name: str) -> None:
    target = find_target(name)
    assert target.name == name
    assert target.checked in {"asked", "emulated", "table"}
    assert target.provider.endswith("ExecutionProvider")
    assert target.description
    assert target.source
    assert target.package or re.search(r"20\d\d", target.source)  # a written table has a date
    assert len({soc.name for soc in target.socs}) == len(target.socs)
    for soc in target.socs:
        assert find_soc(target, soc.name) == soc
        assert min(soc.model, soc.arch, soc.vtcm_mb) > 0


@pytest.mark.parametrize("name", target_names())
def test_a_target_says_of_every_node_where_it_runs(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    target = find_target(name)
    assert (target.table is not None) == (target.checked == "table")
    if not target.is_cpu and target.table is None:
        if name == "openvino-cpu":
            request.getfixturevalue("openvino_cpu")
        else:
            pytest.importorskip("onnxruntime_qnn")
    path = tmp_path / "model.onnx"
    model = legality_models.convolution()
    model.graph.node.extend([legality_models.node("Erf", ["y"], ["e"]), legality_models.node("Relu", ["e"], ["z"])])
    model.graph.output[0].CopyFrom(legality_models.value("z", (1, 4, 8, 8)))
    path.write_bytes(model.SerializeToString())
    report = check_file(path, target, target.socs[0].name if target.socs else "")
    assert [placement.op for placement in report.placements] == ["Conv", "Relu", "Erf", "Relu"]
    assert {placement.runs_on for placement in report.placements} <= {target.provider, CPU}
    for placement in report.placements:
        assert bool(placement.reason) == bool(placement.cause) == (placement.runs_on != target.provider)
    assert not target.package or report.source.endswith(f"{target.package} {version(target.package)}")
    assert format_report(report).count("_node") >= len(report.placements)


@pytest.mark.parametrize("name", target_names())
def test_without_a_recipe_a_target_gets_one_that_it_takes(name: str) -> None:
    target = find_target(name)
    assert set(target.recipes) <= set(preset_names())
    prepared = decide("demo", target=name)
    assert prepared.recipe.name == target.recipes[0]
    assert f"recipe {target.recipes[0]} (the default of {name})" in format_plan(prepared)
    for recipe in target.recipes:  # all that it names, it takes
        assert decide("demo", target=name, recipe=recipe).why_recipe == ""


def test_without_a_recipe_several_targets_get_one_that_suits_all() -> None:
    for pair in itertools.combinations(target_names(), 2):
        recipe, why = default_recipe([find_target(name) for name in pair])
        assert all(recipe in find_target(name).recipes for name in pair)
        assert all(name in why for name in pair)
    prepared = decide("demo", target=["arm64-cpu", "qnn-htp"])
    assert prepared.recipe.name == "int4-channel"
    assert "int4 of arm64-cpu, int8-static-a16 of qnn-htp" in format_plan(prepared)


def test_targets_that_no_one_recipe_suits_are_named_with_what_suits_each() -> None:
    apart = [replace(find_target("arm64-cpu"), recipes=("int4",)), find_target("qnn-htp")]
    with pytest.raises(InputError, match=r"no one recipe suits .*arm64-cpu: int4; qnn-htp: int8-static-a16, int4-ch"):
        default_recipe(apart)


def test_a_recipe_that_is_named_wins_and_is_refused_where_it_does_not_fit() -> None:
    assert decide("demo", target="qnn-htp", recipe="fp32").recipe.name == "fp32"
    with pytest.raises(InputError, match=r"recipe int4 stores .* with block 32"):
        decide("demo", target="qnn-htp", recipe="int4")


def test_an_export_without_a_recipe_takes_the_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first command that a stranger with a phone tries."""
    assert main(["export", "demo", "--target", "qnn-htp", "--context", "32", "--out", str(tmp_path / "out")]) == 0
    assert "recipe int8-static-a16 (the default of qnn-htp), target qnn-htp" in capsys.readouterr().out
    assert read_manifest(tmp_path / "out").recipe["name"] == "int8-static-a16"


def test_packages_beside_the_targets_are_no_targets() -> None:
    assert not {"legality", "providers"} & set(target_names())


def test_a_target_without_chips_says_so() -> None:
    with pytest.raises(InputError, match="arm64-cpu has no chips"):
        find_soc(find_target("arm64-cpu"), "sm8650")


def test_an_unknown_target_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"did you mean arm64-cpu\? Known: .*arm64-cpu"):
        find_target("arm64cpu")


def test_the_kernel_registry_knows_what_the_cpu_runs() -> None:
    target = find_target("arm64-cpu")
    present = Operator("com.microsoft", "MatMulNBits", 1)
    absent = [Operator("com.microsoft", "NoSuchOperator", 1), Operator("", "MatMul", 0)]
    assert missing_kernels(target, [present, *absent]) == absent


HALF = np.ones((1, 2, 32), np.float16)
CODES = np.full((8, 1, 16), 0x99, np.uint8)
GAIN = np.ones(32, np.float16)
TABLE = np.ones((4, 16), np.float16)
PAST = np.zeros((1, 1, 0, 32), np.float16)
BLOCKS = {"K": 32, "N": 8, "bits": 4, "block_size": 32}
NODES = {  # operator: domain, inputs, attributes, outputs
    "MatMulNBits": ("com.microsoft", [HALF, CODES, np.ones((8, 1), np.float16)], BLOCKS, 1),
    "SimplifiedLayerNormalization": ("", [HALF, GAIN], {}, 1),
    "LayerNormalization": ("", [HALF, GAIN, GAIN], {}, 1),
    "SkipSimplifiedLayerNormalization": ("com.microsoft", [HALF, HALF, GAIN], {}, 1),
    "SkipLayerNormalization": ("com.microsoft", [HALF, HALF, GAIN, GAIN], {}, 1),
    "RotaryEmbedding": ("com.microsoft", [HALF, np.array([[0, 1]]), TABLE, TABLE], {"num_heads": 1}, 1),
    "GroupQueryAttention": (
        "com.microsoft",
        [HALF, HALF, HALF, PAST, PAST, np.array([1], np.int32), np.array(2, np.int32)],
        {"num_heads": 1, "kv_num_heads": 1},
        3,
    ),
    "Gather": ("", [HALF, np.array([0])], {}, 1),
    "GatherBlockQuantized": (
        "com.microsoft",
        [CODES[:, 0], np.array([0]), np.ones((8, 1), np.float16)],
        {"bits": 4, "block_size": 32, "quantize_axis": 1},
        1,
    ),
    "MatMul": ("", [HALF, HALF[0].T], {}, 1),
    "FusedMatMul": ("com.microsoft", [HALF, HALF[0]], {"transB": 1}, 1),
    "Add": ("", [HALF, HALF], {}, 1),
    "Mul": ("", [HALF, HALF], {}, 1),
    "Gelu": ("", [HALF], {}, 1),
    "QuickGelu": ("com.microsoft", [HALF], {}, 1),
    "Relu": ("", [HALF], {}, 1),
    "Tanh": ("", [HALF], {}, 1),
}


@pytest.mark.parametrize("op", NODES)
def test_a_float16_kernel_is_there_when_onnxruntime_inserts_no_casts(tmp_path: Path, op: str) -> None:
    domain, values, attributes, outputs = NODES[op]
    feeds = {f"x{number}": value for number, value in enumerate(values)}
    names = [f"y{number}" for number in range(outputs)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, list(feeds), names, domain=domain, **attributes)],
        op,
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feeds.items()
        ],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, None) for name in names],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(["y0"], feeds)[0]).all()
    casts = [node for node in onnx.load_model(tmp_path / "run.onnx").graph.node if node.op_type == "Cast"]
    operator = Operator(domain, op, 1 if domain else 21)
    assert has_kernel(find_target("arm64-cpu"), operator, "float16") == (not casts)
    assert has_kernel(find_target("arm64-cpu"), operator, "float32")
