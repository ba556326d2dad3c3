"""Names of tensors that checkpoints of one family have in two forms."""

import json
from pathlib import Path

import numpy as np
import tiny_models
from safetensors.torch import load_file, save_file

from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import check_tensors
from edgepress.exporter.source.checkpoint import Checkpoint

TOKENS = np.arange(5, 17)


def test_tables_of_the_first_mamba_checkpoints_have_another_name(tmp_path: Path) -> None:
    folder = tiny_models.save("mamba", tmp_path / "mamba")
    expected = Reference(folder).logits(TOKENS)
    path = folder / "model.safetensors"
    tensors = {name.replace("backbone.embeddings.", "backbone.embedding."): x for name, x in load_file(path).items()}
    assert "backbone.embedding.weight" in tensors
    save_file(tensors, path, {"format": "pt"})
    checkpoint = Checkpoint.open(folder)
    check_tensors(checkpoint, read_decoder(checkpoint).weights())
    assert (Reference(folder).logits(TOKENS) == expected).all()


def test_nemotron_h_is_stored_under_backbone_or_model(tmp_path: Path) -> None:
    folder = tiny_models.save("nemotron_h", tmp_path / "nemotron_h")
    expected = Reference(folder).logits(TOKENS)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    (prefix,) = {name.partition(".")[0] for name in tensors} - {"lm_head"}
    other = {"backbone": "model", "model": "backbone"}[prefix]
    save_file({name.replace(f"{prefix}.", f"{other}.", 1): x for name, x in tensors.items()}, path, {"format": "pt"})
    checkpoint = Checkpoint.open(folder)
    check_tensors(checkpoint, read_decoder(checkpoint).weights())
    assert (Reference(folder).logits(TOKENS) == expected).all()
    assert "hybrid_override_pattern" in json.loads((folder / "config.json").read_text())
