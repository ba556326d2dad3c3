"""Layers that overflow float16: each place is seen, against magnitudes of a float64 interpreter."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import tiny_models
from oracles_decoder import forward

from edgepress.exporter.learn.calibration.overflow import LARGEST, MARGIN, layers_in_float32
from edgepress.exporter.model.description import Decoder, Linear, Weight
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint

Change = dict[str, float]  # factors by the weight's name
TOKENS = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, (3, 24))


@dataclass(frozen=True)
class Model:
    decoder: Decoder
    checkpoint: Checkpoint

    def read(self, change: Change) -> Callable[[Weight], np.ndarray]:
        return lambda weight: read_weight(self.checkpoint, weight) * np.float32(change.get(weight.name, 1))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    home, made = tmp_path_factory.mktemp("overflow"), dict[str, Model]()

    def model(name: str) -> Model:
        if name not in made:
            checkpoint = Checkpoint.open(tiny_models.save(name, home / name))
            made[name] = Model(read_decoder(checkpoint), checkpoint)
        return made[name]

    return model


def inputs_in_float64(model: Model, change: Change) -> dict[str, float]:
    """The largest magnitude that goes into each projection, by its weight's name."""
    found: dict[str, float] = {}
    factors = {part.tensor: change[weight.name] for weight in model.decoder.weights() if weight.name in change
               for part in weight.parts}  # fmt: skip

    def read(name: str) -> np.ndarray:
        tensor = model.checkpoint.tensors[name]
        return tensor.rows(0, tensor.shape[0]) * np.float32(factors.get(name, 1))

    def see(linear: Linear, x: np.ndarray) -> np.ndarray:
        found[linear.weight.name] = max(found.get(linear.weight.name, 0), float(np.abs(x).max()))
        return x

    for row in TOKENS:
        forward(model.decoder, read, row, rounding=see)
    return found


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "gpt2", "olmo2", "granite"])
def test_nothing_is_kept_of_a_model_of_ordinary_size(models: Callable[[str], Model], name: str) -> None:
    model = models(name)
    assert layers_in_float32(model.decoder, model.read({}), TOKENS, "a text") == {}


def test_the_magnitude_is_that_of_float64(models: Callable[[str], Model]) -> None:
    model = models("llama")
    change = {"layers.1.mlp.up": 3e4, "layers.1.mlp.down": 1 / 3e4}
    expected = inputs_in_float64(model, change)["layers.1.mlp.down"]
    assert expected > LARGEST / MARGIN
    kept = layers_in_float32(model.decoder, model.read(change), TOKENS, "a text")
    assert kept.keys() == {"layers.1"}
    found = re.fullmatch(
        r"what goes into layers\.1\.mlp\.down reaches (\S+) on 72 tokens of a text, above 16376: float16 ends at "
        r"65504, and unseen text gets a margin of 4",
        kept["layers.1"],
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(expected, rel=1e-4)


def test_the_limit_is_a_quarter_of_what_float16_holds(models: Callable[[str], Model]) -> None:
    model = models("llama")
    change = {"layers.1.mlp.up": 1e4, "layers.1.mlp.down": 1e-4}
    reached = inputs_in_float64(model, change)["layers.1.mlp.down"]
    for share, kept in ((0.999, set()), (1.001, {"layers.1"})):
        factor = share * LARGEST / MARGIN / reached
        scaled = {"layers.1.mlp.up": 1e4 * factor, "layers.1.mlp.down": 1e-4 / factor}
        assert layers_in_float32(model.decoder, model.read(scaled), TOKENS, "a text").keys() == kept


@pytest.mark.parametrize(
    ("name", "change", "what", "kept"),
    [
        ("llama", {"embedding": 1e6}, "the residual stream", {0, 1, 2}),
        ("llama", {"layers.0.attention.qkv": 5e4, "layers.0.attention.output": 2e-5}, "attention.qkv gives", {0}),
        ("llama", {"layers.0.attention.output": 5e4}, "what layers.0.attention.output gives", {0, 1, 2}),
        ("llama", {"layers.1.mlp.down": 5e4}, "what layers.1.mlp.down gives", {1, 2}),
        ("gpt2", {"layers.2.mlp.up": 5e4, "layers.2.mlp.down": 2e-5}, "what layers.2.mlp.up gives", {2}),
        # the norm after it makes up for it, so that no other place is large
        ("gemma3_text", {"layers.1.mlp.down": 5e4}, "what layers.1.mlp.down gives", {1}),
        ("gemma3_text", {"layers.1.mlp_post_norm": 1e4}, "the residual stream", {1, 2}),
        ("qwen3", {"layers.2.attention.key_norm": 5e3}, "the bound of what layers.2.attention.key_norm gives", {2}),
        ("llama", {"layers.1.mlp.up": float("nan")}, "reaches nan", {1, 2}),
    ],
)
def test_every_place_is_seen(
    models: Callable[[str], Model], name: str, change: Change, what: str, kept: set[int]
) -> None:
    model = models(name)
    assert set(change) <= {weight.name for weight in model.decoder.weights()}
    found = layers_in_float32(model.decoder, model.read(change), TOKENS, "a text")
    assert set(found) == {f"layers.{index}" for index in kept}
    assert what in found[f"layers.{min(kept)}"]


def test_a_weight_beyond_the_end_is_named(models: Callable[[str], Model]) -> None:
    model = models("llama")
    read = model.read({"layers.1.mlp_norm": 1e5, "layers.1.mlp.up": 1e-5, "layers.1.mlp.gate": 1e-5})
    found = layers_in_float32(model.decoder, read, TOKENS, "a text")
    assert found.keys() == {"layers.1"}
    assert found["layers.1"].startswith("layers.1.mlp_norm holds ")
