"""Recipes with methods, by the door that users take: what plan accepts is exported, checked and runs."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from learned_graphs import convolutions, encoder, images, texts
from onnx import helper, numpy_helper

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.sessions import open_on_cpu

STATIC = """before = ["equalize"]
after = ["bias_correction"]
[weights]
method = "adaround"
bits = 8
block_size = "channel"
[embedding]
block_size = 32
[activations]
type = "uint8"
ranges = "minmax"
[options.adaround]
steps = 5
"""
BLOCKS = """after = ["bias_correction"]
[weights]
method = "{method}"
bits = 4
block_size = 16
[options.autoround]
steps = 10
"""


def samples(path: Path, feeds: list[dict[str, np.ndarray]]) -> Path:
    """An array for each input, (feeds, …)."""
    np.savez(path, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    return path


def exported(model: Path, recipe: str, folder: Path, feeds: list[dict[str, np.ndarray]]) -> Path:
    (folder / "recipe.toml").write_text(recipe)
    out = folder / "out"
    export(model, recipe=folder / "recipe.toml", out=out, calibration=[samples(folder / "x.npz", feeds)], check=True)
    return out


def test_integers_with_methods(tmp_path: Path) -> None:
    feeds = images(4)
    out = exported(convolutions(tmp_path / "model.onnx"), STATIC, tmp_path, feeds)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["recipe"]["before"] == ["equalize"]
    assert any("bias_correction: of 4 layers" in note for note in manifest["notes"])
    assert load(out).run(feeds[0])["logits"].shape == (4, 5)


@pytest.mark.parametrize("method", ["gptq", "autoround"])
def test_blocks_with_methods(method: str, tmp_path: Path) -> None:
    """The check holds the bundle's graph against the float graph with the weights that are stored."""
    feeds, model = texts(6), encoder(tmp_path / "model.onnx")
    truth = [open_on_cpu(model).run(None, feed)[0] for feed in feeds[4:]]
    errors = []
    for name in ("rtn", method):
        (tmp_path / name).mkdir()
        bundle = load(exported(model, BLOCKS.format(method=name), tmp_path / name, feeds[:4]))
        found = [bundle.run(feed)["y"] for feed in feeds[4:]]
        errors.append(sum(float(np.square(a - b).sum()) for a, b in zip(found, truth, strict=True)))
    assert errors[1] < 0.8 * errors[0]


