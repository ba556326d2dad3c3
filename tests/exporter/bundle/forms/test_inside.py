"""Graphs for onnxruntime's mobile providers: taken whole by their tables, with the numbers of the CPU's graph."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import export
from edgepress.exporter.bundle.one_graph import inside
from edgepress.exporter.graph.qdq.signed import to_signed
from edgepress.exporter.graph.qdq.units import leave_units
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.files import parse_model
from edgepress.runtime import load
from edgepress.sessions import UNFUSED, open_on_cpu, session_options
from edgepress.targets import find_target
from edgepress.targets.legality.check import check

RANDOM = np.random.default_rng(0)
WHOLE = ("android-nnapi", "ios-coreml")
TARGETS = (*WHOLE, "android-xnnpack")


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.normal(0, 0.3, shape).astype(np.float32), name)


def number(name: str, value: object, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
    opset: int = 21,
) -> Path:
    for node in nodes:
        node.name = node.output[0]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, weights)
    version = 11 if opset > 22 else 10
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version), path)
    return path


def residual(path: Path) -> Path:
    """ResNet's blocks: a strided convolution beside a shortcut that is sliced and padded, and a classifier."""
    nodes = [
        helper.make_node("Conv", ["pixels", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Slice", ["b", "starts", "ends", "axes", "steps"], ["half"]),
        helper.make_node("Pad", ["half", "pads"], ["padded"]),
        helper.make_node("Add", ["c", "padded"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["f", "third"], ["g"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["g"], ["h"]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", "head", "bias"], ["logits"], transB=1),
    ]
    constants = [weight("first", 8, 3, 3, 3), weight("second", 12, 8, 3, 3), weight("third", 12, 12, 3, 3)]
    constants += [weight("head", 5, 12), weight("bias", 5), number("pads", [0, 2, 0, 0, 0, 2, 0, 0])]
    constants += [number("starts", [0, 0]), number("ends", [16, 16]), number("axes", [2, 3]), number("steps", [2, 2])]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 16, 16])
    return saved(
        path, nodes, [pixels], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])], constants
    )


def depthwise(path: Path) -> Path:
    """MobileNet's inverted residual: wider, each channel by itself, narrower; cut at 6, as its classifier is."""
    nodes = [
        helper.make_node("Conv", ["pixels", "stem"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "wide"], ["a"]),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("Conv", ["b", "own"], ["c"], pads=[1, 1, 1, 1], group=16),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"]),
        helper.make_node("Conv", ["d", "narrow"], ["e"]),
        helper.make_node("Add", ["x", "e"], ["f"]),
        helper.make_node("ReduceMean", ["f", "axes"], ["g"], keepdims=0),
        helper.make_node("MatMul", ["g", "hidden"], ["h"]),
        helper.make_node("Clip", ["h", "zero", "six"], ["i"]),  # in integers part of what they hold
        helper.make_node("Gemm", ["i", "head"], ["logits"]),
    ]
    constants = [weight("stem", 4, 3, 3, 3), weight("wide", 16, 4, 1, 1), weight("own", 16, 1, 3, 3)]
    constants += [weight("narrow", 4, 16, 1, 1), weight("hidden", 4, 12), weight("head", 12, 5)]
    constants += [number("axes", [2, 3])]
    constants += [number("zero", 0, np.float32), number("six", 6, np.float32)]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 16, 16])
    return saved(
        path, nodes, [pixels], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])], constants
    )


