"""The torch network against transformers, for every architecture and variant that there is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import VARIANTS, save

from edgepress.exporter.model import network
from edgepress.exporter.model.description import layer_groups
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint

TOKENS = np.random.default_rng(0).integers(3, 300, 40).astype(np.int64)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_network_gives_transformers_logits(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    decoder = read_decoder(checkpoint)

    def values(weight: Weight) -> torch.Tensor:
        return torch.from_numpy(read_weight(checkpoint, weight))

    tokens = torch.from_numpy(TOKENS)[None]
    rotaries = network.rotaries(decoder, tokens.shape[1])
    x = network.embed(decoder, values, tokens)
    seen: list[int] = []

    def tap(linears: tuple[object, ...], y: torch.Tensor) -> torch.Tensor:
        seen.append(len(linears))
        return y

    for layer in decoder.layers:
        x = network.layer_forward(layer, values, x, rotaries, tap)
    found = network.head_forward(decoder, values, x)[0].numpy()
    expected = Reference(tmp_path).logits(TOKENS)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    assert len(seen) == sum(len(layer_groups(layer)) for layer in decoder.layers)
