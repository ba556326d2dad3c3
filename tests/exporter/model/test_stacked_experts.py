"""Experts whose matrices a checkpoint has in one tensor are those that it might have apart."""

from pathlib import Path

import numpy as np
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import check_tensors, read_weight
from edgepress.exporter.source.checkpoint import Checkpoint

COUNT, LAYERS = 6, 3


def test_experts_in_stacks_are_the_same_weights(tmp_path: Path) -> None:
    apart, stacked = (tiny_models.save("olmoe", tmp_path / name) for name in ("apart", "stacked"))
    tensors = load_file(stacked / "model.safetensors")
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.mlp.experts"
        matrices = {
            role: torch.stack([tensors.pop(f"{prefix}.{number}.{role}_proj.weight") for number in range(COUNT)])
            for role in ("gate", "up", "down")
        }
        tensors[f"{prefix}.gate_up_proj"] = torch.cat([matrices["gate"], matrices["up"]], dim=1).contiguous()
        tensors[f"{prefix}.down_proj"] = matrices["down"].contiguous()
    save_file(tensors, stacked / "model.safetensors", {"format": "pt"})
    checkpoints = [Checkpoint.open(path) for path in (apart, stacked)]
    first, second = (read_decoder(checkpoint) for checkpoint in checkpoints)
    check_tensors(checkpoints[1], second.weights())
    assert any(part.index == COUNT - 1 for weight in second.weights() for part in weight.parts)
    for one, other in zip(first.weights(), second.weights(), strict=True):
        np.testing.assert_array_equal(read_weight(checkpoints[0], one), read_weight(checkpoints[1], other))
    tokens = np.arange(3, 15)
    np.testing.assert_array_equal(Reference(apart).logits(tokens), Reference(stacked).logits(tokens))
