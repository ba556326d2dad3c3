"""What each thing that a bundle rounds costs, against bundles that keep it in float, run by onnxruntime."""

import json
from collections.abc import Sequence
from pathlib import Path

import encoder_decoders
import numpy as np
import onnx
import pytest
from learned_graphs import convolutions, encoder, images, texts

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.learn.graphs.loss_by_part import format_loss_by_part, measure_loss_by_part
from edgepress.sessions import open_on_cpu

Feeds = Sequence[dict[str, np.ndarray]]
BOTH = '[weights]\nbits = 8\nblock_size = 16\n[[override]]\nmatch = "up"\nbits = 2\nblock_size = 32\n'
ONE = '[weights]\nbits = 8\nblock_size = 16\n[[override]]\nmatch = "up"\nbits = 32\n'
INTEGERS = '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "minmax"\n'


def exported(model: Path, recipe: str, folder: Path, feeds: Feeds) -> tuple[Path, Path]:
    """The bundle, and the file of its feeds."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(recipe)
    np.savez(folder / "x.npz", **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    export(model, recipe=folder / "recipe.toml", out=folder / "out", calibration=[folder / "x.npz"], threads=1)
    return folder / "out", folder / "x.npz"


def error(bundle: Path, model: Path, feeds: Feeds, *, in_float: bool) -> float:
    """Σ (y − ŷ)² / Σ y² of what a bundle gives, products' inputs not rounded where it is to be ``in_float``."""
    graph = onnx.load(bundle / "model.onnx")
    if in_float:
        compute_in_float(graph, 1)
    ours, theirs = open_on_cpu(graph.SerializeToString()), open_on_cpu(model)
    noise = power = 0.0
    for feed in feeds:
        found, right = (session.run(None, dict(feed))[0].astype(np.float64) for session in (ours, theirs))
        noise, power = noise + float(np.square(found - right).sum()), power + float(np.square(right).sum())
    return noise / power


def test_a_weight_saves_what_a_bundle_with_it_in_float_does(tmp_path: Path) -> None:
    model, feeds = encoder(tmp_path / "model.onnx"), texts(6)
    bundle, data = exported(model, BOTH, tmp_path / "both", feeds)
    without, _ = exported(model, ONE, tmp_path / "one", feeds)
    found = measure_loss_by_part(bundle, str(model), data=[data], samples=6, threads=1)
    assert (found.samples, found.made_up, found.weights_alone) == (6, False, True)
    assert [part.name for part in found.parts] == ["up", "down"]
    assert found.parts[0].stored_as == "rtn 2 bits, block 32"
    assert found.parts[0].bytes == 48 * 32 // 4 + 4 * 48  # codes of 2 bits, a float32 scale for each row of 32
    assert len(found.parts[0].nodes) == 1
    lost = error(bundle, model, feeds, in_float=True)
    assert found.loss == pytest.approx(lost, rel=1e-3)
    saved = lost - error(without, model, feeds, in_float=True)
    assert found.parts[0].saved == pytest.approx(saved, rel=1e-3)
    lines = format_loss_by_part(found).splitlines()
    assert lines[2].startswith("up")
    assert lines[-1].endswith("of the outputs' squares, on 6 samples")


def test_values_and_weights_of_a_graph_in_integers(tmp_path: Path) -> None:
    """Everything rounded at once loses what the bundle loses, but for the rounding of biases."""
    model, feeds = convolutions(tmp_path / "model.onnx"), images(4)
    bundle, data = exported(model, INTEGERS, tmp_path / "integers", feeds)
    found = measure_loss_by_part(bundle, str(model), data=[data], samples=4, threads=1)
    assert not found.weights_alone
    assert found.loss == pytest.approx(error(bundle, model, feeds, in_float=False), rel=0.05)
    names = {part.name for part in found.parts}
    assert {"stem.w", "deep.w", "project.w", "head.w", "image"} <= names
    assert {part.bytes > 0 for part in found.parts if part.name.endswith(".w")} == {True}
    assert all(part.nodes for part in found.parts)
    assert found.parts[0].saved > 0


def test_made_up_inputs_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = encoder(tmp_path / "model.onnx")
    bundle, _ = exported(model, BOTH, tmp_path / "both", texts(2))
    assert main(["blame", str(bundle), "--model", str(model), "--samples", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["made_up"]) == (3, True)
    assert main(["blame", str(bundle), "--model", str(model), "--samples", "2"]) == 0
    assert capsys.readouterr().out.strip().endswith("on 2 samples that are made up: give real ones by --data")


def test_what_cannot_be_blamed_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, other = encoder(tmp_path / "model.onnx"), tmp_path / "other"
    other.mkdir()
    another = convolutions(other / "model.onnx")
    bundle, _ = exported(model, BOTH, tmp_path / "both", texts(2))
    assert main(["blame", str(bundle), "--model", str(model), "--tokens", "4"]) == 2
    assert "is for tensors, so there is nothing for --tokens" in capsys.readouterr().err
    with pytest.raises(InputError, match="was not made from this model"):
        measure_loss_by_part(bundle, str(another))
    equal = '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "minmax"\n'
    (tmp_path / "recipe").mkdir()
    changed, _ = exported(another, f'before = ["equalize"]\n{equal}', tmp_path / "equal", images(4))
    with pytest.raises(InputError, match="float weights that equalize made"):
        measure_loss_by_part(changed, str(another))


def test_an_encoder_decoder_is_not_called_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = encoder_decoders.save("t5", tmp_path / "checkpoint")
    export(checkpoint, out=tmp_path / "bundle", recipe="int8")
    assert main(["blame", str(tmp_path / "bundle"), "--model", str(checkpoint)]) == 2
    said = capsys.readouterr().err
    assert "blame takes bundles of one graph" in said
    assert "Traceback" not in said
