"""MXFP4, against transformers' own conversion of gpt-oss."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model.network import logits
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import mxfp4
from edgepress.exporter.source.stored import StoredTensor, read_header


def read(folder: Path, stored: dict[str, torch.Tensor]) -> dict[str, StoredTensor]:
    save_file(stored, folder / "model.safetensors")
    tensors = read_header(folder / "model.safetensors")
    mxfp4.read(Config({"quant_method": "mxfp4"}), tensors)
    return tensors


def test_experts_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    blocks = torch.from_numpy(rng.integers(0, 256, (3, 10, 2, 16), np.uint8))
    scales = torch.from_numpy(rng.integers(110, 140, (3, 10, 2), np.uint8))
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    name = "model.layers.0.mlp.experts.down_proj"
    tensors = read(tmp_path, {f"{name}_blocks": blocks, f"{name}_scales": scales})
    assert [*tensors] == [name]
    assert tensors[name].shape == expected.shape == (3, 64, 10)
    np.testing.assert_array_equal(tensors[name].rows(0, 3), expected)
    np.testing.assert_array_equal(tensors[name].rows(1, 2), expected[1:2])
    np.testing.assert_array_equal(tensors[name].turned(2).rows(3, 7), expected[2].T[3:7])  # as they are used
    stacked = replace(tensors[name], shape=(3 * 64, 10))  # as parts of a stack are read
    for start, stop in ((0, 192), (5, 40), (60, 130), (191, 192)):
        np.testing.assert_array_equal(stacked.rows(start, stop), expected.reshape(-1, 10)[start:stop])


@pytest.mark.parametrize(
    ("blocks", "scales", "says"),
    [
        (torch.zeros(3, 10, 2, 8).byte(), torch.zeros(3, 10, 2).byte(), r"U8 \(experts, rows, groups, 16\)"),
        (torch.zeros(3, 10, 2, 16).byte(), torch.zeros(3, 10, 3).byte(), r"are U8 \[3, 10, 2\]"),
        (torch.zeros(3, 10, 2, 16).byte(), None, "x_scales is not"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, blocks: torch.Tensor, scales: torch.Tensor | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path, {"x_blocks": blocks} | ({} if scales is None else {"x_scales": scales}))


def test_a_scale_that_is_no_number_is_named(tmp_path: Path) -> None:
    scales = torch.full((2, 10, 2), 127).byte()
    scales[1, 4, 0] = 255
    tensors = read(tmp_path, {"x_blocks": torch.zeros(2, 10, 2, 16).byte(), "x_scales": scales})
    assert tensors["x"].turned(1).rows(0, 4).shape == (4, 64)
    with pytest.raises(InputError, match=r"x_scales .* expert 1 has a scale that is no number \(255\)"):
        tensors["x"].rows(1, 2)


# ---- gpt-oss as it is published --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny gpt-oss whose experts are random blocks and scales, bit patterns of all kinds."""
    folder = tiny_models.save("gpt_oss", tmp_path_factory.mktemp("mxfp4") / "model")
    path, rng = folder / "model.safetensors", np.random.default_rng(2)
    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        shape = (experts, rows, columns // 32)
        tensors[f"{name}_blocks"] = torch.from_numpy(rng.integers(0, 256, (*shape, 16), np.uint8))
        tensors[f"{name}_scales"] = torch.from_numpy(rng.integers(121, 125, shape, np.uint8))
    save_file(tensors, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_logits_are_those_of_transformers_dequantized_model(published: Path) -> None:
    tokens = torch.arange(3, 27)
    model = AutoModelForCausalLM.from_pretrained(
        published, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32
    )
    with torch.no_grad():
        expected = model.eval()(tokens[None]).logits[0].numpy()
    checkpoint = Checkpoint.open(published)
    found = logits(
        read_decoder(checkpoint), lambda weight: torch.from_numpy(read_weight(checkpoint, weight)), tokens.numpy()
    )
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_keep_stores_experts_in_8_bits_bit_for_bit(published: Path, tmp_path: Path) -> None:
    plan = decide(published, target="x86-cpu", recipe="keep").plan
    export(published, out=tmp_path / "bundle", target="x86-cpu", recipe="keep", threads=1)
    stored, original = StoredWeights(tmp_path / "bundle" / DATA_FILE, plan), load_file(published / "model.safetensors")
    for role in ("gate_up", "down"):
        name = f"model.layers.1.mlp.experts.{role}_proj"
        blocks, scales = original[f"{name}_blocks"], original[f"{name}_scales"]
        expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
        np.testing.assert_array_equal(stored(name), expected)
        reasons = [tensor.reason for tensor in plan.tensors if tensor.weight.name == f"layers.1.experts.0.{role}"]
        assert reasons == ["[weights]: codes and scales unchanged (MXFP4, groups of 32)"]
    attention = [tensor.reason for tensor in plan.tensors if tensor.weight.name == "layers.1.attention.output"]
    assert "rounded to nearest" in attention[0]
