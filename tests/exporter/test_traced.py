"""An ONNX file, from plan to bench: the arithmetic of dense layers against float64, and what is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.written.inspection import inspect
from edgepress.exporter.decide.traced import PreparedTraced, decide_traced
from edgepress.exporter.doors.kinds import Options, find_door
from edgepress.exporter.plan.planned import Subject, Writable
from edgepress.runtime.measures.bench_graph import bench_graph
from edgepress.sessions import open_on_cpu
from edgepress.targets import find_target
from edgepress.targets.legality.check import check
from edgepress.terminal.progress import silent

ACTIVATIONS = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "Identity": lambda x: x,
}
FORMS = ("Gemm", "Gemm transposed", "MatMul", "MatMul and Add")
Layers = list[tuple[str, str]]


def dense(path: Path, sizes: list[int], layers: Layers, *, opset: int = 17, external: bool = False) -> Path:
    """A model of so many layers: the form of each product, and the function after it; x is (n, sizes[0])."""
    random = np.random.default_rng(len(sizes))
    nodes, tensors, x = [], [], "x"
    for index, (form, function) in enumerate(layers):
        columns, rows = sizes[index : index + 2]
        matrix = (random.standard_normal((columns, rows)) / np.sqrt(columns)).astype(np.float32)
        stored = np.ascontiguousarray(matrix.T) if form == "Gemm transposed" else matrix
        bias = random.standard_normal(rows).astype(np.float32)
        tensors.append(numpy_helper.from_array(stored, f"w{index}"))
        if form != "MatMul":
            tensors.append(numpy_helper.from_array(bias, f"b{index}"))
        y, product = f"y{index}", f"p{index}"
        if form.startswith("Gemm"):
            nodes.append(
                helper.make_node("Gemm", [x, f"w{index}", f"b{index}"], [product], transB=int(stored is not matrix))
            )
        elif form == "MatMul":
            nodes.append(helper.make_node("MatMul", [x, f"w{index}"], [product]))
        else:
            nodes.append(helper.make_node("MatMul", [x, f"w{index}"], [f"{product}.bare"]))
            nodes.append(helper.make_node("Add", [f"b{index}", f"{product}.bare"], [product]))
        attributes = {"alpha": 0.25} if function == "LeakyRelu" else {}
        nodes.append(helper.make_node(function, [product], [y], **attributes))
        x = y
    made = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", sizes[0]])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", sizes[-1]])],
        tensors,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def oracle(model: Path, bundle: Path, layers: Layers, x: np.ndarray) -> np.ndarray:
    """In float64, with the codes and scales that the manifest says lie in the data file, and the model's biases."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    data, value = (bundle / "model.onnx.data").read_bytes(), x.astype(np.float64)
    tensors = {str(tensor["name"]): tensor for tensor in read_manifest(bundle).tensors}

    def part(name: str, region: str, kind: str) -> np.ndarray:
        offset, count = tensors[name]["regions"][region]  # type: ignore[index]
        return np.frombuffer(data[offset : offset + count], kind)

    for index, (form, function) in enumerate(layers):
        rows, columns = tensors[f"w{index}"]["shape"]  # type: ignore[misc]
        scales = part(f"w{index}", "scales", "<f4").astype(np.float64).reshape(rows, -1, 1)
        codes = part(f"w{index}", "values", "u1").astype(np.float64).reshape(rows, scales.shape[1], -1)
        value = value @ ((codes - 128) * scales).reshape(rows, -1)[:, :columns].T
        if form != "MatMul":
            value = value + constants[f"b{index}"]
        value = ACTIVATIONS[function](value)
    return value


def run(bundle: Path, x: np.ndarray, level: int | None = None) -> np.ndarray:
    """The bundle's graph by onnxruntime; at another accuracy level, where products are computed in float32."""
    model = onnx.load(bundle / "model.onnx")
    for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"):
        attribute.i = attribute.i if level is None else level
    return open_on_cpu(model.SerializeToString()).run(None, {"x": x})[0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(5, 70), min_size=2, max_size=4),
    forms=st.lists(st.sampled_from(FORMS), min_size=3, max_size=3),
    functions=st.lists(st.sampled_from(sorted(ACTIVATIONS)), min_size=3, max_size=3),
    opset=st.sampled_from([13, 17, 21]),
    external=st.booleans(),
)
def test_dense_layers_of_any_shape_compute_what_their_codes_say(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    forms: list[str],
    functions: list[str],
    opset: int,
    external: bool,
) -> None:
    folder = tmp_path_factory.mktemp("dense")
    layers = list(zip(forms, functions, strict=True))[: len(sizes) - 1]
    model = dense(folder / "m.onnx", sizes, layers, opset=opset, external=external)
    export(model, out=folder / "out", threads=1)
    x = np.random.default_rng(7).standard_normal((5, sizes[0])).astype(np.float32)
    expected = oracle(model, folder / "out", layers, x)
    scale = np.abs(expected).max() + 1e-6
    assert np.abs(run(folder / "out", x, 1) - expected).max() < 1e-4 * scale
    assert not find_problems(folder / "out")


