"""Any graph in integers throughout, from real inputs to a bundle: codes, accuracy and what is refused."""

import importlib.util
import os
import wave
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import MODELS, feed_of, save
from residual_network import IMAGES, residual_network

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.source.stored import read_header
from edgepress.runtime import load
from edgepress.sessions import open_on_cpu, session_options

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared" / "data"))
RESNET = DATA / "models/resnet_cifar10/resnet20.safetensors"
SILERO = DATA / "models/silero_vad/silero_vad_16k_op15.onnx"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    np.savez(folder / "images.npz", image=IMAGES[:, None])
    return save(residual_network(integer=False), folder / "m.onnx")


@pytest.mark.parametrize(("recipe", "decibels"), [("int8-static", 35), ("int8-static-a16", 38)])
def test_outputs_are_near_and_codes_are_the_rounded_weights(
    recipe: str, decibels: float, network: Path, tmp_path: Path
) -> None:
    samples = [network.parent / "images.npz"]
    manifest = export(network, out=tmp_path / "out", recipe=recipe, calibration=samples, check=True)
    assert not find_problems(tmp_path / "out")
    data = (tmp_path / "out" / "model.onnx.data").read_bytes()
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(network).graph.initializer}
    for tensor in manifest.tensors:
        assert tensor["form"] == "signed"
        values, scales = (tensor["regions"][part] for part in ("values", "scales"))  # type: ignore[index]
        weight = weights[str(tensor["name"])]
        codes = np.frombuffer(data, np.int8, values[1], values[0]).reshape(len(weight), -1)
        steps = np.frombuffer(data, "<f4", scales[1] // 4, scales[0])
        error = np.abs(codes * steps[:, None] - weight.reshape(len(weight), -1))
        assert (error <= steps[:, None] * 0.5001).all()
        assert np.abs(codes).max() == 127
    model = load(tmp_path / "out", prepared=False)
    found, truth = model.run({"image": IMAGES})["logits"], open_on_cpu(network).run(None, {"image": IMAGES})[0]
    assert 10 * np.log10(np.square(truth).sum() / np.square(found - truth).sum()) > decibels


def test_a_weight_may_stay_float_or_have_four_bits(network: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "minmax"\n'
        '[[override]]\nmatch = "first_w"\nbits = 32\n[[override]]\nmatch = "third_w"\nbits = 4\n'
    )
    samples = [network.parent / "images.npz"]
    manifest = export(network, out=tmp_path / "out", recipe=recipe, calibration=samples)
    forms = {str(t["name"]): (t["form"], t["bytes_after"]) for t in manifest.tensors}
    assert forms["first_w"] == ("float", 16 * 27 * 4)
    assert forms["third_w"] == ("signed", 16 * 144 // 2 + 16 * 4)
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    (convolution,) = (node for node in graph.node if "first_w" in node.input)
    assert convolution.op_type == "Conv"
    found = load(tmp_path / "out", prepared=False).run({"image": IMAGES})["logits"]
    truth = open_on_cpu(network).run(None, {"image": IMAGES})[0]
    assert np.abs(found - truth).max() < 0.4 * np.abs(truth).max()


@pytest.mark.parametrize("name", ["lstm", "gru", "convolutions", "products", "tied"])
def test_graphs_of_every_kind(name: str, tmp_path: Path) -> None:
    file = save(MODELS[name](), tmp_path / "m.onnx")
    feeds = [feed_of(onnx.load(file), seed) for seed in range(8)]
    np.savez(tmp_path / "samples.npz", **{key: np.stack([feed[key] for feed in feeds]) for key in feeds[0]})
    export(file, out=tmp_path / "out", recipe="int8-static", calibration=[tmp_path / "samples.npz"], check=True)
    model = load(tmp_path / "out", prepared=False)
    names = [edge.name for edge in model.task.outputs]
    for one, truth in zip(names, open_on_cpu(file).run(names, feeds[0]), strict=True):
        assert np.abs(model.run(feeds[0])[one] - truth).max() < 0.1 * np.abs(truth).max(), one


def test_samples_are_needed_and_looked_at(network: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recipe int8-static finds the ranges .* on real inputs, and there are none"):
        export(network, out=tmp_path / "out", recipe="int8-static")
    np.savez(tmp_path / "wrong.npz", image=IMAGES.astype(np.float64))
    np.savez(tmp_path / "other.npz", picture=IMAGES)
    for file in ("wrong.npz", "other.npz", "absent.npz"):
        with pytest.raises(InputError, match=file.removesuffix(".npz")):
            export(network, out=tmp_path / "out", recipe="int8-static", calibration=[tmp_path / file])
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not RESNET.is_file(), reason=f"{RESNET} is not here; set EDGEPRESS_DATA")
def test_resnet_keeps_its_accuracy(tmp_path: Path) -> None:
    """250 of CIFAR-10's test images, of which four are 1.6 %; docs/integers.md has all 2,000."""
    spec = importlib.util.spec_from_file_location("resnet", ROOT / "benchmarks" / "resnet.py")
    assert spec is not None
    assert spec.loader is not None
    resnet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(resnet)
    assert read_header(RESNET)
    resnet.build_resnet(RESNET, tmp_path / "m.onnx", batch=50)
    test, calibration = (np.load(DATA / f"vision/cifar10_{name}.npz") for name in ("test2000", "calibration1000"))
    np.savez(tmp_path / "images.npz", images=resnet.normalize(calibration["images"][:100]).reshape(2, 50, 3, 32, 32))
    images, labels = resnet.normalize(test["images"][::8]), test["labels"][::8]

    def top1(recipe: str) -> float:
        out = tmp_path / recipe
        export(tmp_path / "m.onnx", out=out, recipe=recipe, calibration=[tmp_path / "images.npz"])
        model = load(out, prepared=False, threads=1)
        logits = [model.run({"images": images[at : at + 50]})["logits"] for at in range(0, len(images), 50)]
        return float((np.concatenate(logits).argmax(1) == labels).mean())

    truth = top1("fp32")
    assert truth > 0.9
    assert top1("int8-static") > truth - 0.013
    assert top1("int4") > truth - 0.033


@pytest.mark.skipif(not SILERO.is_file(), reason=f"{SILERO} is not here; set EDGEPRESS_DATA")
def test_silero_decides_the_same_in_eight_bits(tmp_path: Path) -> None:
    """Blocks of 16, over the first 20 s of its recording: nothing is kept float but biases."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[weights]\nbits = 8\nblock_size = 16\n")
    export(SILERO, out=tmp_path / "out", recipe=recipe)
    kept = [str(t["name"]) for t in read_manifest(tmp_path / "out").tensors if t["scheme"] is None]
    assert kept
    assert all("bias" in name for name in kept)
    with wave.open(str(SILERO.parent / "test.wav")) as file:
        sound = np.frombuffer(file.readframes(20 * 16_000), "<i2").astype(np.float32) / 32768
    bundle, session = load(tmp_path / "out", prepared=False, threads=1), open_on_cpu(SILERO, session_options(1))
    chances: list[list[float]] = []
    for run in (bundle.run, lambda feed: dict(zip(("output", "stateN"), session.run(None, feed), strict=True))):
        state, before, found = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
        for at in range(0, len(sound) - 511, 512):
            frame = np.concatenate([before, sound[at : at + 512]])[None]
            outputs = run({"input": frame, "state": state, "sr": np.array(16_000)})
            state, before = outputs["stateN"], sound[at + 448 : at + 512]
            found.append(float(outputs["output"][0, 0]))
        chances.append(found)
    ours, theirs = np.array(chances)
    assert ((ours > 0.5) == (theirs > 0.5)).all()
    assert 0 < np.abs(ours - theirs).max() < 0.1
