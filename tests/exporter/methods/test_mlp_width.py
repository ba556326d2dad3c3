"""Removed channels are masked channels; the ones that stay are the important ones, found by brute force."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prune_tasks import TOKENS, asked, described_logits, prune_task, tiny
from tiny_models import held_on

from edgepress.errors import InputError
from edgepress.exporter.methods.shrink import mlp_width
from edgepress.exporter.methods.shrink.mlp_width import METHOD, choose
from edgepress.exporter.methods.smaller import importance
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.targets import Target, find_target

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlp-width")


def run(task: PruneTask, **options: bool | float | str) -> PruneTask:
    METHOD.run(task, asked(METHOD, options))
    return task


def masked(task: PruneTask, kept: list[np.ndarray]) -> np.ndarray:
    """Logits of the original with the columns of ``down`` that are not kept set to zero."""
    downs = {
        layer.mixer(MLP).down.weight.name: channels for layer, channels in zip(task.decoder.layers, kept, strict=True)
    }

    def values(weight: Weight) -> torch.Tensor:
        value = torch.from_numpy(read_weight(task.checkpoint, weight))
        if weight.name not in downs:
            return value
        out = torch.zeros_like(value)
        out[:, downs[weight.name]] = value[:, downs[weight.name]]
        return out

    return network.logits(task.decoder, values, TOKENS)


@pytest.mark.parametrize("name", held_on("mlp_width"))
def test_removal_is_masking(name: str, home: Path, tmp_path: Path) -> None:
    """Each layer keeps other channels and another number of them; transformers computes the same as the mask."""
    task = prune_task(tiny(name, home), tmp_path / "task")
    generator = np.random.default_rng(1)
    widths = [layer.mixer(MLP).up.weight.shape[0] for layer in task.decoder.layers]
    kept = [np.sort(generator.permutation(width)[: width // 2 + 5 * i]) for i, width in enumerate(widths)]
    mlp_width.keep_channels(task, kept)
    assert task.written is not None
    expected = masked(task, kept)
    for found in (Reference(task.out).logits(TOKENS), described_logits(*task.written, TOKENS)):
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_what_stays_is_stored_bit_for_bit(home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny("llama-bfloat16-gelu", home), tmp_path / "task")
    kept = [np.arange(3, 96, 3)] * 3
    mlp_width.keep_channels(task, kept)
    old, new = task.checkpoint, Checkpoint.open(task.out)
    for name, tensor in new.tensors.items():
        assert tensor.dtype == "BF16"
        source = old.tensors[name]
        raw = source.read(0, source.nbytes).view("<u2").reshape(source.shape)
        if "down_proj" in name:
            raw = raw[:, kept[0]]
        elif ".mlp." in name:
            raw = raw[kept[0]]
        assert tensor.read(0, tensor.nbytes).tobytes() == raw.tobytes(), name


def test_importance_by_activations_is_the_formula(home: Path, tmp_path: Path) -> None:
    """Sⱼ = Σᵣ |W[r, j]| · RMS(xⱼ) within a layer; between layers, in shares of the residual stream."""
    task = prune_task(tiny("llama", home), tmp_path / "task", length=16)
    tokens = task.tokens(64)
    found = importance.activation_scores(task, tokens, MLP)
    inputs: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    after: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for row in tokens:
        x = network.embed(task.decoder, task.read, torch.from_numpy(row)[None])
        rotaries = network.rotaries(task.decoder, len(row))
        for index, layer in enumerate(task.decoder.layers):
            seen: list[torch.Tensor] = []

            def tap(_: object, y: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
                seen.append(y)
                return y

            x = network.layer_forward(layer, task.read, x, rotaries, tap)
            inputs[index].append(seen[-1][0].numpy().astype(np.float64))  # what goes into `down`
            after[index].append(x[0].numpy().astype(np.float64))
    for index, layer in enumerate(task.decoder.layers):
        x = np.concatenate(inputs[index])  # (tokens, channels)
        down = task.read(layer.mixer(MLP).down.weight).numpy().astype(np.float64)
        expected = np.abs(down).sum(0) * np.sqrt((x**2).mean(0)) / np.sqrt((np.concatenate(after[index]) ** 2).mean())
        np.testing.assert_allclose(found[index], expected, rtol=1e-5)


def test_importance_by_loss_is_the_slope_of_the_loss(home: Path, tmp_path: Path) -> None:
    """For one token |∂L/∂x · x| is what scaling that input by 1 + h changes, over h: by finite differences."""
    task = prune_task(tiny("gpt2", home), tmp_path / "task", length=8)
    tokens = task.tokens(8)[:1]
    found = importance.loss_scores(task, tokens, MLP)
    ids = torch.from_numpy(tokens[0])[None]
    values = {weight.name: task.read(weight).double() for weight in task.decoder.weights()}

    def loss(layer_index: int, position: int, channel: int, factor: float) -> float:
        x = network.embed(task.decoder, lambda w: values[w.name], ids)
        for index, layer in enumerate(task.decoder.layers):

            def tap(linears: tuple[object, ...], y: torch.Tensor, here: bool = index == layer_index) -> torch.Tensor:
                if here and linears[0] is task.decoder.layers[layer_index].mixer(MLP).down:
                    y = y.clone()
                    y[0, position, channel] *= factor
                return y

            x = network.layer_forward(layer, lambda w: values[w.name], x, None, tap)
        logits = network.head_forward(task.decoder, lambda w: values[w.name], x)[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))

    step = 1e-4
    for layer_index, channel in ((0, 5), (1, 17), (2, 40)):
        slopes = [
            (loss(layer_index, p, channel, 1 + step) - loss(layer_index, p, channel, 1 - step)) / (2 * step)
            for p in range(8)
        ]
        assert found[layer_index][channel] == pytest.approx(np.abs(slopes).sum() / 8, rel=1e-3)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 9),
    st.floats(0.05, 0.99),
    st.integers(0, 1000),
)
def test_the_most_important_channels_stay(widths: list[int], multiple: int, share: float, seed: int) -> None:
    multiple = min(multiple, *widths)
    generator = np.random.default_rng(seed)
    scores = [generator.random(width) for width in widths]
    if share * sum(widths) < multiple * len(widths):
        return
    kept = choose(scores, share, multiple, uniform=False)
    assert sum(map(len, kept)) <= max(share * sum(widths), multiple * len(widths))
    for score, channels, width in zip(scores, kept, widths, strict=True):
        assert len(channels) >= multiple
        assert len(channels) % multiple == 0 or len(channels) == width
        assert (np.diff(channels) > 0).all()
        rest = np.setdiff1d(np.arange(width), channels)
        assert not rest.size or score[channels].min() >= score[rest].max()
    if multiple == 1:  # then no channel that went, beyond the one that each layer keeps, is better than one that stayed
        extra = [score for score, channels in zip(scores, kept, strict=True) if len(channels) > 1]
        gone = [
            np.delete(score, channels).max()
            for score, channels in zip(scores, kept, strict=True)
            if len(channels) < len(score)
        ]
        if extra and gone:
            lowest = min(
                score[channels].min() for score, channels in zip(scores, kept, strict=True) if len(channels) > 1
            )
            assert lowest >= max(gone)
        assert sum(map(len, kept)) == max(int(share * sum(widths)), len(widths))


def test_uniform_layers_have_one_width(home: Path, tmp_path: Path) -> None:
    task = run(prune_task(tiny("phi3", home), tmp_path / "task"), uniform=True, share=0.5, multiple=8)
    assert task.report["widths"] == [48, 48, 48]
    assert Checkpoint.open(task.out).config["intermediate_size"] == 48


@pytest.mark.parametrize("by", ["activations", "loss"])
def test_dead_channels_go_first(by: str, home: Path, tmp_path: Path) -> None:
    """Half of the channels of each layer feed nothing: removing them changes nothing."""
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in tiny("qwen2", home).iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if "down_proj" in name:
            tensor[:, ::2] = 0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    task = run(prune_task(model, tmp_path / "task"), share=0.5, multiple=8, by=by)
    assert task.report["widths"] == [48, 48, 48]
    expected = Reference(model).logits(TOKENS)
    assert np.abs(Reference(task.out).logits(TOKENS) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share must be more than 0 and less than 1"),
        ({"share": 1.0}, "share must be more than 0 and less than 1"),
        ({"share": 0.1}, "leaves a layer with none"),
        ({"multiple": 97}, "at most the narrowest MLP, 96"),
        ({"multiple": -8}, "multiple must be at least 0"),
        ({"by": "luck"}, "activations, loss"),
        ({"share": 0.2, "uniform": True}, "leaves a layer with none"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float | str], message: str, home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny("llama", home), tmp_path / "task")
    with pytest.raises(InputError, match=message):
        run(task, **options)
    assert not task.out.exists()


def test_a_target_that_wants_layers_alike_is_heard(home: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    strict: Target = replace(find_target("x86-cpu"), name="strict", same_layers="its compiler unrolls one layer")
    task = prune_task(tiny("llama", home), tmp_path / "task", targets=(strict,))
    with pytest.raises(InputError, match=r"strict takes layers of one size only \(its compiler .*uniform = true"):
        run(task)
    run(task, uniform=True, share=0.5)
    assert task.report["widths"] == [32, 32, 32]


def test_one_width_cannot_follow_many(home: Path, tmp_path: Path) -> None:
    first = run(prune_task(tiny("llama", home), tmp_path / "one"), multiple=8)
    widths = first.report["widths"]
    assert isinstance(widths, list)
    assert len(set(widths)) > 1
    with pytest.raises(InputError, match=f"differ in width already .{min(widths)} to {max(widths)}"):
        run(prune_task(first.out, tmp_path / "two"), uniform=True, multiple=8)
    assert run(prune_task(first.out, tmp_path / "three"), multiple=8).report["widths"] != widths
