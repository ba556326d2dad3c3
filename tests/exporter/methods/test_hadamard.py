"""Rotations leave the logits as they are, in torch and in the graph, and refuse models that they would change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import oracles_decoder
import pytest
from layer_tasks import TOKENS, TinyModel, layer_task, logits, tiny_model
from tiny_models import METHOD_VARIANTS, REPRESENTATIVES, TEXT, VARIANTS, save

from edgepress.errors import InputError
from edgepress.exporter.bundle.files import write_tables
from edgepress.exporter.export import export
from edgepress.exporter.graph.models.decoder import build_decoder
from edgepress.exporter.graph.primitives import LOGITS_START
from edgepress.exporter.methods.kinds import load_method
from edgepress.exporter.methods.transform.hadamard import METHOD
from edgepress.exporter.model.description import Block
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.recipe.recipe import Recipe, Storage
from edgepress.runtime import load

FLOAT = Recipe("test", Storage(), Storage(), Storage())


def rotated(name: str, directory: Path) -> TinyModel:
    model = tiny_model(name)
    recipe = replace(FLOAT, options={"hadamard": {"seed": 5}})
    found = TinyModel(METHOD.describe(model.decoder, recipe), dict(model.weights))
    for index in range(len(model.decoder.layers)):
        task = layer_task(found, directory, Storage(), index)
        METHOD.fold(task, {"seed": 5})
        found.weights.update(task.weights)
    return found


@pytest.mark.parametrize("name", sorted({*METHOD_VARIANTS, *REPRESENTATIVES}))
def test_rotation_changes_every_projection_and_no_logit(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    if any(block.post_norm or block.stream_norm for block in every(Block, model.decoder.layers)):
        with pytest.raises(InputError, match="hadamard cannot rotate"):
            METHOD.check(model.decoder, {}, METHOD.options)
        return
    turned = rotated(name, tmp_path)
    for layer in model.decoder.layers:
        for block in layer.blocks:
            for linear in (*block.mixer.input_projections, *block.mixer.output_projections):
                before, after = (weights[linear.weight.name] for weights in (model.weights, turned.weights))
                assert float((after - before).abs().mean()) > 0.1 * float(before.abs().mean())
            assert block.norm is not None
            assert bool((turned.weights[block.norm.weight.name] == 1).all())
    before, after = logits(model.decoder, model.weights), logits(turned.decoder, turned.weights)
    assert float((after - before).abs().max()) <= 2e-6 * float(before.abs().max())


@pytest.mark.parametrize("name", ["llama-biases-head_dim", "granite", "gpt2", "phi", "qwen3", "phi3-longrope-partial"])
def test_the_graph_computes_it_too(name: str, tmp_path: Path) -> None:
    turned = rotated(name, tmp_path)
    plan = make_plan(turned.decoder, FLOAT, lambda _: 4)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(bytes(plan.data_bytes))
    with data.open("r+b") as file:
        for tensor in plan.tensors:
            file.seek(tensor.regions["data"].offset)
            file.write(turned.weights[tensor.weight.name].contiguous().numpy().tobytes())
    write_tables(data, plan, turned.decoder)
    graph = build_decoder(turned.decoder, plan, data_file=data.name, version="0")
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    options = onnxruntime.SessionOptions()
    start = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(1, np.int64))
    options.add_initializer(LOGITS_START, start)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    batch = TOKENS[:2].numpy()
    feeds = {"input_ids": batch, "attention_mask": np.ones_like(batch)}
    for cache in session.get_inputs()[2:]:
        feeds[cache.name] = np.zeros((2, cache.shape[1], 0, cache.shape[3]), np.float32)
    found = session.run(["logits"], feeds)[0]
    expected = logits(tiny_model(name).decoder, tiny_model(name).weights, TOKENS[:2]).numpy()
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def test_the_description_alone_says_what_is_rotated(tmp_path: Path) -> None:
    """The float64 interpreter, with A ⊗ B written out, on the folded weights."""
    turned = rotated("granite", tmp_path)
    names = {part.tensor: weight for weight in turned.decoder.weights() for part in weight.parts}

    def read(tensor: str) -> np.ndarray:
        weight = names[tensor]
        whole, row = turned.weights[weight.name].numpy(), 0
        for part in weight.parts:
            if part.tensor == tensor:
                return whole[row : row + part.stop - part.start]
            row += part.stop - part.start
        raise KeyError(tensor)

    found = oracles_decoder.forward(turned.decoder, read, TOKENS[0].numpy())
    expected = logits(tiny_model("granite").decoder, tiny_model("granite").weights)[0].numpy()
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


def test_a_bundle_with_transforms_and_a_repair_computes_what_it_stores(tmp_path: Path) -> None:
    """``--check`` holds onnxruntime against the description with the stored weights, and the runtime runs it."""
    save("llama-tied-llama3", tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT * 3)
    (tmp_path / "recipe.toml").write_text(
        'before = ["hadamard", "awq"]\nafter = ["bias_correction"]\n'
        "[weights]\nbits = 4\n[calibration]\ntext = 'text.txt'\ntokens = 128\nlength = 32\n[options.awq]\ngrid = 4\n"
    )
    out = tmp_path / "bundle"
    manifest = export(tmp_path / "model", out=out, recipe=tmp_path / "recipe.toml", check=True)
    assert manifest.parity is not None
    assert manifest.parity["graph_difference"] < 1e-5  # type: ignore[operator] - JSON
    generation = load(out).generate("To be", max_tokens=3)
    assert len(list(generation)) > 0


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "gemma4_text", "olmo2", "opt-350m", "lfm3"])
def test_norms_after_the_branches_are_refused_by_name(name: str) -> None:
    what = "the residual stream itself" if name == "opt-350m" else "what attention and MLP add"
    with pytest.raises(InputError, match=f"hadamard cannot rotate {VARIANTS[name].model_type}: it normalizes {what}"):
        METHOD.check(tiny_model(name).decoder, {}, METHOD.options)


def test_twice_is_refused() -> None:
    decoder = METHOD.describe(tiny_model("llama").decoder, FLOAT)
    with pytest.raises(InputError, match="before names hadamard twice"):
        METHOD.describe(decoder, FLOAT)


def test_an_outlier_is_spread_over_its_row(tmp_path: Path) -> None:
    model = tiny_model("llama")
    name = model.decoder.layers[0].mixer(Attention).qkv.weight.name
    weight = model.weights[name].clone()
    weight[:, 7] *= 30
    task = layer_task(TinyModel(model.decoder, model.weights | {name: weight}), tmp_path, Storage())
    peak = float((weight.abs().amax(1) / weight.square().mean(1).sqrt()).mean())
    load_method("hadamard").fold(task, {"seed": 0})  # type: ignore[union-attr] - a Transform
    turned = task.weights[name]
    assert float((turned.abs().amax(1) / turned.square().mean(1).sqrt()).mean()) < 0.6 * peak
