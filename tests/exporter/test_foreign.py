"""Graphs of every kind, from file to bundle: what is stored, decoded here by hand, is what the bundle computes with."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_models import MODELS, Maker, feed_of, save
from onnx import helper, numpy_helper
from stored_weights import with_stored

from edgepress.bundle.manifest import find_problems
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.bundle.written.inspection import inspect
from edgepress.runtime import load
from edgepress.sessions import open_on_cpu

RECIPES = {
    "int4": "accuracy_level = 1\n[weights]\nbits = 4\nblock_size = 32\n",
    "int4-asymmetric": "accuracy_level = 1\n[weights]\nbits = 4\nblock_size = 16\nsymmetric = false\n",
    "int8": "accuracy_level = 1\n[weights]\nbits = 8\nblock_size = 32\n",
    "int2": "accuracy_level = 1\n[weights]\nbits = 2\nblock_size = 32\nsymmetric = false\n",
    "fp16": "[weights]\nbits = 16\n",
    "fp32": "[weights]\nbits = 32\n",
}
KINDS = {  # what is known of each model's weights
    "lstm": {"w": "recurrent", "r": "recurrent", "b": "bias"},
    "convolutions": {"first": "convolution", "depthwise": "convolution", "up": "convolution", "depthwise.b": "bias"},
    "products": {"g": "linear", "h": "linear", "left": "linear", "u": "linear", "batches": "linear", "c": "bias"},
    "tied": {"table": "embedding", "gain": "norm", "shift": "norm"},
    "branches": {"w.1": "linear", "w.2": "linear", "again": "linear"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    return {name: save(make(), folder / f"{name}.onnx") for name, make in MODELS.items()}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_computes_with_what_it_stores(name: str, recipe: str, files: dict[str, Path], tmp_path: Path) -> None:
    toml = tmp_path / f"{recipe}.toml"
    toml.write_text(RECIPES[recipe])
    export(files[name], out=tmp_path / "out", recipe=toml, threads=1)
    assert not find_problems(tmp_path / "out")
    model = load(tmp_path / "out", prepared=False, threads=1)
    feed = feed_of(onnx.load(files[name]))
    found, names = model.run(feed), [edge.name for edge in model.task.outputs]
    assert set(found) == set(names)
    if recipe in {"fp32", "fp16"} and name != "half":
        expected = open_on_cpu(files[name]).run(names, feed)
        bound = {"fp32": 1e-5, "fp16": 3e-3}[recipe]
    else:
        turned_right = "fp32" if recipe == "fp16" else recipe
        expected = open_on_cpu(with_stored(files[name], tmp_path / "out").SerializeToString()).run(names, feed)
        bound = 1e-4 if turned_right != "fp16" else 3e-3
    for one, value in zip(names, expected, strict=True):
        assert np.abs(found[one] - value).max() <= bound * max(1, np.abs(value).max()), one


@pytest.mark.parametrize("name", KINDS)
def test_what_weights_are_for_is_read_from_their_nodes(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    manifest = export(files[name], out=tmp_path / "out", recipe="int4", threads=1)
    kinds = {str(tensor["name"]): tensor["kind"] for tensor in manifest.tensors}
    assert kinds.items() >= KINDS[name].items()


def test_products_and_tables_compute_in_codes(files: dict[str, Path], tmp_path: Path) -> None:
    for name, operators in {
        "products": {"com.microsoft.MatMulNBits": 3},
        "tied": {"com.microsoft.MatMulNBits": 1, "com.microsoft.GatherBlockQuantized": 1},
        "branches": {"com.microsoft.MatMulNBits": 4},
        "old": {"com.microsoft.MatMulNBits": 1},
    }.items():
        export(files[name], out=tmp_path / name, recipe="int4", threads=1)
        found = inspect(tmp_path / name)["operators"]
        assert {op: found.get(op) for op in operators} == operators  # type: ignore[attr-defined]


def test_dynamic_integers_are_near(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("products", "branches", "old", "half"):
        export(files[name], out=tmp_path / name, recipe="int8-dynamic", check=True, threads=1)
        feed = feed_of(onnx.load(files[name]))
        model = load(tmp_path / name, prepared=False)
        names = [edge.name for edge in model.task.outputs]
        for one, value in zip(names, open_on_cpu(files[name]).run(names, feed), strict=True):
            assert np.abs(model.run(feed)[one] - value).max() < 0.05 * np.abs(value).max()


def test_weights_of_a_file_beside_are_streamed(tmp_path: Path) -> None:
    onnx.save(
        MODELS["products"](), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=99
    )
    one = export(tmp_path / "m.onnx", out=tmp_path / "out", recipe="int4")
    assert set(one.source) == {"m.onnx", "m.data"}
    other = export(save(MODELS["products"](), tmp_path / "n.onnx"), out=tmp_path / "other", recipe="int4")
    assert one.files == other.files


def test_an_override_decides_for_one_weight(files: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[weights]\nbits = 4\n[[override]]\nmatch = "r"\nbits = 32\n')
    forms = {t["name"]: t["form"] for t in export(files["lstm"], out=tmp_path / "out", recipe=recipe).tensors}
    assert forms == {"w": "folded", "r": "float", "b": "float"}
    recipe.write_text('[weights]\nbits = 4\n[[override]]\nmatch = "nothing"\nbits = 32\n')
    with pytest.raises(InputError, match="override 'nothing' matches no tensor"):
        export(files["lstm"], out=tmp_path / "other", recipe=recipe)
    assert not (tmp_path / "other").exists()


LOOKS = {  # methods that look at what goes into products
    "gptq": '[weights]\nbits = 8\nblock_size = 32\nmethod = "gptq"\n',
    "awq": 'before = ["awq"]\n[weights]\nbits = 8\nblock_size = 32\n',
    "budget": '[budget]\nerror = 0.01\ncandidates = ["4:32", "8:32"]\n[weights]\n',
}


@pytest.mark.parametrize(("name", "recipe"), [("products", "gptq"), ("products", "awq"), ("branches", "budget")])
def test_what_is_no_product_with_one_matrix_is_passed_by(
    name: str, recipe: str, files: dict[str, Path], tmp_path: Path
) -> None:
    """Batches of matrices, which have no one width of inputs, and an If, which reads a truth beside its weights."""
    (tmp_path / "mine.toml").write_text(LOOKS[recipe])
    (tmp_path / "samples").mkdir()
    feeds = [feed_of(onnx.load(files[name]), seed) for seed in range(9)]
    for number, feed in enumerate(feeds):
        np.savez(tmp_path / "samples" / f"{number}.npz", **feed)
    out, samples = tmp_path / "out", [tmp_path / "samples"]
    export(files[name], out=out, recipe=tmp_path / "mine.toml", calibration=samples, threads=1)
    model = load(out, prepared=False, threads=1)
    found, names = model.run(feeds[0]), [edge.name for edge in model.task.outputs]
    for output, expected in zip(names, open_on_cpu(files[name]).run(names, feeds[0]), strict=True):
        assert np.linalg.norm(found[output] - expected) < 0.2 * np.linalg.norm(expected)


def test_what_float16_cannot_hold_is_kept_in_float32(tmp_path: Path) -> None:
    model = MODELS["products"]()
    for tensor in model.graph.initializer:
        if tensor.name == "u":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e6), "u"))
    manifest = export(save(model, tmp_path / "m.onnx"), out=tmp_path / "out", recipe="fp16", check=True)
    stored = {t["name"]: (t["form"], t["reason"]) for t in manifest.tensors}
    assert stored["u"][0] == "float"
    assert "float16 ends at 65504" in str(stored["u"][1])
    assert stored["g"][0] == "half"


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
@pytest.mark.parametrize("weights", [True, False])
def test_a_file_whose_inputs_and_outputs_are_float16_becomes_float32(kind: int, weights: bool, tmp_path: Path) -> None:
    """As tools that convert files to float16 write them, with a constant in a node; bundles of it could not be run."""
    m = Maker()
    m.edge("x", ["batch", 24], kind)
    w = m.random.standard_normal((24, 32)).astype(np.float32)
    rounded = numpy_helper.to_array(helper.make_tensor("w", kind, w.shape, w.ravel())).astype(np.float32)
    m.node("Constant", [], "half", value=helper.make_tensor("half", kind, [1], [0.5]))
    if weights:
        m.node("MatMul", [m.node("Mul", ["x", "half"], "scaled"), "w"], "y")
    else:
        m.node("Cast", [m.node("Mul", ["x", "half"], "scaled")], "single", to=onnx.TensorProto.FLOAT)
        m.node("MatMul", ["single", "w"], "y")
        rounded = w
    m.given("y", ["batch", 32], kind if weights else onnx.TensorProto.FLOAT)
    model = m.model()
    stored = helper.make_tensor("w", kind, w.shape, w.ravel()) if weights else numpy_helper.from_array(w, "w")
    model.graph.initializer.append(stored)
    manifest = export(save(model, tmp_path / "m.onnx"), out=tmp_path / "out", recipe="fp32", check=True, threads=1)
    assert "it is in float16: the bundle takes, gives and computes float32, with the same weights" in manifest.notes
    assert set(manifest.source) == {"m.onnx"}
    opened = load(tmp_path / "out", prepared=False, threads=1)
    assert [edge.type for edge in (*opened.task.inputs, *opened.task.outputs)] == ["float32", "float32"]
    x = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    np.testing.assert_allclose(
        opened.run({"x": x})["y"], x.astype(float) / 2 @ rounded.astype(float), rtol=0, atol=1e-4
    )


def test_a_check_that_compares_no_number_is_none(tmp_path: Path) -> None:
    m = Maker()
    m.edge("x", ["batch", 24])
    m.node("MatMul", [m.node("Log", ["x"], "log"), m.weight("w", 24, 32)], "y")
    m.given("y", ["batch", 32])
    file, out = save(m.model(), tmp_path / "m.onnx"), tmp_path / "out"
    with pytest.raises(
        InputError, match=r"m.onnx gives nothing but NaN and infinities as y, for 3 inputs.*--calibratio"
    ):
        export(file, out=out, recipe="int8", check=True, threads=1)
    assert not out.exists()
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).uniform(0.5, 2, (9, 24)).astype(np.float32))
    parity = export(file, out=out, recipe="int8", check=True, threads=1, calibration=[tmp_path / "x.npz"]).parity
    assert parity is not None
    assert parity["feeds"] == 4  # the last is the file


def test_an_output_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    model = MODELS["half"]()
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(InputError, match=r"m.onnx gives y 2 times; leave all but one of these outputs out"):
        export(save(model, tmp_path / "m.onnx"), out=tmp_path / "out", recipe="int8")


def test_a_graph_in_float16_is_refused_with_the_reason(files: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[weights]\nbits = 16\n[activations]\ntype = "float16"\n')
    message = r"mine .*on ARM CPUs these take fewer instructions in 8 bits than in float16.*int8-dynamic or int8-static"
    with pytest.raises(InputError, match=message):
        export(files["convolutions"], out=tmp_path / "out", recipe=recipe)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "message"), [(None, "how many axes x has is not known"), ([2, 0], "x has an axis of size 0")]
)
def test_edges_of_no_size_or_rank_are_refused(shape: list[int] | None, message: str, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    given = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)]
    graph = onnx.helper.make_graph(nodes, "g", [value], given)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(InputError, match=message):
        export(save(model, tmp_path / "m.onnx"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_prepared_form_computes_the_same(files: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    for name in ("products", "branches", "convolutions"):
        export(files[name], out=tmp_path / name, recipe="int4", threads=1)
        feed = feed_of(onnx.load(files[name]))
        plain, mapped = (load(tmp_path / name, prepared=prepared, threads=1).run(feed) for prepared in (False, True))
        assert all(np.array_equal(plain[key], mapped[key]) for key in plain)
    assert any((tmp_path / "cache").rglob("prepared.json"))