def prepared(path: Path) -> PreparedTraced:
    door = find_door(str(path))
    assert door is not None
    traced = door.open(str(path), Options(), path.parent)
    return decide_traced(traced, target="arm64-cpu", folder=path.parent)


LAYERS: Layers = [("Gemm", "Relu"), ("MatMul and Add", "Sigmoid"), ("Gemm transposed", "Identity")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("model") / "m.onnx", [40, 64, 33, 5], LAYERS)


def test_from_plan_to_bench(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["plan", str(model), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {tensor["name"]: tensor["scheme"] for tensor in plan["tensors"]} == {
        **{f"w{i}": "rtn 8 bits, block 32" for i in range(3)},
        **dict.fromkeys(("b0", "b1")),  # b2 has so few numbers that it stays in the graph's file
    }
    assert main(["plan", str(model)]) == 0
    assert "onnx (tensors) for arm64-cpu, recipe int8, 4,934 parameters" in capsys.readouterr().out
    assert main(["export", str(model), "--out", str(out), "--check"]) == 0
    printed = capsys.readouterr()
    assert f"next: edgepress run {out} --inputs arrays.npz" in printed.err
    manifest = read_manifest(out)
    assert manifest.totals["bytes_before"] == 4 * 4934
    assert manifest.files["model.onnx.data"].size == plan["totals"]["data_file_bytes"]
    assert set(manifest.source) == {"m.onnx"}
    assert manifest.parity is not None
    assert float(str(manifest.parity["graph_difference"])) < 1e-5
    assert set(manifest.parity["outputs"]) == {"y2"}  # type: ignore[call-overload]
    assert {path.name for path in out.iterdir()} == {"manifest.json", "model.onnx", "model.onnx.data"}
    assert main(["verify", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    assert inspect(out)["operators"]["com.microsoft.MatMulNBits"] == 3  # type: ignore[index]
    (report,) = check(out, find_target("arm64-cpu"))
    assert report.full
    capsys.readouterr()
    assert main(["bench", str(out), "--repetitions", "3", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["run_seconds"]) == 3
    assert len(found["warmup_seconds"]) == 1
    assert found["after_runs"]["rss"] is None or found["after_runs"]["rss"] > 0
    assert main(["bench", str(out), "--repetitions", "2"]) == 0
    assert "p50" in capsys.readouterr().out


def test_a_graph_that_computes_something_else_fails_its_check(model: Path, tmp_path: Path) -> None:
    export(model, out=tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    next(node for node in graph.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"
    (tmp_path / "out" / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(CheckFailed, match=r"does not compute the same as .*m\.onnx with the same weights"):
        prepared(model).score(tmp_path / "out", silent)


def test_a_flipped_byte_is_found(model: Path, tmp_path: Path) -> None:
    export(model, out=tmp_path / "out")
    data = tmp_path / "out" / "model.onnx.data"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    assert any("model.onnx.data" in problem for problem in find_problems(tmp_path / "out"))


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "int4-plain"])
def test_other_weights(recipe: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "int4-plain.toml"
    path.write_text('[weights]\nmethod = "rtn"\nbits = 4\nsymmetric = false\n[[override]]\nmatch = "w2"\nbits = 32\n')
    export(model, out=tmp_path / "out", recipe=path if recipe == "int4-plain" else recipe, check=True)
    x = np.random.default_rng(1).standard_normal((3, 40)).astype(np.float32)
    truth = open_on_cpu(model).run(None, {"x": x})[0]
    error = np.abs(run(tmp_path / "out", x) - truth).max() / np.abs(truth).max()
    assert error < {"fp32": 1e-5, "fp16": 1e-2, "int4-plain": 0.3}[recipe]


def test_two_exports_have_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first, second = (export(model, out=tmp_path / name, threads=threads) for name, threads in (("a", 1), ("b", 3)))
    assert first == second


def test_both_kinds_of_subject_are_one(model: Path, tmp_path: Path) -> None:
    """What the protocol names, both have; mypy holds the types."""
    members = {name for one in (Subject, Writable) for name in vars(one) if not name.startswith("_")}
    subjects: list[Writable] = [
        prepared(model),
        decide("demo", target="arm64-cpu", recipe="int8"),
    ]
    for subject in subjects:
        assert members <= set(dir(subject))
        named = [weight.name for weight in subject.description.weights()]
        assert [tensor.weight.name for tensor in subject.plan.tensors] == named
        weight = subject.description.weights()[0]
        assert subject.source.part_rows(weight.parts[0], 0, 1).shape == (1, *weight.shape[1:])
        subject.write_files(tmp_path)
        graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
        assert {tensor.name for tensor in graph.initializer} >= {f"{weight.name}.scales"}


def product(*, matrix: np.ndarray | None = None, opset: int = 17, **attributes: float) -> onnx.ModelProto:
    weight = [] if matrix is None else [numpy_helper.from_array(matrix, "w")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    if matrix is None:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", **attributes)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph([node], "g", inputs, outputs, weight)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def with_training(model: onnx.ModelProto) -> onnx.ModelProto:
    model.training_info.add()
    return model


def with_node(op: str, domain: str) -> onnx.ModelProto:
    model = product(matrix=np.ones((4, 8), np.float32))
    model.graph.node[0].op_type, model.graph.node[0].domain = op, domain
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (product(matrix=np.full((4, 8), np.nan, np.float32)), "w holds NaN or infinite values"),
        (with_training(product(matrix=np.ones((4, 8), np.float32))), "has training information"),
        (with_node("MatMulNBits", "com.microsoft"), "is quantized already: node .* is MatMulNBits"),
        (with_node("ReluGrad", "com.microsoft"), "which neither ONNX nor onnxruntime defines"),
    ],
)
def test_what_cannot_be_taken_is_refused(made: onnx.ModelProto, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match=message):
        export(path, out=tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_infinity_that_becomes_a_whole_number_is_no_damage(tmp_path: Path) -> None:
    """LayoutLMv3's buckets: the logarithm of a distance of 0 is cast to a whole number, and not used."""
    logs = np.log(np.array([0, 1, 40, 300], np.float32), where=[False, True, True, True], out=np.full(4, -np.inf, "f"))
    constants = {"logs": logs, "eight": np.array([8], np.int64), "least": np.array([10], np.int64)}
    nodes = [
        helper.make_node("Cast", ["logs"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "eight"], ["more"]),
        helper.make_node("Max", ["more", "least"], ["bounded"]),
        helper.make_node("Cast", ["bounded"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "float"], ["y"]),
    ]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    export(tmp_path / "m.onnx", out=tmp_path / "out", recipe="fp32")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    (found,) = open_on_cpu(tmp_path / "out" / "model.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(found, x + np.array([10, 10, 11, 13]))  # log 40 is 3.7, log 300 5.7


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"recipe": "keep"},
            "keep keeps the codes of a language model .*, and this graph is of floats; take int8, int4",
        ),
        ({"context_length": 5}, "is no language model, for which --context has no effect; leave it out"),
        ({"recipe": "context_length = 5\n"}, "recipe mine has context_length = 5, and .* is no language model"),
        ({"recipe": '[calibration]\ntext = ["a.txt"]\n'}, r"mine has \[calibration\] text, .* by --calibration"),
    ],
)
def test_what_such_models_do_not_have_is_refused(
    asked: dict[str, str], message: str, model: Path, tmp_path: Path
) -> None:
    if "\n" in asked.get("recipe", ""):
        (tmp_path / "mine.toml").write_text(f"{asked['recipe']}[weights]\nbits = 8\n")
        asked = {"recipe": str(tmp_path / "mine.toml")}
    with pytest.raises(InputError, match=message):
        export(model, out=tmp_path / "out", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    assert all(entry.suffix == ".toml" for entry in tmp_path.iterdir())


def test_language_models_alone_take_prompts(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(model, out=tmp_path / "out")
    assert main(["bench", str(tmp_path / "out"), "--prompt-lengths", "4"]) == 2
    assert "is no language model, so there is nothing for --prompt-lengths" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "out"), "--prompt", "a"]) == 2
    assert "is for tensors, so there is nothing for --prompt; leave it out, and give arrays" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "out"), "--chat", "--prompt", "a"]) == 2
    assert "is for tensors and no language model; leave out --chat" in capsys.readouterr().err
    for words in (["--temperature", "0"], ["--seed", "0"], ["--speculate", "ngram"], ["--within-tokens", "1"]):
        assert main(["run", str(tmp_path / "out"), *words]) == 2
        assert f"is for tensors and no language model; leave out {words[0]}" in capsys.readouterr().err
    with pytest.raises(InputError, match="rows is 0"):
        bench_graph(tmp_path / "out", rows=0)
