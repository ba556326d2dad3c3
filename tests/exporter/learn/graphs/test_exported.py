"""Recipes with methods, by the door that users take: what plan accepts is exported, checked and runs."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from learned_graphs import convolutions, encoder, images, texts

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
