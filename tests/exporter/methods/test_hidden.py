"""A removed channel of the residual stream is one that is held at zero."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prune_tasks import TOKENS, asked, described_logits, prune_task, tiny
from tiny_models import held_on

from edgepress.errors import InputError
from edgepress.exporter.methods.shrink.hidden import METHOD, channel_scores, keep_channels, size_left
from edgepress.exporter.methods.smaller.importance import stream_loss_scores
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Block, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.model.parts.tree import changed, every
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


def masked(task: PruneTask, kept: np.ndarray) -> np.ndarray:
    """Logits of the original in which nothing is ever written into the other channels.

    Norms inside its mixers have the ε that the new config has for all norms.
    """
    gone = np.setdiff1d(np.arange(task.decoder.hidden_size), kept)
    columns = {task.decoder.embedding.name}
    rows = {
        weight.name
        for layer in task.decoder.layers
        for block in layer.blocks
        for weight in every(Weight, block.mixer.output_projections)
    }

    def values(weight: Weight) -> torch.Tensor:
        value = torch.from_numpy(read_weight(task.checkpoint, weight).copy())
        if weight.name in columns:
            value[:, gone] = 0
        elif weight.name in rows:
            value[gone] = 0
        return value

    factor = task.decoder.hidden_size / len(kept)
    layers = changed(Block, task.decoder.layers, lambda block: replace(block, mixer=with_epsilon(block.mixer, factor)))
    return network.logits(replace(task.decoder, layers=layers), values, TOKENS)


def with_epsilon(mixer: Mixer, factor: float) -> Mixer:
    """A mixer whose norms have an ε that is ``factor`` times as large; latent attention's is no key of the config."""
    if mixer.kind == "latent_attention":
        return mixer
    return changed(Norm, mixer, lambda norm: replace(norm, epsilon=norm.epsilon * factor))


@pytest.mark.parametrize("name", held_on("hidden"))
def test_removal_is_masking(name: str, home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny(name, home), tmp_path / "task")
    kept = np.sort(np.random.default_rng(2).permutation(task.decoder.hidden_size)[:40])
    keep_channels(task, kept)
    assert task.written is not None
    expected = masked(task, kept)
    for found in (Reference(task.out).logits(TOKENS), described_logits(*task.written, TOKENS)):
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_importance_is_the_formula(home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny("smollm3-windows", home), tmp_path / "task")
    tokens = task.tokens(96)
    found = channel_scores(task, tokens)
    decoder, read = task.decoder, task.read
    inputs: dict[str, list[np.ndarray]] = {}
    weights: dict[str, np.ndarray] = {}

    def tap(linears: tuple, y: torch.Tensor) -> torch.Tensor:  # type: ignore[type-arg]
        for linear in linears:
            inputs.setdefault(linear.weight.name, []).append(y[0].double().numpy())
            weights[linear.weight.name] = read(linear.weight).double().numpy()
        return y

    tables = network.rotaries(decoder, tokens.shape[1])
    for row in tokens:
        x = network.embed(decoder, read, torch.from_numpy(row)[None])
        for layer in decoder.layers:
            x = network.layer_forward(layer, read, x, tables, tap)
        network.head_forward(decoder, read, x, tap)
    expected = np.zeros(decoder.hidden_size)
    for name, values in inputs.items():
        if not name.endswith(("output", "down")):
            score = np.abs(weights[name]).sum(0) * np.sqrt((np.concatenate(values) ** 2).mean(0))
            expected += score / score.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "granite", "olmo2"])
def test_importance_by_loss_is_the_slope_of_the_loss(name: str, home: Path, tmp_path: Path) -> None:
    """Of all that is written into a channel at a token, scaled by 1 + h: by finite differences, in float64."""
    task = prune_task(tiny(name, home), tmp_path / "task", length=8)
    decoder, tokens = task.decoder, task.tokens(8)[:1]
    found = stream_loss_scores(task, tokens)
    assert found.shape == (decoder.hidden_size,)
    ids = torch.from_numpy(tokens[0])[None]
    values = {weight.name: task.read(weight).double() for weight in decoder.weights()}
    tables = {
        key: operations.Rotary(table.cos.double(), table.sin.double())
        for key, table in network.rotaries(decoder, tokens.shape[1]).items()
    }

    def loss(position: int, channel: int, factor: float) -> float:
        factors = torch.ones(1, tokens.shape[1], decoder.hidden_size, dtype=torch.float64)
        factors[0, position, channel] = factor
        x = network.embed(decoder, lambda w: values[w.name], ids) * factors
        for layer in decoder.layers:
            attended = changed(MLP, layer, lambda mlp: silent(mlp, values))  # attention only: nothing is added after it
            half = network.layer_forward(attended, lambda w: values[w.name], x, tables)
            x = x + (half - x) * factors
            after = network.layer_forward(unattended(layer, values), lambda w: values[w.name], x, tables)
            x = x + (after - x) * factors
        logits = network.head_forward(decoder, lambda w: values[w.name], x)[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))

    step = 1e-5
    for channel in (0, 13, 50):
        slopes = [
            (loss(position, channel, 1 + step) - loss(position, channel, 1 - step)) / (2 * step)
            for position in range(tokens.shape[1])
        ]
        assert found[channel] == pytest.approx(np.abs(slopes).sum() / tokens.shape[1], rel=1e-3, abs=1e-7)


def silent(mlp: MLP, values: dict[str, torch.Tensor]) -> MLP:
    """An MLP that adds nothing."""
    name = f"{mlp.down.weight.name}/zero"
    values[name] = torch.zeros_like(values[mlp.down.weight.name])
    return replace(mlp, down=Linear(replace(mlp.down.weight, name=name)))


def unattended(layer: Layer, values: dict[str, torch.Tensor]) -> Layer:
    """A layer whose attention adds nothing."""
    weight = layer.mixer(Attention).output.weight
    values[f"{weight.name}/zero"] = torch.zeros_like(values[weight.name])
    output = Linear(replace(weight, name=f"{weight.name}/zero"))
    return changed(Attention, layer, lambda attention: replace(attention, output=output))


@pytest.mark.parametrize("by", ["activations", "loss"])
def test_channels_that_nobody_uses_go_first(by: str, home: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in tiny("llama", home).iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if "embed_tokens" in name:
            tensor[:, 1::4] = 0
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[1::4] = 0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    task = prune_task(model, tmp_path / "task")
    METHOD.run(task, {**METHOD.options, "size": 48, "by": by})
    assert task.report["importance_kept"] == 1
    expected = Reference(model).logits(TOKENS)
    assert np.abs(Reference(task.out).logits(TOKENS) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_layer_norms_are_refused(home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny("gpt2", home), tmp_path / "task")
    with pytest.raises(InputError, match="hidden cannot prune gpt2: its layer norms"):
        METHOD.run(task, METHOD.options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 32, "share": 0.5}, "keep one of them"),
        ({"size": -1}, "size must be at least 0"),
        ({"share": 1.0}, "share must be at least 0 and less than 1"),
        ({"by": "luck"}, r"\[options.hidden\] by must be one of activations, loss, not 'luck'"),
        ({"share": 0.1}, "leaves none, in multiples of 32"),
        ({"size": 64}, "keeps all 64 channels"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        size_left(64, asked(METHOD, options), 32)
