"""Zeros in models that are no language models: as many as asked, where they are asked, and what the download gains."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from learned_graphs import convolutions, encoder, images, texts
from onnx import numpy_helper

from edgepress.bundle.manifest import Manifest
from edgepress.exporter import export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.interpreter.operators.convolutions import patches
from edgepress.sessions import open_on_cpu

Feeds = list[dict[str, np.ndarray]]


def exported(model: Path, recipe: str, folder: Path, feeds: Feeds) -> tuple[Path, Manifest]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(recipe)
    np.savez(folder / "x.npz", **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    out = folder / "out"
    return out, export(
        model, recipe=folder / "recipe.toml", out=out, calibration=[folder / "x.npz"], check=True, threads=1
    )


def codes(bundle: Path, manifest: Manifest, name: str) -> np.ndarray:
    """Codes of 8 bits without their padding, (rows, columns), read from the data file."""
    (tensor,) = (one for one in manifest.tensors if one["name"] == name)
    regions: Any = tensor["regions"]
    offset, size = regions["values"]
    rows, columns = tensor["shape"]  # type: ignore[misc]
    whole = np.frombuffer((bundle / "model.onnx.data").read_bytes()[offset : offset + size], np.uint8)
    return whole.reshape(rows, -1)[:, :columns].astype(int) - 128


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_are_where_they_are_asked(method: str, pattern: str, tmp_path: Path) -> None:
    """Products and convolutions by what goes into them; a convolution in groups by the size of its weights."""
    recipe = f'[weights]\nmethod = "{method}"\nbits = 8\nblock_size = 16\n[options.{method}]\npattern = "{pattern}"\n'
    for model, feeds, names in (
        (encoder(tmp_path / "e.onnx"), texts(4), ("up", "down")),
        (convolutions(tmp_path / "c.onnx"), images(4), ("stem.w", "deep.w", "project.w")),
    ):
        out, manifest = exported(model, recipe, tmp_path / model.stem, feeds)
        for name in names:
            found = codes(out, manifest, name)
            whole = found[:, : found.shape[1] // 4 * 4].reshape(len(found), -1, 4)
            if pattern == "2:4":
                assert (np.count_nonzero(whole, axis=2) <= 2).all(), name
            assert np.mean(found == 0) >= 0.5 - 2 / found.shape[1], name
            assert np.mean(found == 0) < 0.65, name
        sparsity: Any = manifest.sparsity
        assert 0.45 < sparsity["zeros"] < 0.65
        assert sparsity["deflated_bytes"] < sparsity["dense_deflated_bytes"]
        assert sparsity["data_bytes"] == (out / "model.onnx.data").stat().st_size
        assert "no kernel here skips them" in format_inspection(inspect(out))


def test_patches_are_what_a_convolution_multiplies_by() -> None:
    random = np.random.default_rng(0)
    for attributes, shape, size in (
        ({"pads": [1, 0, 2, 1], "strides": [2, 1]}, (5, 3, 3, 2), (2, 3, 7, 6)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (5, 3, 3, 3), (2, 3, 7, 6)),
        ({"dilations": [2], "pads": [1, 1]}, (4, 3, 3), (2, 3, 9)),
    ):
        weight = random.standard_normal(shape).astype(np.float32)
        x = random.standard_normal(size).astype(np.float32)
        node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
        edges = [
            onnx.helper.make_tensor_value_info(n, 1, None if n == "y" else s) for n, s in (("x", size), ("y", None))
        ]
        graph = onnx.helper.make_graph([node], "c", edges[:1], edges[1:], [numpy_helper.from_array(weight, "w")])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        expected = open_on_cpu(model.SerializeToString()).run(None, {"x": x})[0]
        rows = patches(Network(model).steps[0].call, torch.from_numpy(x), torch.from_numpy(weight))
        assert rows is not None
        found = (rows.numpy() @ weight.reshape(len(weight), -1).T).reshape(len(x), -1, len(weight))
        np.testing.assert_allclose(np.moveaxis(found, 2, 1).reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_gptq_rounds_convolutions_by_what_they_see(tmp_path: Path) -> None:
    model, feeds = convolutions(tmp_path / "m.onnx"), images(12)
    truth = [open_on_cpu(model).run(None, feed)[0] for feed in feeds[8:]]
    errors = []
    for method in ("rtn", "gptq"):
        recipe = f'[weights]\nmethod = "{method}"\nbits = 4\nblock_size = 32\n'
        out, _ = exported(model, recipe, tmp_path / method, feeds[:8])
        found = [open_on_cpu(out / "model.onnx").run(None, feed)[0] for feed in feeds[8:]]
        errors.append(sum(float(np.square(a - b).sum()) for a, b in zip(found, truth, strict=True)))
    assert errors[1] < 0.85 * errors[0]
