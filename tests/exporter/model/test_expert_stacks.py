"""Experts that a checkpoint has in two stacks are those of one that has a matrix for each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VOCABULARY, save

from edgepress.exporter.model.network import logits
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint

TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, 24)


def described(folder: Path) -> np.ndarray:
    checkpoint = Checkpoint.open(folder)
    return logits(read_decoder(checkpoint), lambda weight: torch.from_numpy(read_weight(checkpoint, weight)), TOKENS)


def stack(folder: Path) -> None:
    """Join the matrices of a layer's experts, gate above up, as Qwen3.5 is published."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    experts = sorted({name.split(".experts.")[0] for name in tensors if ".experts." in name})
    for place in experts:
        count = sum(name.startswith(f"{place}.experts.") for name in tensors) // 3
        gate, up, down = (
            torch.stack([tensors.pop(f"{place}.experts.{i}.{role}_proj.weight") for i in range(count)])
            for role in ("gate", "up", "down")
        )
        tensors[f"{place}.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        tensors[f"{place}.experts.down_proj"] = down
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("name", ["qwen3_5_moe_text"])
def test_stacks_are_the_same_experts(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    before = described(tmp_path)
    stack(tmp_path)
    assert np.array_equal(described(tmp_path), before)
    assert np.abs(Reference(tmp_path).logits(TOKENS) - before).max() < 1e-5 * np.abs(before).max()