def encoder(path: Path) -> Path:
    """A layer of BERT: embeddings by int64 numbers, masked attention, LayerNorm, Gelu, the mean, length 1."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Gather", ["places", "order"], ["placed"]),
        helper.make_node("Sum", ["words", "placed"], ["embedded"]),
        helper.make_node("LayerNormalization", ["embedded", "gain", "beta"], ["x"], epsilon=1e-12),
        *(helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"),
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["seen", "one_two"], ["spread"]),
        helper.make_node("And", ["spread", "all"], ["open"]),
        helper.make_node("Attention", ["q", "k", "v", "open"], ["attended"], q_num_heads=4, kv_num_heads=4),
        helper.make_node("MatMul", ["attended", "wo"], ["out"]),
        helper.make_node("Sum", ["out", "x"], ["skipped"]),
        helper.make_node("LayerNormalization", ["skipped", "gain", "beta"], ["y"], epsilon=1e-12),
        helper.make_node("MatMul", ["y", "up"], ["upped"]),
        helper.make_node("Gelu", ["upped"], ["bent"]),
        helper.make_node("MatMul", ["bent", "down"], ["z"]),
        helper.make_node("Unsqueeze", ["mask", "two"], ["column"]),
        helper.make_node("Cast", ["column"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["z", "weights"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["summed"], keepdims=0),
        helper.make_node("ReduceL2", ["summed", "last"], ["length"], keepdims=1),
        helper.make_node("Shape", ["summed"], ["like"]),
        helper.make_node("Expand", ["length", "like"], ["lengths"]),
        helper.make_node("Div", ["summed", "lengths"], ["embedding"]),
    ]
    constants = [weight("table", 20, 32), weight("places", 12, 32), number("order", np.arange(12).reshape(1, 12))]
    constants += [*(weight(f"w{name}", 32, 32) for name in "qkvo"), weight("up", 32, 64), weight("down", 64, 32)]
    constants += [number("gain", np.linspace(0.5, 1.5, 32), np.float32), weight("beta", 32)]
    constants += [number("all", np.ones((1, 1, 12, 1)), bool), number("one_two", [1, 2]), number("two", [2])]
    constants += [number("one", [1]), number("last", [-1])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 12]) for name in ("ids", "mask")]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 32])]
    return saved(path, nodes, inputs, outputs, constants, opset=23)


NETWORKS = {"residual": residual, "depthwise": depthwise, "encoder": encoder}
FORMS = [
    *((network, "fp32", target) for network in NETWORKS for target in TARGETS),
    *((network, "int8-static", target) for network in ("residual", "depthwise") for target in TARGETS[::2]),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inside")
    for name, build in NETWORKS.items():
        build(folder / f"{name}.onnx")
    pixels = np.random.default_rng(1).standard_normal((16, 1, 3, 16, 16)).astype(np.float32)
    np.savez(folder / "samples.npz", pixels=pixels)
    for network in NETWORKS:
        for recipe in {recipe for name, recipe, _ in FORMS if name == network}:
            targets = [target for name, one, target in FORMS if (name, one) == (network, recipe)]
            calibration = [folder / "samples.npz"] if "static" in recipe else []
            out = folder / f"{network}-{recipe}"
            export(
                folder / f"{network}.onnx", out=out, recipe=recipe, target=targets, calibration=calibration, threads=1
            )
    return folder


def feeds(network: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    if network != "encoder":
        return {"pixels": random.standard_normal((1, 3, 16, 16)).astype(np.float32)}
    return {"ids": random.integers(0, 20, (1, 12)), "mask": np.array([[1] * 9 + [0] * 3])}


@pytest.mark.parametrize(("network", "recipe", "target"), FORMS)
def test_the_graph_gives_the_numbers_of_the_float_model_or_of_the_cpus_integers(
    home: Path, network: str, recipe: str, target: str
) -> None:
    bundle = home / f"{network}-{recipe}"
    described = read_manifest(bundle).targets[target]
    assert find_problems(bundle) == []
    assert isinstance(described, dict)
    assert described["shapes"] == {"batch": 1}
    assert sorted(path.name for path in (bundle / target).iterdir()) == ["model.onnx"]
    options, given = session_options(), feeds(network)
    options.add_session_config_entry(UNFUSED, "1")
    narrow = {name: value.astype(np.int32) if value.dtype == np.int64 else value for name, value in given.items()}
    there = open_on_cpu(bundle / target / "model.onnx", options)
    takes = {value.name: value.type for value in there.get_inputs()}
    is_narrow = network == "encoder" and target == "android-nnapi"
    assert ("tensor(int32)" in takes.values()) is is_narrow
    assert described["int32_inputs"] == (["ids", "mask"] if is_narrow else [])
    (seen,) = there.run(None, narrow if is_narrow else given)
    before = home / f"{network}.onnx" if recipe == "fp32" else bundle / "model.onnx"
    (truth,) = open_on_cpu(before, options).run(None, given)
    assert seen.shape == truth.shape
    most = 1e-5 if recipe == "fp32" else 0.1  # a few codes next to each other
    assert np.abs(seen - truth).max() <= most * np.abs(truth).max()


@pytest.mark.parametrize(("network", "recipe", "target"), [form for form in FORMS if form[2] in WHOLE])
def test_the_tables_have_every_node(home: Path, network: str, recipe: str, target: str) -> None:
    [report] = check(home / f"{network}-{recipe}", find_target(target))
    left = [(one.op, one.reason) for one in report.placements if one.runs_on != report.provider]
    assert not left
    assert report.partitions == 1
    assert set(report.multiply_adds) == {report.provider}


@pytest.mark.parametrize(
    ("network", "recipe", "least"),
    [(n, r, 0.8 if n == "encoder" else 0.95) for n, r, target in FORMS if target == "android-xnnpack"],
)
def test_xnnpack_has_the_products(
    home: Path, network: str, recipe: str, least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(home / f"{network}-{recipe}"), "--target", "android-xnnpack"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "multiply-adds on" in line)
    assert float(line.split("%")[0]) / 100 >= least


def test_int8_activations_are_the_same_numbers(home: Path) -> None:
    bundle = home / "residual-int8-static"
    before, after = parse_model(bundle / "model.onnx"), parse_model(bundle / "android-xnnpack" / "model.onnx")
    kinds = [{tensor.data_type for tensor in model.graph.initializer} for model in (before, after)]
    assert TensorProto.UINT8 in kinds[0]
    assert TensorProto.UINT8 not in kinds[1]
    options = session_options()
    options.add_session_config_entry(UNFUSED, "1")
    given = feeds("residual")
    (truth,) = open_on_cpu(bundle / "model.onnx", options).run(None, given)
    (seen,) = open_on_cpu(bundle / "android-xnnpack" / "model.onnx", options).run(None, given)
    np.testing.assert_array_equal(seen, truth)
    assert to_signed(after, Weights()) == 0


def test_what_nnapi_has_no_integers_for_is_in_floats_and_named(home: Path) -> None:
    bundle = home / "residual-int8-static"
    described = read_manifest(bundle).targets["android-nnapi"]
    assert isinstance(described, dict)
    assert described["in_float"] == ["logits"]
    model = parse_model(bundle / "android-nnapi" / "model.onnx")
    makers = {name: node for node in model.graph.node for name in node.output}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    assert gemm.input[1] not in makers
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {makers[node.input[0]].op_type for node in convolutions} == {"DequantizeLinear"}
    cut = [node for node in model.graph.node if node.op_type == "Max"]  # before the convolution that reads MaxPool
    assert [makers[node.input[0]].op_type for node in cut] == ["MaxPool"]
    assert leave_units(model, Weights(), find_target("android-nnapi").table.integers or ()) == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("network", "recipe", "target", "message"),
    [
        (
            "residual",
            "int8-static",
            "ios-coreml",
            "takes no integers, and recipe int8-static has .* of 8 bits and weights of 8; .* fit: fp16, fp32",
        ),
        (
            "residual",
            "int8-static-a16",
            "android-nnapi",
            "int8-static-a16 has activations of 16 bits .* fit: int8-static with --calibration, fp16, fp32",
        ),
        (
            "residual",
            "int8",
            "ios-coreml",
            "takes no integers, and recipe int8 stores weights alone .* fit: fp16, fp32",
        ),
        ("residual", "int8", "android-nnapi", "recipes that fit: int8-static with --calibration, fp16, fp32"),
        ("encoder", "int8-static", "android-nnapi", "in convolutions alone, and 100% of this model's weights are in"),
    ],
)
def test_what_a_provider_does_not_compute_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, network: str, recipe: str, target: str, message: str
) -> None:
    samples = tmp_path / "samples.npz"
    np.savez(samples, **{name: value[None] for name, value in feeds(network).items()})
    calibration = [samples] if "static" in recipe else []
    with pytest.raises(InputError, match=message):
        export(
            home / f"{network}.onnx",
            out=tmp_path / "out",
            recipe=recipe,
            target=target,
            calibration=calibration,
            threads=1,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_a_graph_that_gives_other_numbers_is_not_sealed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "FLOAT_TOLERANCE", -1.0)
    with pytest.raises(CheckFailed, match=r"android-nnapi/model.onnx does not compute what the bundle's graph does"):
        export(home / "residual.onnx", out=tmp_path / "out", recipe="fp32", target="android-nnapi", threads=1)
    assert not list(tmp_path.iterdir())


def test_the_cpu_runs_the_bundle_and_the_plan_is_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(home / "residual-fp32").ran_on.target == "cpu"
    assert main(["plan", str(home / "residual.onnx"), "--recipe", "fp32", "--target", "ios-coreml", "--json"]) == 0
    json.loads(capsys.readouterr().out)
    one = home / "one.npz"
    np.savez(one, **feeds("residual"))
    assert main(["run", str(home / "residual-fp32"), "--on", "android-nnapi", "--inputs", str(one)]) == 2
    assert "has no graphs for 'android-nnapi'" in capsys.readouterr().err


def test_a_language_model_has_its_cpu_graph_there(tmp_path: Path) -> None:
    export("demo", out=tmp_path / "out", recipe="int4", target="android-nnapi", threads=1)
    assert read_manifest(tmp_path / "out").targets == {"android-nnapi": {}}
    assert not (tmp_path / "out" / "android-nnapi").exists()


def bound(home: Path, network: str, folder: Path, **scaled: float) -> Path:
    """A network whose weights are multiplied: what float16 cannot hold."""
    model = onnx.load(home / f"{network}.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in scaled:
            value = (numpy_helper.to_array(tensor) * scaled[tensor.name]).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, folder / f"{network}.onnx")
    return folder / f"{network}.onnx"


def in_half(path: Path) -> tuple[set[str], set[str]]:
    """Products that compute in float16, and in float32."""
    model = onnx.shape_inference.infer_shapes(parse_model(path))
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    products = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    half = {node.name for node in products if kinds[node.output[0]] == TensorProto.FLOAT16}
    return half, {node.name for node in products} - half


@pytest.mark.parametrize("network", NETWORKS)
def test_coreml_computes_in_float16_by_recipe_fp16(home: Path, tmp_path: Path, network: str) -> None:
    bundle = tmp_path / "out"
    export(home / f"{network}.onnx", out=bundle, recipe="fp16", target="ios-coreml", threads=1)
    described = read_manifest(bundle).targets["ios-coreml"]
    assert isinstance(described, dict)
    assert described["computes"] == "float16"
    assert described["in_float32_multiply_adds"] == 0
    half, rest = in_half(bundle / "ios-coreml" / "model.onnx")
    assert half
    assert not rest
    [report] = check(bundle, find_target("ios-coreml"))
    assert report.full
    session, given = open_on_cpu(bundle / "ios-coreml" / "model.onnx"), feeds(network)
    assert {value.type for value in session.get_outputs()} == {"tensor(float)"}
    (seen,) = session.run(None, given)
    (truth,) = open_on_cpu(home / f"{network}.onnx").run(None, given)
    assert np.abs(seen - truth).max() <= 0.02 * np.abs(truth).max()
    assert np.abs(seen - truth).max() > 0  # it is float16


def test_what_overflows_float16_stays_in_float32_with_its_share_named(home: Path, tmp_path: Path) -> None:
    model = bound(home, "residual", tmp_path, second=4e4, third=1 / 4e4)
    export(model, out=tmp_path / "out", recipe="fp16", target="ios-coreml", threads=1)
    described = read_manifest(tmp_path / "out").targets["ios-coreml"]
    assert isinstance(described, dict)
    kept = described["in_float32"]
    assert "float16 ends at 65504" in kept["c"]
    assert {"c", "d", "e"} <= set(kept)
    half, rest = in_half(tmp_path / "out" / "ios-coreml" / "model.onnx")
    assert "c" in rest
    assert "a" in half
    work = {"a": 16 * 16 * 8 * 27, "c": 8 * 8 * 12 * 72, "g": 4 * 4 * 12 * 108, "logits": 60}
    share = sum(work[name] for name in rest) / sum(work.values())
    assert described["in_float32_multiply_adds"] == pytest.approx(share, abs=1e-3)
    (truth,) = open_on_cpu(model).run(None, feeds("residual"))
    (seen,) = open_on_cpu(tmp_path / "out" / "ios-coreml" / "model.onnx").run(None, feeds("residual"))
    assert np.abs(seen - truth).max() <= 0.02 * np.abs(truth).max()


def test_samples_show_an_overflow_that_made_up_inputs_do_not(home: Path, tmp_path: Path) -> None:
    model = bound(home, "residual", tmp_path, first=100.0)
    pixels = np.full((2, 1, 3, 16, 16), 400.0, np.float32)
    np.savez(tmp_path / "bright.npz", pixels=pixels)
    found = []
    for calibration in ([], [tmp_path / "bright.npz"]):
        out = tmp_path / f"out{len(calibration)}"
        export(model, out=out, recipe="fp16", target="ios-coreml", calibration=calibration, threads=1)
        described = read_manifest(out).targets["ios-coreml"]
        assert isinstance(described, dict)
        found.append(set(described["in_float32"]))
    assert "a" not in found[0]
    assert "a" in found[1]
