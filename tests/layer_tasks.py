"""Tiny models in torch and single layers of them with text, for tests of methods that work layer by layer."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tiny_models import save
from torch import Tensor

from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.methods.tasks import LayerTask
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Decoder, layer_weights
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.recipe import Recipe, Storage
from edgepress.exporter.source.checkpoint import Checkpoint

TOKENS = torch.from_numpy(np.random.default_rng(0).integers(3, 300, (4, 40)))


@dataclass(frozen=True)
class TinyModel:
    """A tiny model's description and all its weights, float32 by name."""

    decoder: Decoder
    weights: dict[str, Tensor]


@cache
def tiny_model(name: str) -> TinyModel:
    """Make variant ``name`` of :mod:`tiny_models` and read it."""
    with TemporaryDirectory() as directory:
        checkpoint = Checkpoint.open(save(name, Path(directory)))
        decoder = read_decoder(checkpoint)
        return TinyModel(decoder, {weight.name: _read(checkpoint, weight) for weight in decoder.weights()})


def _read(checkpoint: Checkpoint, weight: Weight) -> Tensor:
    return torch.from_numpy(read_weight(checkpoint, weight))


def logits(decoder: Decoder, weights: dict[str, Tensor], tokens: Tensor = TOKENS) -> Tensor:
    """Logits in float64, (sequences, length, vocabulary)."""
    exact = {name: weight.double() for name, weight in weights.items()}

    def values(weight: Weight) -> Tensor:
        owner = decoder.embedding if weight.kind == "head" and decoder.tied else weight
        return exact[owner.name]

    rotaries = network.rotaries(decoder, tokens.shape[1])
    x = network.embed(decoder, values, tokens)
    for layer in decoder.layers:
        x = network.layer_forward(layer, values, x, rotaries)
    return network.head_forward(decoder, values, x)


def plan(decoder: Decoder, storage: Storage) -> Plan:
    """Every projection, embedding and head stored alike."""
    return make_plan(decoder, Recipe("test", storage, storage, storage), lambda _: 4)


def layer_task(model: TinyModel, directory: Path, storage: Storage, index: int = 0) -> LayerTask:
    """Layer ``index`` with the embedded tokens as its input, as if it were the first."""
    decoder = model.decoder
    layer = decoder.layers[index]
    x = network.embed(decoder, lambda weight: model.weights[weight.name], TOKENS)
    inputs = Activations(directory / "inputs.f32", tuple(x.shape))
    for batch in inputs.batches():
        inputs.write(batch, x[batch])
    rotaries = network.rotaries(decoder, TOKENS.shape[1])
    return LayerTask(
        index=index,
        layer=layer,
        schemes=plan(decoder, storage).schemes,
        rotaries=rotaries,
        weights={w.name: model.weights.get(w.name, torch.zeros(w.shape)) for w in layer_weights(layer)},
        inputs=inputs,
        reference_inputs=None,
        reference_outputs=None,
        device=torch.device("cpu"),
    )
