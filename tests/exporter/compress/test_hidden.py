"""A removed channel of the residual stream is one that is held at zero."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prune_tasks import TOKENS, described_logits, prune_task, tiny
from tiny_models import VARIANTS

from edgepress.errors import InputError
from edgepress.exporter.calibration import network
from edgepress.exporter.checkpoint import read_weight
from edgepress.exporter.compress.hidden import METHOD, channel_scores, keep_channels, size_left
from edgepress.exporter.decoder import Attention, Weight
from edgepress.exporter.pruning.task import PruneTask
from edgepress.exporter.reference import Reference

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


def masked(task: PruneTask, kept: np.ndarray) -> np.ndarray:
    """Logits of the original in which nothing is ever written into the other channels.

    Its norms over heads have the ε that the new config has for all norms.
    """
    gone = np.setdiff1d(np.arange(task.decoder.hidden_size), kept)
    columns = {task.decoder.embedding.name}
    rows = {
        weight.name
        for layer in task.decoder.layers
        for linear in (layer.attention.output, layer.mlp.down)
        for weight in (linear.weight, linear.bias)
        if weight is not None
    }

    def values(weight: Weight) -> torch.Tensor:
        value = torch.from_numpy(read_weight(task.checkpoint, weight).copy())
        if weight.name in columns:
            value[:, gone] = 0
        elif weight.name in rows:
            value[gone] = 0
        return value

    factor = task.decoder.hidden_size / len(kept)
    layers = tuple(replace(layer, attention=with_epsilon(layer.attention, factor)) for layer in task.decoder.layers)
    return network.logits(replace(task.decoder, layers=layers), values, TOKENS)


def with_epsilon(attention: Attention, factor: float) -> Attention:
    """Attention whose norms have an ε that is ``factor`` times as large."""
    if attention.query_norm is None or attention.key_norm is None:
        return attention
    query, key = (replace(norm, epsilon=norm.epsilon * factor) for norm in (attention.query_norm, attention.key_norm))
    return replace(attention, query_norm=query, key_norm=key)


@pytest.mark.parametrize("name", sorted(name for name, v in VARIANTS.items() if v.model_type != "gpt2"))
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
            rotary = None if layer.attention.rope is None else tables[layer.attention.rope]
            x = network.layer_forward(layer, read, x, rotary, tap)
        network.head_forward(decoder, read, x, tap)
    expected = np.zeros(decoder.hidden_size)
    for name, values in inputs.items():
        if not name.endswith(("output", "down")):
            score = np.abs(weights[name]).sum(0) * np.sqrt((np.concatenate(values) ** 2).mean(0))
            expected += score / score.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_channels_that_nobody_uses_go_first(home: Path, tmp_path: Path) -> None:
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
    METHOD.run(task, {**METHOD.options, "size": 48})
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
        ({"size": -1}, "above 0 and below 1"),
        ({"share": 1.0}, "above 0 and below 1"),
        ({"share": 0.1}, "leaves none, in multiples of 32"),
        ({"size": 64}, "keeps all 64 channels"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        size_left(64, {**METHOD.options, **options}, 32)
