"""Layers removed: what stays computes what it computed, and the chosen ones are those that measuring finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from prune_tasks import TOKENS, asked, described_logits, prune_task, tiny
from scipy.special import log_softmax
from tiny_models import held_on

from edgepress.errors import InputError
from edgepress.exporter.methods.shrink import depth
from edgepress.exporter.methods.shrink.depth import METHOD, keep_layers, layers_left
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.streams.streams import embedded, pass_layers

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("depth")


def skipped(task: PruneTask, kept: list[int], tokens: np.ndarray) -> np.ndarray:
    """Logits of the original, the layers that are not kept passed over."""
    tables = network.rotaries(task.decoder, len(tokens))
    with torch.no_grad():
        x = network.embed(task.decoder, task.read, torch.from_numpy(tokens)[None])
        for index in kept:
            layer = task.decoder.layers[index]
            x = network.layer_forward(layer, task.read, x, tables)
        return network.head_forward(task.decoder, task.read, x)[0].numpy()


@pytest.mark.parametrize("name", held_on("depth"))
def test_removal_is_skipping(name: str, home: Path, tmp_path: Path) -> None:
    """Each layer that stays keeps its window, its rope and its scale, whatever its number becomes: all pairs tried."""
    count = len(prune_task(tiny(name, home), tmp_path / "look").decoder.layers)
    for number, kept in enumerate(([1, 2], [0, count - 1], [count - 1])):
        if count == len(kept):
            continue
        task = prune_task(tiny(name, home), tmp_path / str(number))
        keep_layers(task, kept)
        assert task.written is not None
        expected = skipped(task, kept, TOKENS)
        for found in (Reference(task.out).logits(TOKENS), described_logits(*task.written, TOKENS)):
            assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def measured_without(task: PruneTask, tokens: np.ndarray, folder: Path) -> list[float]:
    """KL of transformers' logits, nats a token, of the checkpoint with each single layer removed."""
    expected = [log_softmax(Reference(task.checkpoint.directory).logits(row).astype(np.float64), 1) for row in tokens]
    found = []
    for index in range(len(task.decoder.layers)):
        one = prune_task(task.checkpoint.directory, folder / str(index))
        keep_layers(one, [i for i in range(len(task.decoder.layers)) if i != index])
        reference = Reference(one.out)
        kl = 0.0
        for row, log_p in zip(tokens, expected, strict=True):
            log_q = log_softmax(reference.logits(row).astype(np.float64), 1)
            kl += float((np.exp(log_p) * (log_p - log_q)).sum())
        found.append(kl / tokens.size)
    return found


@pytest.mark.parametrize("name", ["llama", "gemma3_text-version4", "smollm3", "gpt2", "qwen2-windows-yarn"])
def test_losses_are_what_removing_each_layer_really_costs(name: str, home: Path, tmp_path: Path) -> None:
    """Every single layer is removed from the checkpoint and measured by transformers: the same prices and rank."""
    task = prune_task(tiny(name, home), tmp_path / "task")
    tokens = task.tokens(96)
    measured = measured_without(task, tokens, tmp_path)
    everything = list(range(len(measured)))
    with embedded(task.checkpoint, task.decoder, tokens, tmp_path / "whole.f32", task.device) as stream:
        pass_layers(task.checkpoint, task.decoder, [stream])
        prices = depth.losses_without(task, tokens, everything, stream)
    np.testing.assert_allclose(prices, measured, rtol=1e-3)
    METHOD.run(task, {**METHOD.options, "by": "loss", "layers": len(measured) - 1, "tokens": 96})
    assert task.report["removed_layers"] == [int(np.argmin(measured))]
    assert task.report["kl"] == pytest.approx(min(measured), rel=1e-3)


def test_loss_is_tried_again_after_each_layer(home: Path, tmp_path: Path) -> None:
    """Two of four layers: the second is the best with the first one gone, by brute force over what is left."""
    task = prune_task(tiny("gemma3_text-version4", home), tmp_path / "task")
    tokens = task.tokens(96)
    log_p = [log_softmax(skipped(task, [0, 1, 2, 3], row).astype(np.float64), 1) for row in tokens]

    def kl(kept: list[int]) -> float:
        log_q = [log_softmax(skipped(task, kept, row).astype(np.float64), 1) for row in tokens]
        return float(sum((np.exp(p) * (p - q)).sum() for p, q in zip(log_p, log_q, strict=True))) / tokens.size

    left = [0, 1, 2, 3]
    for _ in range(2):
        costs = [kl([i for i in left if i != gone]) for gone in left]
        left.pop(int(np.argmin(costs)))
    METHOD.run(task, {**METHOD.options, "by": "loss", "layers": 2, "tokens": 96})
    assert task.report["removed_layers"] == sorted({0, 1, 2, 3} - set(left))
    assert task.report["kl"] == pytest.approx(min(costs), rel=1e-3)


def test_influence_is_equation_1(home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny("olmo2", home), tmp_path / "task")
    tokens = task.tokens(96)
    found = depth.influences(task, tokens)
    cosines: list[list[float]] = [[], [], []]
    for row in tokens:
        x = network.embed(task.decoder, task.read, torch.from_numpy(row)[None])
        rotaries = network.rotaries(task.decoder, len(row))
        for index, layer in enumerate(task.decoder.layers):
            y = network.layer_forward(layer, task.read, x, rotaries)
            for a, b in zip(x[0].double().numpy(), y[0].double().numpy(), strict=True):
                cosines[index].append(a @ b / np.sqrt((a @ a) * (b @ b)))
            x = y
    np.testing.assert_allclose(found, [1 - np.mean(values) for values in cosines], rtol=1e-4)


def test_a_layer_that_does_nothing_goes_first(home: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in tiny("llama", home).iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.1.{name}.weight"].zero_()
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    for by in ("influence", "loss"):
        task = prune_task(model, tmp_path / by)
        METHOD.run(task, {**METHOD.options, "by": by, "layers": 2})
        assert task.report["removed_layers"] == [1]
        expected = Reference(model).logits(TOKENS)
        assert np.abs(Reference(task.out).logits(TOKENS) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 2, "share": 0.5}, "keep one of them"),
        ({"layers": -1}, "layers must be at least 0"),
        ({"share": 1.5}, "share must be at least 0 and less than 1"),
        ({"share": -0.5}, "share must be at least 0"),
        ({"by": "luck"}, "by must be one of influence, loss"),
        ({"share": 0.1}, "leaves none of 3 layers; give at least 0.33"),
        ({"layers": 3}, "keeps all 3 layers"),
        ({"layers": 7}, "keeps all 3 layers"),
        ({"share": 0.9}, "keeps all 3 layers"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layers_left(3, asked(METHOD, options))
