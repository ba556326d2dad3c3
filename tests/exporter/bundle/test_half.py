"""Weights in float16: half the bytes, the reference's logits, and an error where they do not fit."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from safetensors.numpy import load_file, save_file

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model.reference import Reference
from edgepress.runtime import evaluate


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])  # tied and not, and one that is stored transposed
def test_half_the_bytes_and_the_reference_logits(tmp_path: Path, name: str) -> None:
    checkpoint = tiny_models.save(name, tmp_path / "checkpoint")
    manifest = export(checkpoint, out=tmp_path / "out", recipe="fp16", check=True)
    assert manifest.parity is not None
    assert float(str(manifest.parity["graph_difference"])) < 1e-5
    for tensor in manifest.tensors:
        count, half = int(np.prod(tensor["shape"])), tensor["kind"] in {"linear", "embedding", "head"}
        assert tensor["bytes_after"] == count * (2 if half else 4)
        assert tensor["form"] == ("half" if half else "float")
    plan = decide(checkpoint, target="arm64-cpu", recipe="fp16").plan
    stored = StoredWeights(tmp_path / "out" / DATA_FILE, plan)
    for source, original in load_file(checkpoint / "model.safetensors").items():
        if original.ndim == 2 and "wpe" not in source:
            assert np.array_equal(stored(source), original.astype(np.float16).astype(np.float32))
    reference = Reference(checkpoint)
    for prepared in (False, True):
        result = evaluate(
            tmp_path / "out", [tiny_models.TEXT], context=64, stride=32, reference=reference, prepared=prepared
        )
        assert result.kl is not None
        assert result.kl < 1e-5


def test_a_weight_beyond_float16_is_named_and_may_stay_float32(tmp_path: Path) -> None:
    checkpoint = tiny_models.save("llama", tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e5
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up holds 100000, and float16 ends at 65504.*bits = 32"):
        export(checkpoint, out=tmp_path / "out", recipe="fp16")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[weights]\nbits = 16\n[[override]]\nmatch = "layers.1.mlp.up"\nbits = 32\n', encoding="utf-8")
    manifest = export(checkpoint, out=tmp_path / "out", recipe=recipe)
    forms = {str(tensor["name"]): tensor["form"] for tensor in manifest.tensors}
    assert (forms["layers.1.mlp.up"], forms["layers.1.mlp.down"]) == ("float", "half")