def recurrent(path: Path) -> Path:
    """An LSTM, a GRU and a product, none of which has a bias: the third input of the first two is a matrix."""
    generator, size = np.random.default_rng(2), 16
    shapes = {"w": (1, 64, 8), "r": (1, 64, size), "v": (1, 48, size), "s": (1, 48, size), "head": (size, 3)}
    constants = [
        numpy_helper.from_array(generator.normal(scale=0.4, size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["a", "", ""], hidden_size=size),
        helper.make_node("Squeeze", ["a", "axis"], ["b"]),
        helper.make_node("GRU", ["b", "v", "s"], ["c"], hidden_size=size),
        helper.make_node("Squeeze", ["c", "axis"], ["d"]),
        helper.make_node("MatMul", ["d", "head"], ["y"]),
    ]
    edges = [helper.make_tensor_value_info(name, 1, ["time", 1, width]) for name, width in (("x", 8), ("y", 3))]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    graph = helper.make_graph(nodes, "recurrent", edges[:1], edges[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_matrices_of_recurrent_layers_are_no_biases(tmp_path: Path) -> None:
    """They learn as the others do, and what corrects biases finds none."""
    generator, model = np.random.default_rng(3), recurrent(tmp_path / "model.onnx")
    feeds = [{"x": generator.normal(size=(6, 1, 8)).astype(np.float32)} for _ in range(12)]
    rounded = '[weights]\nmethod = "{method}"\nbits = 4\nblock_size = 16\n[options.autoround]\nsteps = 20\n'
    recipes = {"plain": rounded.format(method="rtn"), "corrected": BLOCKS.format(method="rtn")}
    recipes["learned"] = rounded.format(method="autoround")
    found = {}
    for name, recipe in recipes.items():
        (tmp_path / name).mkdir()
        bundle = load(exported(model, recipe, tmp_path / name, feeds[:8]))
        found[name] = np.concatenate([bundle.run(feed)["y"] for feed in feeds[8:]])
    truth = np.concatenate([open_on_cpu(model).run(None, feed)[0] for feed in feeds[8:]])
    np.testing.assert_array_equal(found["corrected"], found["plain"])
    assert np.square(found["learned"] - truth).sum() < 0.8 * np.square(found["plain"] - truth).sum()


def test_awq_ships_the_products_that_it_adds(tmp_path: Path) -> None:
    feeds, model = texts(6), encoder(tmp_path / "model.onnx")
    recipe = f'before = ["awq"]\n{BLOCKS.format(method="gptq")}[options.awq]\nmost = 1.0\n'
    out = exported(model, recipe, tmp_path, feeds[:4])
    assert "Mul" in [node.op_type for node in onnx.load(out / "model.onnx").graph.node]
    truth, found = open_on_cpu(model).run(None, feeds[5])[0], load(out).run(feeds[5])["y"]
    assert np.square(found - truth).sum() < 0.02 * np.square(truth).sum()


def test_methods_that_look_need_something_to_see(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(BLOCKS.format(method="gptq"))
    model = encoder(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="has gptq, bias_correction, which must see real inputs, and there are none"):
        export(model, recipe=tmp_path / "recipe.toml", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_presets_of_language_models_are_what_graphs_have_of_them(tmp_path: Path) -> None:
    """What trains a whole language model is left out with a reason, and products learn in its place."""
    feeds, model = texts(8), encoder(tmp_path / "model.onnx")
    given, truth = samples(tmp_path / "x.npz", feeds[:6]), [open_on_cpu(model).run(None, feed)[0] for feed in feeds[6:]]

    def error(bundle: Path) -> float:
        found = [load(bundle).run(feed)["y"] for feed in feeds[6:]]
        return sum(float(np.square(a - b).sum()) for a, b in zip(found, truth, strict=True))

    export(model, recipe="int4-128", out=tmp_path / "nearest")
    export(model, recipe="int4-fast", out=tmp_path / "learned", calibration=[given], threads=1)
    manifest = json.loads((tmp_path / "learned" / "manifest.json").read_text())
    assert manifest["decisions"]["left_out"].keys() == {"distill"}
    assert any(note.startswith("autoround: 2 layers") for note in manifest["notes"])
    assert error(tmp_path / "learned") < 0.8 * error(tmp_path / "nearest")


@pytest.mark.parametrize("preset", ["int4-best", "int4-channel"])
def test_presets_of_language_models_are_planned_for_graphs(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = samples(tmp_path / "x.npz", texts(12))
    model = encoder(tmp_path / "model.onnx")
    assert main(["plan", str(model), "--recipe", preset, "--calibration", str(given), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    by_name = {tensor["name"]: tensor for tensor in planned["tensors"]}
    assert all(by_name[name]["scheme"].startswith("autoround ") for name in ("up", "down"))
    assert any("distill is left out" in note for note in planned["notes"]) == (preset == "int4-best")


def test_what_would_train_too_many_weights_stays_as_it_was_rounded(tmp_path: Path) -> None:
    limited = BLOCKS.format(method="autoround") + "most_weights = 2000\n"
    out = exported(encoder(tmp_path / "model.onnx"), limited, tmp_path, texts(4))
    notes = json.loads((out / "manifest.json").read_text())["notes"]
    assert "autoround: it would train 2,304 weights, and most_weights is 2,000; they stay as gptq rounded them" in notes


def test_a_graph_of_floats_has_no_codes_to_keep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep keeps the codes of a language model that is quantized already"):
        export(encoder(tmp_path / "model.onnx"), recipe="keep", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
